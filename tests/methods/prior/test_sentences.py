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


def damping():
    counts = {"n": 40, "better": [9, 2], "worse": [1, 2], "repaired": [0.2, 0.05], "spoiled": [0.05, 0.1]}
    return pd.DataFrame({"heads": ["chosen", "random"], "factor": 0.5, **counts, "p_value": [0.01, None]})


def test_damping_is_judged_by_its_test_and_told_beside_random_heads():
    assert describe_damping(damping()) == (
        "Factor 0.5, 40 questions: 20 % repaired, 5 % spoiled (units better 9, worse 1, p = 0.010: it helps); as many "
        "random heads: 5 % and 10 %."
    )
    assert "it may be chance" in describe_damping(damping().assign(p_value=0.5))


def test_whether_damping_helps_is_told_by_the_units_that_the_test_counts():
    """Many pairs of one unit can be repaired where most units get worse."""
    said = describe_damping(damping().assign(better=1, worse=9))
    assert "20 % repaired, 5 % spoiled (units better 1, worse 9" in said
    assert "it does harm" in said


def test_groups_of_damping_are_told_apart():
    parts = [damping().assign(better=[better, 2], worse=[10 - better, 2]) for better in (9, 1)]
    table = pd.concat(part.assign(category=name) for part, name in zip(parts, ("color", "shape"), strict=True))
    said = describe_damping(table[["category", *damping().columns]].assign(model="m")).splitlines()
    assert len(said) == 2 and said[0].startswith("m, color, factor 0.5") and said[1].startswith("m, shape, factor 0.5")
    assert "it helps" in said[0] and "it does harm" in said[1]


def test_ways_to_take_the_image_away_are_told_apart():
    rows = [("blank", "image", 9.0), ("blank", "words", 1.0), ("cut", "image", 5.0), ("cut", "words", 2.0)]
    means = pd.DataFrame(rows, columns=["without", "part", "mean"]).assign(ci_low=0.5, ci_high=10.0, n=5)
    means.insert(0, "category", "plain")
    said = describe_log_odds(means).splitlines()
    assert [one.split(" (")[0] for one in said] == ["plain, blank", "plain, cut"]
    assert "9.0 logits" in said[0] and "5.0 logits" in said[1]
