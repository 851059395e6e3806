"""Which image of several a single mask is of."""

import numpy as np
import pandas as pd
import pytest
from fixtures.several_pairs import UNLIKE, two_image_pairs
from PIL import Image

import vlmtrace as vt
from vlmtrace.core.schema import validate_pairs
from vlmtrace.inputs.pictures import by_image


def test_a_single_mask_is_of_the_image_that_differs_even_where_its_path_stands_twice():
    pair = {
        "clean_image": "a.png",
        "corrupt_image": "b.png",
        "clean_images": ["a.png", "a.png"],
        "corrupt_images": ["a.png", "b.png"],
        "clean_object_mask": "m.png",
    }
    assert len(validate_pairs(pd.DataFrame([SAME_PROMPT | pair]))) == 1
    assert [row["clean_object_mask"] for row in by_image(pair)] == [None, "m.png"]
    # Where no image differs, or one run alone is known, clean_image says which it is.
    same = pair | {"clean_image": "a.png", "clean_images": ["c.png", "a.png"], "corrupt_images": ["c.png", "a.png"]}
    assert [row["clean_object_mask"] for row in by_image(same)] == [None, "m.png"]
    alone = {name: value for name, value in same.items() if not name.startswith("corrupt")}
    assert [row["clean_object_mask"] for row in by_image(alone)] == [None, "m.png"]


SAME_PROMPT = {
    "sample_id": "twice",
    "task": "two",
    "category": "color",
    "clean_prompt": "is it red or blue?",
    "corrupt_prompt": "is it red or blue?",
    "correct_answer": "red",
    "incorrect_answer": "blue",
    "correct_first": True,
}


def test_images_in_memory_are_told_apart_by_which_they_are():
    first, second = (np.full((8, 8, 3), level, np.uint8) for level in (0, 255))
    pair = {"clean_image": second, "clean_images": [first, second], "clean_object_mask": "m.png"}
    assert [row["clean_object_mask"] for row in by_image(pair)] == [None, "m.png"]


@pytest.mark.parametrize("name", ["corrupt_object_mask", "clean_shadow_mask"])
def test_a_mask_of_another_column_is_compared_with_its_own_image_alone(model_store, tmp_path, name):
    pairs = two_image_pairs(tmp_path / "unlike", UNLIKE, 1)
    Image.new("L", UNLIKE[1]).save(tmp_path / "mask.png")
    rows = by_image(pairs.assign(**{name: str(tmp_path / "mask.png")}).iloc[0].to_dict())
    assert [row[name] for row in rows] == [None, str(tmp_path / "mask.png")]
    usable, aside = vt.check_pairs(model_store.shared("llava"), pairs.assign(**{name: str(tmp_path / "mask.png")}))
    assert len(usable) == 1 and aside.empty
