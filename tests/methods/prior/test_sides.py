"""Heads by side: what is planted in two tables of effects is found, and nothing else."""

import numpy as np
import pandas as pd
import pytest

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_written


def effects(corruption, means, n=12, seed=0):
    """Effects of four heads in n pairs, with these means and little noise."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "sample_id": f"pair {i}",
            "unit": f"unit {i // 2}",
            "corruption": corruption,
            "block": "text_encoder",
            "module": "self_attention",
            "layer": 0,
            "head": head,
            "logit_diff": mean + 0.1 * rng.normal(),
        }
        for i in range(n)
        for head, mean in enumerate(means)
    ]
    return pd.DataFrame(rows)


def test_planted_sides_are_found():
    image, words = effects("image", [1, 0, 1, 0]), effects("text", [0, 2, 2, -1], seed=1)
    sides = check_written("head_sides", vt.head_sides(image, words))
    assert sides["side"].tolist() == ["image", "words", "both", "neither"], "a head against the words carries them not"
    np.testing.assert_allclose(sides["words"], words.groupby("head")["logit_diff"].mean())
    np.testing.assert_allclose(sides["difference"], sides["words"] - sides["image"])
    assert set(sides["n"]) == {12} and set(sides["n_units"]) == {6}
    assert ((sides["image_low"] < sides["image"]) & (sides["image"] < sides["image_high"])).all()


def test_pairs_of_both_tables_count():
    image, words = effects("image", [1, 0]), effects("text", [0, 1])
    sides = vt.head_sides(image[image["sample_id"] != "pair 0"], words)
    assert set(sides["n"]) == {11}
    with pytest.raises(VlmtraceError, match="no pair and head in common"):
        vt.head_sides(image.assign(sample_id="other" + image["sample_id"]), words)


def test_wrong_tables_get_a_sentence():
    image, words = effects("image", [1, 0]), effects("text", [0, 1])
    with pytest.raises(VlmtraceError, match="effects of image are those of image corruption, and this table holds 'te"):
        vt.head_sides(words, image)
    assert len(vt.head_sides(image.assign(direction="denoising"), words)) == 2
    with pytest.raises(VlmtraceError, match="by denoising, and the effects of words hold 'noising'"):
        vt.head_sides(image, words.assign(direction="noising"))
    with pytest.raises(VlmtraceError, match="stands twice in a pair"):
        vt.head_sides(pd.concat([image, image]), words)
    with pytest.raises(VlmtraceError, match="no column 'logit_diff'"):
        vt.head_sides(image.drop(columns="logit_diff"), words)
