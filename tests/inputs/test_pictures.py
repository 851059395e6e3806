"""Pairs that ask about several images: which image is corrupted, regions by image, pictures side by side."""

import numpy as np
import pandas as pd
import pytest
from fixtures.several_pairs import UNLIKE, two_image_pairs
from PIL import Image

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import read_table, write_table
from vlmtrace.core.schema import validate_pairs
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.image_regions import image_regions, on_image
from vlmtrace.inputs.named_positions import named_positions
from vlmtrace.inputs.pair_runs import encode_pair
from vlmtrace.inputs.pictures import (
    boxes_side_by_side,
    by_image,
    cells,
    images_of,
    masks_side_by_side,
    picture_height,
    side_by_side,
)
from vlmtrace.inputs.units import with_units
from vlmtrace.methods.attention import head_attention
from vlmtrace.pipeline.checkpoints import digest_of, image_state, is_image

LANGUAGE = "language_model"


@pytest.fixture(params=["llava", "qwen2_vl"])
def model(request, model_store):
    return model_store.shared(request.param)


@pytest.fixture
def pairs(tmp_path):
    return two_image_pairs(tmp_path / "two")


# The table ------------------------------------------------------------


def test_lists_are_read_back_as_they_were_written(pairs, tmp_path):
    pairs.loc[1, "clean_object_masks"][0] = None
    write_table(validate_pairs(pairs), tmp_path / "pairs.parquet")
    read = validate_pairs(read_table(tmp_path / "pairs.parquet"))
    assert read["clean_images"].tolist() == pairs["clean_images"].tolist()
    assert read["clean_object_masks"].tolist() == pairs["clean_object_masks"].tolist()
    assert digest_of(read) == digest_of(read.copy())


def test_lists_beside_single_images_in_one_table(pairs, random_pairs, tmp_path):
    both = pd.concat([pairs, random_pairs.iloc[:2]], ignore_index=True)
    write_table(validate_pairs(both), tmp_path / "pairs.parquet")
    read = validate_pairs(read_table(tmp_path / "pairs.parquet"))
    assert [len(images_of(pair)) for pair in read.to_dict("records")] == [2, 2, 2, 1, 1]


def test_arrays_of_another_reader_are_lists(pairs, tmp_path):
    write_table(pairs, tmp_path / "pairs.parquet")
    foreign = pd.read_parquet(tmp_path / "pairs.parquet")
    assert isinstance(foreign["clean_images"].iloc[0], np.ndarray)
    assert images_of(validate_pairs(foreign).iloc[0]) == pairs["clean_images"].iloc[0]
    assert digest_of(foreign) == digest_of(pd.read_parquet(tmp_path / "pairs.parquet")), "addresses are no content"


def test_an_image_of_a_list_that_changes_is_noticed(pairs):
    assert is_image("clean_images") and is_image("clean_object_masks")
    before = image_state(pairs["clean_images"])
    assert len(before) == 6
    Image.new("RGB", (1, 1)).save(pairs["clean_images"].iloc[0][1])
    assert image_state(pairs["clean_images"]) != before


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("corrupt_images", ["a.png"], "clean_images lists 2 images and corrupt_images 1: list as many in both"),
        ("corrupt_images", None, "clean_images lists 2 images and corrupt_images 0"),
        ("clean_image", "z.png", "clean_image is not image 2 of clean_images, the first of those that differ"),
        ("clean_object_masks", ["a.png"], "clean_object_masks lists 1 masks of 2 images"),
        ("clean_images", "a.png", "must hold lists of text, not 'a.png'"),
        ("clean_images", [1, 2], "must hold lists of text"),
    ],
)
def test_lists_that_do_not_agree_are_named(pairs, column, value, said):
    pairs[column] = pairs[column].astype(object)
    pairs.at[0, column] = value
    with pytest.raises(VlmtraceError, match=said):
        validate_pairs(pairs)


def test_half_a_character_in_a_list_is_found(pairs):
    pairs.at[0, "clean_images"] = ["a\ud800.png", "b.png"]
    with pytest.raises(VlmtraceError, match="half a character"):
        validate_pairs(pairs)


