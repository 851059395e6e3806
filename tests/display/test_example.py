"""An example of one's own: what has no corrupt run is not offered, and not patched."""

import pytest
from PIL import Image

import vlmtrace as vt
from vlmtrace.display import Example


@pytest.fixture
def pair(random_pairs):
    return random_pairs.iloc[0].to_dict()


def test_a_second_image_or_question_that_is_the_first_is_no_corruption(random_blip, pair, tmp_path):
    Image.open(pair["clean_image"]).save(tmp_path / "copy.bmp")
    assert Example(random_blip, pair).corruptions == ["image", "text"]
    assert Example(random_blip, pair | {"corrupt_image": str(tmp_path / "copy.bmp")}).corruptions == ["text"]
    assert Example(random_blip, pair | {"corrupt_prompt": pair["clean_prompt"]}).corruptions == ["image"]
    same = Example(
        random_blip, pair | {"corrupt_image": Image.open(pair["clean_image"]), "corrupt_prompt": pair["clean_prompt"]}
    )
    assert same.corruptions == []
    with pytest.raises(vt.VlmtraceError, match="open a second image, or ask a second question, that is not the first"):
        same.runs("image")


def test_a_second_image_that_cannot_be_read_is_told_where_it_is_shown(random_blip, pair):
    example = Example(random_blip, pair | {"corrupt_image": "gone.png"})
    assert example.corruptions == ["image", "text"]
    with pytest.raises(vt.VlmtraceError, match=r"gone\.png does not exist"):
        example.inputs("image")


def test_the_corrupt_run_that_is_patched_is_one_that_can_be(random_blip, pair):
    whole, broken = Example(random_blip, pair), Example(random_blip, pair | {"corrupt_image": "gone.png"})
    assert [whole.corruption_to_patch(wanted) for wanted in ("", "image", "text", "sound")] == ["image"] * 2 + [
        "text", "image",
    ]  # fmt: skip
    assert [broken.corruption_to_patch(wanted) for wanted in ("", "image", "text")] == ["text"] * 3
    for neither in (broken.pair | {"corrupt_prompt": "what is it that one sees here?"}, {"corrupt_prompt": None}):
        example = Example(random_blip, pair | {"corrupt_image": None} | neither)
        assert example.corruption_to_patch() == "image"
        with pytest.raises(vt.VlmtraceError):
            example.runs("image")


@pytest.mark.parametrize("lists_alone", [True, False])
def test_one_corrupt_image_stands_for_its_place_among_several(model_store, random_pairs, lists_alone):
    """Left alone, the corrupt image was not seen at all: the corrupt run had the clean images."""
    first, second, other = *random_pairs["clean_image"][:2], random_pairs["corrupt_image"][1]
    pair = {"clean_images": [first, second], "clean_prompt": "is this circle red or blue?"}
    pair |= {"corrupt_images": [first, other]} if lists_alone else {"clean_image": second, "corrupt_image": other}
    example = Example(model_store.shared("llava"), pair)
    assert example.pair["corrupt_images"] == [first, other]
    assert (example.pair["clean_image"], example.pair["corrupt_image"]) == (second, other)
    assert example.corruptions == ["image"]


def test_an_example_without_an_image_is_told(random_blip):
    with pytest.raises(vt.VlmtraceError, match="has no clean_image: give an image and a question"):
        Example(random_blip, {"clean_image": [], "clean_prompt": "is it?"})
