"""Images that are taken away: what is shown in their place, and which models it cannot be done with."""

import numpy as np
import pytest

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.images import open_image
from vlmtrace.core.schema import validate_pairs


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