def test_pairs_that_share_any_image_are_one_unit(pairs):
    assert with_units(pairs)["unit"].nunique() == 3
    shared = pairs.copy()
    shared.at[2, "clean_images"] = [pairs["clean_images"].iloc[0][0], pairs["clean_images"].iloc[2][1]]
    assert with_units(shared)["unit"].tolist() == ["two-0", "two-1", "two-0"]


# Runs ------------------------------------------------------------


def test_only_the_corrupted_image_differs_between_the_runs(model, pairs):
    for row, changed in ((0, 1), (1, 0)):
        clean, corrupt = encode_pair(model, pairs, row, "image")
        numbers = model.image_numbers(pairs["clean_images"].iloc[row], clean, LANGUAGE)
        moved = (model.image_embeddings(clean) - model.image_embeddings(corrupt))[0].abs().amax(-1).numpy()
        assert moved[numbers == changed].min() > 1e-4 and moved[numbers != changed].max() < 1e-5
        clean, corrupt = encode_pair(model, pairs, row, "text")
        assert (clean["input_ids"] != corrupt["input_ids"]).any()
        assert (clean["pixel_values"] == corrupt["pixel_values"]).all()


def test_unlike_sizes_are_told_by_image(model_store, pairs, tmp_path):
    model = model_store.shared("qwen2_vl")
    Image.new("RGB", (200, 30)).save(tmp_path / "wide.png")
    pairs.at[0, "corrupt_images"] = [pairs["corrupt_images"].iloc[0][0], str(tmp_path / "wide.png")]
    pairs.loc[0, "corrupt_image"] = str(tmp_path / "wide.png")
    with pytest.raises(VlmtraceError, match="Pair 'two-0': Of image 2: The clean image of 36 × 40 pixels"):
        encode_pair(model, pairs, 0, "image")
    usable, aside = vt.check_pairs(model, pairs, ["image"])
    assert len(usable) == 2 and "Of image 2" in aside["reason"].iloc[0]
    same = vt.same_size(model, pairs, tmp_path / "same")
    assert Image.open(same["corrupt_images"].iloc[0][1]).size == (36, 40)
    assert same["corrupt_image"].iloc[0] == same["corrupt_images"].iloc[0][1]
    assert same["corrupt_images"].iloc[0][0] == pairs["corrupt_images"].iloc[0][0]
    assert len(vt.check_pairs(model, same, ["image"])[0]) == 3


def test_a_model_of_one_image_sets_such_pairs_aside(random_blip, pairs):
    _, aside = vt.check_pairs(random_blip, pairs)
    assert len(aside) == 3 and aside["reason"].str.contains("takes one image in a prompt, not 2").all()
    with pytest.raises(VlmtraceError, match=r"Pair 'two-0': .* takes one image in a prompt"):
        vt.patch_modules(random_blip, pairs)


@pytest.mark.medium
def test_pairs_of_one_and_of_two_images_share_a_run(model, pairs, random_pairs):
    both = pd.concat([pairs, random_pairs.iloc[:2]], ignore_index=True)
    evaluated = vt.evaluate(model, both)
    alone = pd.concat([vt.evaluate(model, both.iloc[[i]].reset_index(drop=True)) for i in range(5)], ignore_index=True)
    np.testing.assert_allclose(evaluated["clean_logit_diff"], alone["clean_logit_diff"], atol=1e-4)
    assert [text.count(model.image_placeholder) for text in evaluated["clean_input"]] == [2, 2, 2, 1, 1]
    effects = vt.patch_modules(model, both, modules=["residual"], positions=["image 2", "image", "last"])
    roles = effects.groupby("sample_id")["token_role"].unique().map(set)
    assert roles["two-0"] == {"image 1", "image 2", "last"} and roles["pair-0"] == {"image", "last"}
    first = effects[(effects["sample_id"] == "two-0") & (effects["layer"] == 0) & (effects["token_role"] == "image 1")]
    assert first["logit_diff"].abs().max() < 1e-4 or model.name.endswith("qwen2_vl")


# Regions ------------------------------------------------------------


