"""Images that are taken away: what is shown in their place, and which models it cannot be done with."""

import numpy as np
import pandas as pd
import pytest
from fixtures.several_pairs import two_image_pairs

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.images import open_image
from vlmtrace.core.schema import validate_pairs
from vlmtrace.inputs.pictures import by_image


@pytest.mark.medium
def test_blank_images_have_one_color_and_the_size_of_the_clean_ones(tmp_path):
    pairs = vt.load_pairs("rendered_states", n=3)
    blank = validate_pairs(vt.blank_images(pairs, tmp_path))
    shown = [np.asarray(open_image(path).convert("RGB")) for path in blank["clean_image"]]
    assert all(image.shape == (96, 96, 3) for image in shown)
    assert len({tuple(color) for image in shown for color in image.reshape(-1, 3)}) == 1
    mean = np.mean([np.asarray(open_image(path).convert("RGB")).mean((0, 1)) for path in pairs["clean_image"]], axis=0)
    assert np.abs(shown[0][0, 0] - mean).max() <= 0.5
    assert blank["unit"].tolist() == pairs["unit"].tolist(), "one picture for all must not make one unit of all"
    assert blank["corrupt_image"].tolist() == pairs["corrupt_image"].tolist()


def test_blank_images_of_several_make_a_table_that_can_be_used(tmp_path):
    """All images are another than in the corrupt run then, so that the first is the one that differs."""
    pairs = two_image_pairs(tmp_path / "two")
    assert pairs["clean_image"][0] == pairs["clean_images"][0][1], "this test needs a pair whose second image differs"
    blank = validate_pairs(vt.blank_images(pairs, tmp_path / "blank"))
    assert blank["corrupt_image"].tolist() == [images[0] for images in pairs["corrupt_images"]]
    assert blank["corrupt_images"].tolist() == pairs["corrupt_images"].tolist()
    assert blank["clean_image"].tolist() == [images[0] for images in blank["clean_images"]]
    single = blank.drop(columns="clean_object_masks").to_dict("records")
    masks = [[row["clean_object_mask"] for row in by_image(pair)] for pair in single]
    assert pd.isna(masks[0]).all() and masks[1] == [pairs["clean_object_mask"][1], None], "a mask is of its own image"


@pytest.mark.medium
def test_models_without_image_tokens_of_their_own_are_refused(pairs, monkeypatch):
    model = vt.load_model("tiny-blip")
    monkeypatch.setattr(type(model), "draws_prompts", True)
    for without in ("mean", "cut"):
        with pytest.raises(VlmtraceError, match="reads its prompt in the image"):
            vt.split_log_odds(model, pairs, without=without)
    monkeypatch.setattr(type(model), "draws_prompts", False)
    monkeypatch.setattr(type(model), "injects_image_features_later", True)
    with pytest.raises(VlmtraceError, match="use without='cut', 'blank' or 'corrupt'"):
        vt.split_log_odds(model, pairs, without="mean")
