"""Units: pairs that share an image or mirror each other are one observation."""

import pandas as pd
import pytest
from PIL import Image

from vlmtrace.inputs import with_units


def pairs_of(*images, **further):
    clean, corrupt = zip(*images, strict=True)
    ids = [f"p{i}" for i in range(len(images))]
    return pd.DataFrame({"sample_id": ids, "clean_image": clean, "corrupt_image": corrupt, **further})


def test_pairs_that_share_an_image_are_one_unit():
    """p0 and p1 mirror each other, p2 shares an image with p1, p3 and p4 share one, p5 stands alone."""
    table = pairs_of(("a", "b"), ("b", "a"), ("b", "c"), ("d", "e"), ("f", "e"), ("g", "h"))
    assert with_units(table)["unit"].tolist() == ["p0", "p0", "p0", "p3", "p3", "p5"]


def test_a_copy_under_another_name_is_the_same_image(tmp_path):
    for name, color in (("one.png", "red"), ("copy.png", "red"), ("two.png", "blue"), ("three.png", "green")):
        Image.new("RGB", (4, 4), color).save(tmp_path / name)
    paths = {name: str(tmp_path / f"{name}.png") for name in ("one", "copy", "two", "three")}
    table = pairs_of((paths["one"], paths["two"]), (paths["copy"], paths["three"]))
    assert with_units(table)["unit"].nunique() == 1, "one.png and copy.png hold the same image"


def test_copies_are_found_where_images_are_opened(tmp_path, monkeypatch):
    """Paths that start at the working folder, or at the user's own."""
    for name in ("one.png", "copy.png"):
        Image.new("RGB", (4, 4), "red").save(tmp_path / name)
    for name, color in (("two.png", "blue"), ("three.png", "green")):
        Image.new("RGB", (4, 4), color).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for first, second in (("one.png", "copy.png"), ("~/one.png", "./copy.png")):
        table = pairs_of((first, "two.png"), (second, "three.png"))
        assert with_units(table)["unit"].nunique() == 1, f"{first} and {second} hold the same image"


def test_a_unit_column_is_respected_and_gaps_in_it_are_filled():
    table = pairs_of(("a", "b"), ("b", "a"), ("c", "d"), unit=["mine", "", None])
    assert with_units(table)["unit"].tolist() == ["mine", "mine", "p2"], "p1 mirrors p0"
    whole = pairs_of(("a", "b"), ("b", "a"), unit=["x", "y"])
    assert with_units(whole)["unit"].tolist() == ["x", "y"], "who gives units means them"


def test_questions_about_one_image_are_one_unit():
    questions = pd.DataFrame({"sample_id": ["q0", "q1", "q2"], "image": ["a", "b", "a"]})
    assert with_units(questions)["unit"].tolist() == ["q0", "q1", "q0"]


def test_without_images_every_pair_is_a_unit():
    assert with_units(pd.DataFrame({"sample_id": ["a", "b"]}))["unit"].tolist() == ["a", "b"]


@pytest.mark.parametrize("odd", ["/dev/zero", "gone.png", "a\0b.png", "/"])
def test_what_is_no_file_is_not_read(odd):
    """A device can be read for ever; whoever needs the image says that there is none."""
    pairs = pd.DataFrame({"sample_id": ["a", "b"], "clean_image": [odd, odd], "corrupt_image": ["x.png", "y.png"]})
    assert with_units(pairs)["unit"].nunique() == 1, "pairs that share an image are one unit"