def test_regions_are_told_by_image(model, pairs):
    pair = pairs.iloc[0].to_dict()
    inputs = run_inputs(model, pairs.iloc[[0]], "clean")
    regions = image_regions(model, pair, inputs)
    numbers = model.image_numbers(pair["clean_images"], inputs, LANGUAGE)
    boxes = model.image_cells(pair["clean_images"], inputs, LANGUAGE)
    assert np.array_equal(regions["image 1"], numbers == 0) and np.array_equal(regions["image 2"], numbers == 1)
    assert regions["image"].all() and "image 1 changed" not in regions
    shown = ~np.isnan(boxes).any(axis=1)
    assert np.array_equal(regions["changed"], (numbers == 1) & shown)
    assert np.array_equal(regions["object"], regions["image 1 object"] | regions["image 2 object"])
    # The masks cover the upper left quarter of each image.
    for name in ("image 1 object", "image 2 object"):
        top, left, bottom, right = boxes[regions[name]].T
        assert ((top + bottom) / 2 < 0.55).all() and ((left + right) / 2 < 0.55).all(), name
    found = named_positions(model, pair, LANGUAGE, inputs, ["image 2 object", "image 2", "image", "options"])
    assert found["image 2"].sum() == (numbers == 1).sum() and found["image"].sum() == len(numbers)
    assert found["image 2 object"].sum() == regions["image 2 object"].sum() > 0
    with pytest.raises(VlmtraceError, match="image 3"):
        named_positions(model, pair, LANGUAGE, inputs, ["image 3"])


def test_masks_without_lists_are_those_of_the_image_that_differs(model, pairs):
    pair = pairs.drop(columns="clean_object_masks").iloc[0].to_dict()
    regions = image_regions(model, pair, run_inputs(model, pairs.iloc[[0]], "clean"))
    assert "image 2 object" in regions and "image 1 object" not in regions
    assert [row.get("clean_object_mask") for row in by_image(pair)] == [None, pair["clean_object_mask"]]


@pytest.mark.medium
def test_effects_of_regions_of_one_image(model, pairs):
    regions = ["image 1", "image 2", "image 2 object", "image"]
    effects = vt.patch_regions(model, pairs.iloc[[0]], modules=["residual"], regions=regions)
    at_entry = effects[effects["layer"] == 0].set_index("token_role")["logit_diff"].abs()
    assert set(at_entry.index) == set(regions)
    # The first image is the same in both runs: to patch what enters first from it does next to nothing.
    assert at_entry["image 2"] > 1e-3
    if not model.injects_image_features_later:
        replaced = vt.replace_image_tokens(model, pairs.iloc[[0]], regions=["image 2", "image 2 object"])
        assert set(replaced["token_role"]) == {"image 2", "image 2 object"}
        with pytest.raises(VlmtraceError, match="region"):
            vt.replace_image_tokens(model, pairs.iloc[[0]], regions=["image2"])
    cut = vt.knock_out_attention(model, pairs.iloc[[0]], edges=[("image 2", "options"), ("image 1", "last")])
    assert len(cut) and cut["logit_diff"].abs().max() > 1e-5


@pytest.mark.medium
def test_attention_is_scored_on_the_masks_of_each_image(model_store, pairs):
    attention = head_attention(model_store.shared("llava"), pairs)
    assert set(attention["sample_id"]) == {"two-0", "two-1", "two-2"}
    assert np.allclose(attention[["object", "distractor", "background", "off_image"]].sum(axis=1), 1, atol=1e-5)
    # LLaVA crops 36 × 40 to a square and makes 3 × 3 patches of it: the quarter covers 1.5 × 1.39 of them, twice.
    assert attention["object_area"].between(0.2, 0.3).all()


# Pictures side by side ------------------------------------------------------------


def test_boxes_lie_where_their_images_stand():
    red, green = Image.new("RGB", (10, 20), "red"), Image.new("RGB", (40, 40), "green")
    picture = side_by_side([red, green], seam=None)
    assert picture.size == (60, 40) and picture.getpixel((10, 20)) == (255, 0, 0) and picture.getpixel((21, 3))[0] == 0
    boxes = boxes_side_by_side(np.array([[0, 0, 1, 1], [0.5, 0.25, 1, 0.5]]), np.array([0, 1]), [(10, 20), (40, 40)])
    assert boxes.tolist() == [[0, 0, 1, 1 / 3], [0.5, 0.5, 1, 2 / 3]] or np.allclose(
        boxes, [[0, 0, 1, 1 / 3], [0.5, 0.5, 1, 2 / 3]]
    )


