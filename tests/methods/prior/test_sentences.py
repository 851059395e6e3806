"""Sentences about image and words."""

import pandas as pd

from vlmtrace.methods.prior import describe_damping, describe_log_odds, describe_sides


def test_parts_are_told_for_each_model_and_kind_of_question():
    rows = [("image", 9.0, 8.0, 10.0), ("words", 1.0, -1.0, 3.0)]
    means = pd.DataFrame(rows, columns=["part", "mean", "ci_low", "ci_high"]).assign(model="m", category="plain", n=5)
    assert describe_log_odds(means) == (
        "m, plain (five pairs): the image brings 9.0 logits [8.0, 10.0]; the words bring 1.0 logits [−1.0, 3.0], not "
        "told apart from 0."
    )
    turned = means.assign(mean=-means["mean"], ci_low=-means["ci_high"], ci_high=-means["ci_low"])
    assert describe_log_odds(turned).endswith("The picture itself misleads.")
    assert describe_log_odds(means[:0]) == "No question was asked."


def heads():
    place = {"block": "language_model", "module": "self_attention", "layer": 0, "head": range(3)}
    image = {"image": 0.1, "image_low": 0.0, "image_high": 0.2}
    words = {"words": [2.0, 4.0, 0.0], "words_low": 1.0, "words_high": 5.0, "side": ["words", "words", "neither"]}
    return pd.DataFrame({**place, **image, **words})


def test_heads_are_counted_by_side():
    assert describe_sides(heads()).splitlines() == [
        "Of 3 heads 0 carry the image alone, 2 the words alone, 0 both and 1 neither.",
        "Of those that carry the words alone, self-attention 0.1 brings back most: 4.0 logits (picked on these "
        "pairs); for the image, 0.1 logits.",
    ]
    assert describe_sides(heads().assign(model="m")).startswith("m: of 3 heads")
    assert describe_sides(heads().assign(n_units=8)) == describe_sides(heads())
    assert describe_sides(heads().assign(n_units=2)).endswith(
        "Of 2 independent pairs no p-value is below 0.5, so that no head could be told to carry anything: patch more "
        "pairs."
    )
    assert describe_sides(heads()[:0]) == describe_sides(heads().assign(model="m")[:0]) == "No head was patched."


def test_damping_is_judged_by_its_test_and_told_beside_random_heads():
    table = pd.DataFrame({"heads": ["chosen", "random"], "factor": 0.5, "n": 40, "p_value": [0.01, None]})
    table = table.assign(repaired=[0.2, 0.05], spoiled=[0.05, 0.1])
    assert describe_damping(table) == (
        "Factor 0.5, 40 questions: 20 % repaired, 5 % spoiled (p = 0.010: it helps); as many random heads: 5 % "
        "and 10 %."
    )
    assert "it does harm" in describe_damping(table.assign(repaired=0.0))
    assert "it may be chance" in describe_damping(table.assign(p_value=0.5))
    assert describe_damping(table[:0]) == "No head was damped."
