"""A box of the clean image is filled, and nothing else changes."""

import numpy as np
import pytest
from fixtures.several_pairs import two_image_pairs
from PIL import Image

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.images import open_image
from vlmtrace.core.schema import validate_pairs
from vlmtrace.inputs import fill_box
from vlmtrace.inputs.pictures import images_of


def pixels(path):
    return np.asarray(open_image(path))


@pytest.fixture(scope="module")
def pairs():
    return vt.load_pairs("rendered_svo", n=3)


@pytest.mark.parametrize("fill", ["corrupt", "mean"])
def test_the_box_is_filled_and_all_else_stays(pairs, tmp_path, fill):
    filled = fill_box(pairs, (0.25, 0.5, 0.75, 1), fill, tmp_path)
    for row in range(len(pairs)):
        expected = pixels(pairs["clean_image"][row]).copy()
        color = np.round(expected.mean((0, 1)))
        expected[48:, 24:72] = pixels(pairs["corrupt_image"][row])[48:, 24:72] if fill == "corrupt" else color
        assert (pixels(filled["clean_image"][row]) == expected).all()
    assert filled["corrupt_image"].equals(pairs["corrupt_image"])


def test_pairs_keep_their_units(pairs, tmp_path):
    twice = pairs.loc[[0, 0, 1]].assign(sample_id=["a", "b", "c"]).reset_index(drop=True)
    units = fill_box(twice, (0, 0, 1, 1), "mean", tmp_path)["unit"]
    assert units[0] == units[1] != units[2]


def test_lists_of_one_image_name_the_filled_one(pairs, tmp_path):
    lists = {f"{side}_images": [[path] for path in pairs[f"{side}_image"]] for side in ("clean", "corrupt")}
    listed = pairs.assign(**lists)
    listed.at[0, "clean_images"] = None
    filled = validate_pairs(fill_box(listed, (0, 0, 1, 1), "mean", tmp_path))
    plain = fill_box(pairs, (0, 0, 1, 1), "mean", tmp_path)
    assert [images_of(pair) for pair in filled.to_dict("records")] == [[path] for path in plain["clean_image"]]
    assert filled["clean_images"][0] is None and filled["corrupt_images"].tolist() == listed["corrupt_images"].tolist()


def test_pairs_of_several_images_are_refused(tmp_path):
    with pytest.raises(VlmtraceError, match="Pair two-0: its prompt asks about 2 images"):
        fill_box(two_image_pairs(tmp_path / "two"), (0, 0, 1, 1), folder=tmp_path)


@pytest.mark.parametrize("box", [(0.5, 0, 0.5, 1), (0, -0.1, 1, 1), (0, 0, 1, 2)])
def test_a_box_that_is_none_is_refused(pairs, box):
    with pytest.raises(VlmtraceError, match="shares of width and height"):
        fill_box(pairs, box)


def test_an_unknown_fill_is_named(pairs):
    with pytest.raises(VlmtraceError, match="blur"):
        fill_box(pairs, (0, 0, 1, 1), "blur")


def test_images_of_unlike_sizes_are_named(pairs, tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "small.png")
    unlike = pairs.head(1).assign(corrupt_image=str(tmp_path / "small.png"))
    with pytest.raises(VlmtraceError, match=f"{pairs['sample_id'][0]}: its images have 96 × 96 and 50 × 40 pixels"):
        fill_box(unlike, (0, 0, 1, 1))