def test_maps_of_equal_images_are_grids_side_by_side(model_store, tmp_path):
    model = model_store.shared("llava")
    pairs = two_image_pairs(tmp_path / "square", ((42, 42), (42, 42)), 1)
    inputs = run_inputs(model, pairs, "clean")
    boxes = cells(model, pairs.iloc[0], inputs, LANGUAGE)
    grid = on_image(np.arange(18.0), boxes)
    assert grid.tolist() == [[0, 1, 2, 9, 10, 11], [3, 4, 5, 12, 13, 14], [6, 7, 8, 15, 16, 17]]


def test_masks_follow_their_images(pairs, tmp_path):
    unlike = two_image_pairs(tmp_path / "unlike", UNLIKE, 1).iloc[0]
    mask = np.asarray(masks_side_by_side(unlike, "clean_object_mask"))
    assert mask.shape == (40, 36 + 80)
    assert mask[0, 0] == mask[0, 36] == 255 and mask[0, 30] == mask[0, 36 + 79] == mask[39, 0] == 0
    assert masks_side_by_side(unlike.drop(["clean_object_masks", "clean_object_mask"]), "clean_object_mask") is None


@pytest.mark.parametrize("kind", [Image.open, lambda path: np.asarray(Image.open(path))], ids=["PIL", "array"])
def test_images_in_lists_are_told_to_be_written(pairs, tmp_path, kind):
    lists = ["clean_images", "corrupt_images"]
    held = pairs.assign(**{name: [[kind(path) for path in images] for images in pairs[name]] for name in lists})
    held = held.assign(**{name: [kind(path) for path in pairs[name]] for name in ("clean_image", "corrupt_image")})
    with pytest.raises(VlmtraceError, match="'clean_image' of the pairs table holds images: write them to files with"):
        validate_pairs(held)
    listed = pairs.assign(clean_images=held["clean_images"])
    with pytest.raises(VlmtraceError, match="'clean_images' of the pairs table holds images: write them to files with"):
        validate_pairs(listed)
    validate_pairs(vt.save_images(held, tmp_path / "saved"))


@pytest.mark.parametrize("column", ["clean_images", "corrupt_images"])
def test_one_image_may_be_listed_in_one_run_alone(random_pairs, column):
    single = column.removesuffix("s")
    pairs = random_pairs.assign(**{column: [[path] for path in random_pairs[single]]})
    pd.testing.assert_frame_equal(validate_pairs(pairs), pairs)
    two = random_pairs.assign(**{column: [[path, path] for path in random_pairs[single]]})
    with pytest.raises(VlmtraceError, match="list as many in both"):
        validate_pairs(two)


def test_an_empty_name_in_a_list_of_masks_is_no_mask(pairs):
    pair = pairs.iloc[0].to_dict()
    pair["clean_object_masks"] = ["", pair["clean_object_masks"][1]]
    assert [one["clean_object_mask"] for one in by_image(pair)] == [None, pair["clean_object_masks"][1]]


def test_lists_of_masks_without_lists_of_images_are_named(random_pairs):
    masks = random_pairs.assign(clean_object_masks=[["a.png", "b.png"]] * len(random_pairs), clean_images=None)
    with pytest.raises(VlmtraceError, match="clean_object_masks lists 2 masks, and clean_images no images"):
        validate_pairs(masks)


def test_figures_give_pictures_the_room_of_the_highest(tmp_path):
    pairs = two_image_pairs(tmp_path, UNLIKE)
    # The second of 60 × 30 pixels is scaled to the height of the first, 36 × 40.
    assert picture_height(pairs) == pytest.approx(40 / (36 + 80))
    alone = pairs.drop(columns=["clean_images", "corrupt_images"])
    assert picture_height(alone) == picture_height(pd.concat([pairs, alone])) == picture_height(pairs[:0]) == 1
