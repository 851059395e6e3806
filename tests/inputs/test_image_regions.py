"""Regions of the image from masks, and patches of all their positions at once."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.image_regions import RASTER, changed_share, coverage, image_regions, on_image
from vlmtrace.inputs.named_positions import named_positions


@pytest.fixture
def llava(model_store):
    return model_store.shared("llava")


@pytest.fixture(params=["llava", "random_blip"])
def model(request):
    return request.getfixturevalue(request.param)


def rectangle(width: int, height: int, rows: slice, columns: slice) -> Image.Image:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[rows, columns] = 255
    return Image.fromarray(mask)


def grid(rows: int, columns: int) -> np.ndarray:
    row, column = (index.ravel() for index in np.indices((rows, columns)))
    return np.stack([row / rows, column / columns, (row + 1) / rows, (column + 1) / columns], axis=1)


# Masks ------------------------------------------------------------------------


def test_coverage_is_the_exact_share_of_each_box():
    # Boxes are 10 × 8 pixels; the rectangle covers half of the first row's height and 1.5 boxes of its width.
    mask = rectangle(32, 20, slice(0, 5), slice(0, 12))
    assert coverage(mask, grid(2, 4)) == pytest.approx([0.5, 0.25, 0, 0, 0, 0, 0, 0])
    # Seven columns do not divide into two boxes: the middle one belongs half to each, (3 + ½) of 3½ and ½ of 3½.
    assert coverage(rectangle(7, 2, slice(0, 2), slice(0, 4)), grid(1, 2)) == pytest.approx([1, 1 / 7])


def test_a_position_without_a_place_is_covered_by_nothing():
    boxes = np.vstack([np.full(4, np.nan), grid(1, 1)])
    assert coverage(rectangle(4, 4, slice(0, 4), slice(0, 4)), boxes).tolist() == [0, 1]


def test_soft_edges_of_a_mask_count_as_in_or_out():
    mask = Image.fromarray(np.array([[0, 100, 200, 255]], dtype=np.uint8))
    assert coverage(mask, grid(1, 4)).tolist() == [0, 0, 1, 1]


# Pictures ------------------------------------------------------------------------


def test_a_grid_is_drawn_as_it_is():
    values = np.arange(12.0).reshape(2, 6)
    boxes = np.vstack([np.full(4, np.nan), grid(2, 3)])
    with_class = np.hstack([np.full((2, 1), 9.0), values])
    assert np.array_equal(on_image(with_class, boxes), values.reshape(2, 2, 3))


def test_a_cropped_image_is_drawn_where_it_was_seen():
    # The model sees the middle half of the width only: one box, spread over the middle half of the columns.
    picture = on_image(np.array([3.0]), np.array([[0, 0.25, 1, 0.75]]))
    assert picture.shape == (RASTER, RASTER) and picture.sum() == pytest.approx(3)
    assert (picture[:, : RASTER // 4] == 0).all() and (picture[:, RASTER // 4 : RASTER // 2] > 0).all()


def test_nothing_to_draw_is_said():
    with pytest.raises(VlmtraceError, match="No image token stands for a place"):
        on_image(np.ones(3), np.full((3, 4), np.nan))


# Regions ------------------------------------------------------------------------


def test_regions_follow_the_masks(model, random_pairs, tmp_path):
    """The left three fifths are the object, the upper right corner is the distractor."""
    width, height = Image.open(random_pairs["clean_image"].iloc[0]).size
    right, low = round(0.6 * width), round(0.6 * height)
    rectangle(width, height, slice(0, height), slice(0, right)).save(tmp_path / "object.png")
    rectangle(width, height, slice(0, low), slice(right, width)).save(tmp_path / "distractor.png")
    pair = random_pairs.iloc[0].to_dict() | {
        "clean_object_mask": str(tmp_path / "object.png"),
        "clean_distractor_mask": str(tmp_path / "distractor.png"),
    }
    inputs = run_inputs(model, pd.DataFrame([pair]), "clean")
    regions = image_regions(model, pair, inputs)
    boxes = model.image_cells(pair["clean_image"], inputs, model.image_block)
    placed = ~np.isnan(boxes[:, 0])
    # On these grids a position is covered by half if its middle is.
    left, upper = boxes[:, [1, 3]].mean(axis=1) < 0.6, boxes[:, [0, 2]].mean(axis=1) < 0.6
    assert np.array_equal(regions["object"], placed & left)
    assert np.array_equal(regions["distractor"], placed & ~left & upper)
    # A position that both cover in part shows neither, and is not the background.
    assert regions["background"].any() and (regions["background"] <= (placed & ~left & ~upper)).all()
    assert regions["image"].all() and regions["object"].sum() > 1


def test_a_small_object_gets_the_position_that_it_covers_most(llava, random_pairs, tmp_path):
    width, height = Image.open(random_pairs["clean_image"].iloc[0]).size
    rectangle(width, height, slice(0, 2), slice(0, 2)).save(tmp_path / "dot.png")
    pair = random_pairs.iloc[0].to_dict() | {"clean_object_mask": str(tmp_path / "dot.png")}
    inputs = run_inputs(llava, pd.DataFrame([pair]), "clean")
    assert image_regions(llava, pair, inputs)["object"].nonzero()[0].tolist() == [0]


def test_a_mask_lies_on_the_upright_photograph(model, random_pairs, tmp_path):
    """A photograph that a telephone took sideways gives the regions and effects of the same one stored upright."""
    upright = Image.open(random_pairs["clean_image"].iloc[0]).convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 6
    upright.save(tmp_path / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png", exif=turned)
    width, height = upright.size
    rectangle(width, height, slice(0, height // 2), slice(0, width // 2)).save(tmp_path / "mask.png")
    found = []
    for name in ("upright.png", "lying.png"):
        masked = {"clean_image": str(tmp_path / name), "clean_object_mask": str(tmp_path / "mask.png")}
        pair = random_pairs.iloc[0].to_dict() | masked | {"clean_distractor_mask": None}
        inputs = run_inputs(model, pd.DataFrame([pair]), "clean")
        found.append(image_regions(model, pair, inputs))
    assert found[0].keys() == found[1].keys() and "object" in found[0]
    for name, positions in found[0].items():
        assert np.array_equal(positions, found[1][name]), f"{name} lies elsewhere on the photograph taken sideways"
    as_it_lies = rectangle(height, width, slice(0, 9), slice(0, 9))
    as_it_lies.save(tmp_path / "mask.png")
    with pytest.raises(VlmtraceError, match="fits the image as it lies in its file: turn it"):
        image_regions(model, pair, inputs)


def test_names_of_positions(llava, random_pairs):
    pair = random_pairs.iloc[0].to_dict()
    inputs = run_inputs(llava, random_pairs.iloc[[0]], "clean")
    found = named_positions(
        llava, pair, "language_model", inputs, ["image", "options", "last", "question", "text", "all", "object"]
    )
    length = inputs["input_ids"].shape[1]
    assert found["all"].sum() == length and found["last"].nonzero()[0].tolist() == [length - 1]
    assert found["options"].sum() >= 2 and not (found["options"] & found["image"]).any()
    assert (found["object"] <= found["image"]).all()
    assert (found["text"] == ~found["image"]).all()
    words = llava.tokenizer.convert_tokens_to_string([token for token, own in zip(
        llava.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist()), found["question"], strict=True) if own
    ])  # fmt: skip
    assert words.strip() == pair["clean_prompt"], "a template is no question, and a question no template"
    with pytest.raises(VlmtraceError, match="Unknown position of language_model 'objct'"):
        named_positions(llava, pair, "language_model", inputs, ["objct"])


# What differs within a pair ------------------------------------------------------------------------


def with_changed_corner(pair: pd.Series, folder, size: int = 12) -> pd.Series:
    """The pair, without masks, whose corrupt image is the clean one with a red square in its lower right corner."""
    with Image.open(pair["clean_image"]) as clean:
        corrupt = clean.convert("RGB")
    corrupt.paste((255, 0, 0), (corrupt.width - size, corrupt.height - size, corrupt.width, corrupt.height))
    path = folder / f"{pair['sample_id']}-changed.png"
    corrupt.save(path)
    masks = [column for column in pair.index if column.endswith("_mask")]
    return pd.Series({**pair.drop(masks), "corrupt_image": str(path)})


def test_changed_positions_are_those_whose_pixels_differ_and_need_no_mask(model, random_pairs, tmp_path):
    pair = with_changed_corner(random_pairs.iloc[0], tmp_path)
    inputs = run_inputs(model, pd.DataFrame([pair]), "clean")
    regions = image_regions(model, pair, inputs)
    boxes = model.image_cells(pair["clean_image"], inputs, model.image_block)
    clean, corrupt = (np.asarray(Image.open(pair[f"{side}_image"]).convert("RGB")) for side in ("clean", "corrupt"))
    expected = []
    for box in boxes:  # naively, pixel by pixel
        if np.isnan(box).any():
            expected.append(False)
            continue
        (top, bottom), (left, right) = box[[0, 2]] * clean.shape[0], box[[1, 3]] * clean.shape[1]
        rows = slice(int(np.floor(top + 0.01)), int(np.ceil(bottom - 0.01)))
        columns = slice(int(np.floor(left + 0.01)), int(np.ceil(right - 0.01)))
        expected.append(bool((clean[rows, columns] != corrupt[rows, columns]).any()))
    assert regions["changed"].tolist() == expected, "a position is changed where, and only where, a pixel differs"
    placed = ~np.isnan(boxes).any(axis=1)
    assert np.array_equal(regions["unchanged"], placed & ~regions["changed"])
    assert regions["unchanged"].any() and "object" not in regions and regions["image"].all()


def test_a_pair_of_equal_images_has_no_changed_position(llava, random_pairs):
    pair = random_pairs.iloc[0]
    inputs = run_inputs(llava, random_pairs.iloc[[0]], "clean")
    same = image_regions(llava, {**pair, "corrupt_image": pair["clean_image"]}, inputs)
    assert "changed" not in same and same["unchanged"].all()
    alone = image_regions(llava, pair.drop("corrupt_image"), inputs)
    assert "changed" not in alone and "unchanged" not in alone


def test_an_image_of_another_size_is_scaled_before_it_is_compared():
    clean = Image.new("RGB", (8, 8), "white")
    assert changed_share(clean, Image.new("RGB", (16, 4), "white"), grid(2, 2)).tolist() == [0, 0, 0, 0]
    assert changed_share(clean, Image.new("RGB", (16, 4), "black"), grid(2, 2)).tolist() == [1, 1, 1, 1]


@pytest.mark.medium
def test_what_the_background_restores_in_layer_0_are_changed_patches():
    """Verbs move the object out of its clean mask: the background restores most, where nothing has been moved yet."""
    model = vt.load_model("tiny-blip")
    pairs = vt.load_pairs("rendered_svo", n=60).query("category == 'verb'").head(4).reset_index(drop=True)
    table = vt.patch_regions(model, pairs, modules=["residual"])
    first = table[table["layer"] == 0].groupby("token_role")["patching_effect"].median()
    assert first["background"] > 0.8 > 0.3 > first["object"], "the clean mask misses what changed"
    assert first["changed"] > 0.95 and abs(first["unchanged"]) < 0.05, "what differs carries all, what does not nothing"


# Patches ------------------------------------------------------------------------


def slow_twin(model):
    twin = type(model)(model.name, model.hf, model.processor)
    twin.uses_fast_sweep = False
    return twin


def test_region_patches_equal_the_reference(model, random_pairs):
    pairs = random_pairs.iloc[[0, 1, 4]]
    regions = ["object", "background", "image", "all"]
    fast, slow = (vt.patch_regions(m, pairs, regions=regions) for m in (model, slow_twin(model)))
    assert fast["token_role"].tolist() == slow["token_role"].tolist() and set(fast["token_role"]) == set(regions)
    worst = (fast["logit_diff"] - slow["logit_diff"]).abs().max()
    assert worst <= 1e-4, f"logit_diff is off by {worst:.2g}"
    assert slow["logit_diff"].abs().max() > 0.05, "the patches change nothing: this proves nothing"


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_heads_of_a_region_equal_the_reference(model_store, random_pairs, name):
    model, pairs = model_store.shared(name), random_pairs.iloc[[0, 1, 4]]
    regions = ["object", "background", "image"]
    fast, slow = (vt.patch_regions(m, pairs, regions=regions, heads=True) for m in (model, slow_twin(model)))
    labels = ["sample_id", "layer", "head", "token_role"]
    pd.testing.assert_frame_equal(fast[labels], slow[labels])
    assert len(fast.drop_duplicates(labels)) == len(fast) == 3 * 3 * len(model.head_block.every_head)
    worst = (fast["logit_diff"] - slow["logit_diff"]).abs().max()
    assert worst <= 1e-4, f"logit_diff is off by {worst:.2g}"
    assert slow["logit_diff"].abs().max() > 0.01, "the patches change nothing: this proves nothing"


def test_a_head_at_all_positions_is_the_whole_head(llava, random_pairs):
    pairs = random_pairs.iloc[:2]
    everywhere = vt.patch_regions(llava, pairs, regions=["all"], heads=True)
    whole = vt.patch_whole_heads(llava, pairs, blocks=[llava.head_block.name])
    pd.testing.assert_frame_equal(everywhere[["sample_id", "layer", "head"]], whole[["sample_id", "layer", "head"]])
    np.testing.assert_allclose(everywhere["logit_diff"], whole["logit_diff"], atol=1e-5)
    with pytest.raises(vt.VlmtraceError, match="block whose heads a sweep patches 'vision_encoder'"):
        vt.patch_regions(llava, pairs, block="vision_encoder", heads=True)


def test_all_positions_of_a_residual_restore_the_clean_answer(llava, random_pairs):
    table = vt.patch_regions(llava, random_pairs.iloc[:3], modules=["residual"], regions=["all"])
    np.testing.assert_allclose(table["patching_effect"], 1, atol=1e-3)
    assert set(table["layer"]) == set(range(llava.blocks["language_model"].n_layers))


def test_a_region_of_one_position_is_that_position(llava, random_pairs):
    pairs = random_pairs.iloc[:2]
    whole = vt.patch_regions(llava, pairs, regions=["last"])
    single = vt.patch_modules(llava, pairs, blocks=["language_model"], positions=["last"])
    np.testing.assert_allclose(whole["logit_diff"], single["logit_diff"], atol=1e-5)
    assert whole["position"].isna().all() and (whole["token"] == "1 positions").all()


def test_a_pair_without_a_mask_has_no_rows_for_the_object(llava, random_pairs):
    pairs = random_pairs.iloc[:2].assign(clean_object_mask=[None, random_pairs["clean_object_mask"].iloc[1]])
    table = vt.patch_regions(llava, pairs, modules=["residual"], regions=["object", "image"])
    rows = table.groupby(["sample_id", "token_role"]).size().unstack(fill_value=0)
    assert rows.loc["pair-0", "object"] == 0 and rows.loc["pair-1", "object"] > 0 and (rows["image"] > 0).all()
