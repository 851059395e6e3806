"""Images in memory where images are expected: the same numbers as from files, and tables that hold paths."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import vlmtrace as vt
from vlmtrace.core import paths
from vlmtrace.core.images import open_image, open_mask
from vlmtrace.display import Example
from vlmtrace.methods.relevancy import relevancy

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8)


def png_of(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FORMS = {
    "PIL": Image.fromarray,
    "rows, columns, channels": lambda pixels: pixels,
    "channels, rows, columns": lambda pixels: pixels.transpose(2, 0, 1),
    "0 to 1": lambda pixels: pixels / 255,
    "single precision": lambda pixels: (pixels / 255).astype(np.float32),
    "larger whole numbers": lambda pixels: pixels.astype(np.int64),
    "opaque RGBA": lambda pixels: np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]),
    "a tensor": lambda pixels: torch.tensor(pixels).permute(2, 0, 1),
    "a tensor of 0 to 1": lambda pixels: torch.tensor(pixels).permute(2, 0, 1) / 255,
}


@pytest.mark.parametrize("form", FORMS)
def test_an_array_is_the_image_that_it_shows(form):
    assert np.array_equal(open_image(FORMS[form](PIXELS)), PIXELS)


def test_gray_arrays_and_transparent_ones():
    gray = PIXELS[:, :, 0]
    for given in (gray, gray[:, :, None], gray[None]):
        assert np.array_equal(open_image(given), np.dstack([gray] * 3))
    clear = np.dstack([PIXELS, np.zeros(PIXELS.shape[:2], np.uint8)])
    assert np.array_equal(open_image(clear), np.full_like(PIXELS, 255))
    assert np.array_equal(open_image(gray > 99), np.dstack([255 * (gray > 99)] * 3))
    assert np.array_equal(np.asarray(open_mask(gray > 99)) > 0, gray > 99)


def test_where_both_ends_could_be_channels_it_is_the_last():
    assert open_image(np.zeros((3, 5, 3), np.uint8)).size == (5, 3)
    assert open_image(np.zeros((3, 5, 7), np.uint8)).size == (7, 5)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (
            np.zeros((2, 40, 40, 3)),
            "is an array of 2 × 40 × 40 × 3, not of rows × columns (× 1, 3 or 4 channels): give its images one by",
        ),
        (np.zeros((40, 40, 2)), "is an array of 40 × 40 × 2"),
        (np.zeros(9), "is an array of 9,"),
        (np.array(0.5), "is an array of one number"),
        (np.zeros((0, 5, 3)), "has no pixels"),
        (np.full((4, 4, 3), -1.5), "holds numbers from -1.5 to -1.5"),
        (PIXELS.astype(float), "holds numbers from 0 to 255"),
        (np.full((4, 4), np.nan), "holds numbers from nan to nan"),
        (np.full((4, 4), 300), "holds numbers from 300 to 300"),
        (np.full((4, 4), "a"), "holds numbers of the type"),
        (np.full((4, 4), None), "holds numbers of the type object"),
        (torch.zeros(4, 4, requires_grad=True), "is an array whose numbers cannot be read"),
        ([[0, 1], [1, 0]], "is given as list"),
        (5, "is given as int"),
    ],
    ids=str,
)
def test_an_array_that_is_no_image_is_one_sentence(array, said):
    with pytest.raises(vt.VlmtraceError) as caught:
        open_image(array)
    assert said in str(caught.value) and "\n" not in str(caught.value)


# Where functions take an image


@pytest.mark.parametrize("name", ["random_blip", "llava", "qwen2_5_vl"])
def test_models_take_images_in_memory(model_store, name, tmp_path):
    model, prompt = model_store.shared(name), "is this circle red or blue?"
    path = tmp_path / "image.png"
    path.write_bytes(png_of(PIXELS))
    text = model.prompt_text(prompt)
    expected = model.encode([path], [text])
    for given in (PIXELS, Image.fromarray(PIXELS), torch.from_numpy(PIXELS)):
        found = model.encode([given], [text])
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        cells = [model.image_cells(image, expected, model.image_block) for image in (given, path)]
        assert np.array_equal(*cells, equal_nan=True)
        assert model.encode_image(given).keys() == expected.keys()


def test_methods_of_one_image_take_it_from_memory(model_store, tmp_path):
    model = model_store.shared("random_blip")
    (tmp_path / "image.png").write_bytes(png_of(PIXELS))
    found, expected = (relevancy(model, image, "is this red?").image for image in (PIXELS, tmp_path / "image.png"))
    assert np.array_equal(found, expected)
    example = Example(model, {"clean_image": PIXELS, "clean_prompt": "is this red?", "corrupt_image": PIXELS[::-1]})
    assert np.array_equal(example.image, PIXELS)
    with pytest.raises(vt.VlmtraceError, match=r"relevancy: image must be an image \(PIL\), an array .* not 5"):
        relevancy(model, 5, "is this red?")


# Tables


def in_memory(pairs, form):
    """The pairs with their images in memory."""
    loaded = {
        column: [form(np.asarray(open_image(path))) for path in pairs[column]]
        for column in ("clean_image", "corrupt_image")
    }
    return pairs.assign(**{column: pd.Series(values, index=pairs.index) for column, values in loaded.items()})


#: What the model answered.
NUMBERS = ["clean_p_correct", "clean_logit_diff", "image_logit_diff", "text_logit_diff"]

FORMS_IN_TABLES = {
    **{name: FORMS[name] for name in ("PIL", "rows, columns, channels", "a tensor")},
    "as datasets gives it": lambda pixels: {"bytes": png_of(pixels), "path": None},
}


@pytest.mark.parametrize("form", FORMS_IN_TABLES)
def test_pairs_in_memory_give_what_pairs_of_files_give(model_store, random_pairs, form, tmp_path):
    model, pairs = model_store.shared("random_blip"), random_pairs.iloc[:3]
    saved = vt.save_images(in_memory(pairs, FORMS_IN_TABLES[form]), tmp_path)
    assert all(paths.resolve(path).is_file() for path in saved["clean_image"])
    others = saved.columns.difference(["clean_image", "corrupt_image"])
    pd.testing.assert_frame_equal(saved[others], pairs[others])
    found, expected = (vt.evaluate(model, table)[others.tolist() + NUMBERS] for table in (saved, pairs))
    pd.testing.assert_frame_equal(found, expected)


def test_lists_masks_and_paths(tmp_path, random_pairs):
    table = pd.DataFrame(
        {
            "sample_id": ["a", "b"],
            "clean_images": [[PIXELS, PIXELS[::-1]], [random_pairs["clean_image"][0]]],
            "clean_image": [PIXELS, random_pairs["clean_image"][0]],
            "clean_object_mask": [PIXELS[:, :, 0] > 99, None],
        }
    )
    saved = vt.save_images(table, tmp_path)
    first = saved["clean_images"][0]
    assert np.array_equal(open_image(first[0]), PIXELS) and np.array_equal(open_image(first[1]), PIXELS[::-1])
    assert saved["clean_image"][0] == first[0], "an equal image is written once"
    assert saved["clean_images"][1] == table["clean_images"][1] and saved["clean_image"][1] == table["clean_image"][1]
    mask = np.asarray(Image.open(paths.resolve(saved["clean_object_mask"][0])))
    assert np.array_equal(mask > 0, PIXELS[:, :, 0] > 99) and pd.isna(saved["clean_object_mask"][1])


def test_masks_in_lists_are_read_as_masks(tmp_path):
    """Of a mask that is transparent in part, the object is what is opaque, whatever its color."""
    opaque = np.zeros((4, 4, 4), np.uint8)
    opaque[:2, :, 3] = 255
    table = pd.DataFrame({"sample_id": ["a"], "clean_object_mask": [opaque], "clean_object_masks": [[opaque, None]]})
    saved = vt.save_images(table, tmp_path)
    assert saved["clean_object_masks"][0] == [saved["clean_object_mask"][0], None]
    mask = np.asarray(Image.open(paths.resolve(saved["clean_object_masks"][0][0])))
    assert (mask[:2] == 255).all() and (mask[2:] == 0).all()


def test_a_table_without_images_in_memory_is_the_same(random_pairs, tmp_path):
    pd.testing.assert_frame_equal(vt.save_images(random_pairs, tmp_path / "never made"), random_pairs)
    assert not (tmp_path / "never made").exists()


def test_a_list_of_paths_that_was_read_from_a_file_holds_no_image(tmp_path):
    table = pd.DataFrame({"sample_id": ["a"], "clean_images": [["a.png", "b.png"]]})
    table.to_parquet(tmp_path / "table.parquet")
    read = pd.read_parquet(tmp_path / "table.parquet")
    assert isinstance(read["clean_images"][0], np.ndarray)
    assert list(vt.save_images(read, tmp_path)["clean_images"][0]) == ["a.png", "b.png"]


def test_an_image_that_cannot_be_read_is_told_by_column_and_row(tmp_path):
    table = pd.DataFrame({"image": [PIXELS, np.full((4, 4), -1.0)]})
    with pytest.raises(vt.VlmtraceError, match=r"^Column 'image', row 1: The image holds numbers from -1 to -1"):
        vt.save_images(table, tmp_path)


@pytest.mark.parametrize("form", ["PIL", "rows, columns, channels"])
def test_a_table_with_images_says_what_to_do(model_store, random_pairs, form):
    pairs = in_memory(random_pairs.iloc[:2], FORMS[form])
    for function in (
        lambda: vt.evaluate(model_store.shared("random_blip"), pairs),
        lambda: vt.patch_modules(model_store.shared("random_blip"), pairs),
        lambda: vt.check_pairs(model_store.shared("random_blip"), pairs),
    ):
        with pytest.raises(vt.VlmtraceError, match=r"holds images: write them to files with vt\.save_images"):
            function()


def test_a_question_about_an_image_in_memory(tmp_path):
    question = vt.one_question(PIXELS, "What is this?", folder=tmp_path).iloc[0]
    assert np.array_equal(open_image(question["image"]), PIXELS)
    assert question["image"].startswith(str(tmp_path.resolve()))


# Paths as a shell means them


def test_an_image_is_found_from_the_users_folder_and_where_one_is(tmp_path, monkeypatch):
    (tmp_path / "my images").mkdir()
    (tmp_path / "my images" / "a.png").write_bytes(png_of(PIXELS))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert np.array_equal(open_image("~/my images/a.png"), PIXELS)
    monkeypatch.chdir(tmp_path / "my images")
    for name in ("a.png", "./a.png", "../my images/a.png"):
        assert np.array_equal(open_image(name), PIXELS)
        assert np.array_equal(open_image(vt.one_question(name, "What is this?")["image"][0]), PIXELS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(vt.VlmtraceError, match=r"a\.png does not exist"):
        open_image("a.png")


def test_a_path_of_a_table_starts_at_the_repository(tmp_path, monkeypatch):
    """Also where the working folder has a file of the same name."""
    monkeypatch.setattr(paths, "ROOT", tmp_path / "repository")
    for place in ("repository", "here"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.png").write_bytes(png_of(PIXELS if place == "repository" else 255 - PIXELS))
    monkeypatch.chdir(tmp_path / "here")
    assert np.array_equal(open_image("a.png"), PIXELS)
