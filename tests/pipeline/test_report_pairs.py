"""Pairs on the report: their pictures, and their links to the explorer."""

import base64
import io

import numpy as np
import pandas as pd
from PIL import Image

from vlmtrace.pipeline.report_pairs import MOST_LISTED, SIDE, explorer_link, listed_pairs, shown_pair, small_picture


def pair(**other):
    row = {"task": "t", "sample_id": "a", "category": "color", "clean_prompt": "Red or blue?", "correct_answer": "red"}
    return row | {"incorrect_answer": "blue", "clean_image": "nowhere.png", "corrupt_image": "nowhere.png", **other}


def test_a_link_cannot_be_broken_out_of():
    link = explorer_link("org/model", 'a&view=x"#<b>', "text_encoder.mlp.2@4")
    assert link == (
        "http://127.0.0.1:8866/#model=org%2Fmodel&pair=a%26view%3Dx%22%23%3Cb%3E&view=patch&select=text_encoder.mlp.2%404"
    )


def test_a_picture_is_small_and_in_the_page(tmp_path):
    path = tmp_path / "large.png"
    Image.fromarray(np.full((900, 1200, 3), (200, 10, 10), np.uint8)).save(path)
    kind, _, content = small_picture(pair(clean_image=str(path)), "clean_image").partition("base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == "data:image/png;" and max(image.size) == SIDE and image.getpixel((5, 5)) == (200, 10, 10)


def test_an_image_that_is_gone_leaves_the_words():
    shown = shown_pair(pd.DataFrame([pair()]), "t", "a", "tiny-blip")
    assert (shown["clean"], shown["corrupt"], shown["prompt"]) == ("", "", "Red or blue?")
    assert shown_pair(pd.DataFrame([pair()]), "t", "b", "tiny-blip") == {}


def test_pairs_are_listed_by_task_up_to_a_number():
    rows = [pair(sample_id=f"p{i}") for i in range(MOST_LISTED + 5)] + [pair(task="u")]
    found = listed_pairs(pd.DataFrame(rows), "tiny-blip")
    assert {task: len(its) for task, its in found.items()} == {"t": MOST_LISTED, "u": 1}
    assert found["u"][0]["link"].endswith("pair=a&view=patch")
