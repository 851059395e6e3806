"""Sentences about the lens."""

import pandas as pd

from vlmtrace.methods.lens import describe_contributions, describe_maps, describe_shared_heads, describe_words


def contributions(questions="ab"):
    rows = [
        {"sample_id": name, "module": "self_attention", "layer": layer, "head": head, "log_p_increase": value}
        for name in questions
        for layer, head, value in ((0, None, 1.5), (1, None, 0.5), (0, 0, 1.0), (0, 1, 0.5), (1, 0, 0.3), (1, 1, 0.2))
    ]
    return pd.DataFrame(rows).astype({"head": "Int64"})


def test_the_strongest_module_and_heads_are_named():
    assert describe_contributions(contributions()).splitlines() == [
        "The module that adds most is the self-attention of layer 0: 1.50 nats (picked on these questions).",
        "The head that adds most is 0.0: 1.00 nats (picked on these questions).",
        "Heads 0.0, 0.1 and 1.0 hold 90 % of all positive contributions of 4 heads; if all 4 positive ones were "
        "equal, 3 would hold 75 %.",
    ]
    assert describe_contributions(contributions()[:0]) == "No contribution was measured."


def test_the_best_map_depends_on_the_direction_of_the_measure():
    rows = [
        ("auc", "lens", 0.9, ""), ("auc", "random", 0.5, "worse"),
        ("deletion", "lens", 0.3, ""), ("deletion", "random", 0.2, "no difference seen"),
    ]  # fmt: skip
    maps = pd.DataFrame(rows, columns=["measure", "method", "mean", "verdict"])
    maps = maps.assign(n=5, low=maps["mean"] - 0.1, high=maps["mean"] + 0.1)
    assert describe_maps(maps).splitlines() == [
        "Pointing (higher is better, five questions): best is lens with 0.90 (picked on these questions); surely worse "
        "than lens: random.",
        "Deletion (lower is better, five questions): best is random with 0.20 (picked on these questions); no map "
        "differs surely from lens.",
    ]
    assert describe_maps(maps.assign(mean=None)).startswith("Pointing: no map could be scored.")


def test_the_layer_in_which_most_words_are_read_is_named():
    words = {"sample_id": "a", "through": "embedding", "place": "object", "layer": [0, 1, 2]}
    said = describe_words(pd.DataFrame({**words, "share": [0.1, 0.6, 0.2]}))
    assert (
        "10 % of the object's image tokens at the input of layer 0, and at most at 60 %, at the input of layer 1."
        in said
    )
    assert describe_words(pd.DataFrame({**words, "share": [0.6, 0.1, 0.2]})).endswith("layer 0, and nowhere at more.")
    assert describe_words(pd.DataFrame({**words, "share": None})) == "No word was read."


def test_some_layers_alone_are_told_by_what_they_are():
    words = {"sample_id": "a", "through": "embedding", "place": "answer", "share": [0.1, 0.6]}
    inner = pd.DataFrame({**words, "layer": [1, 2], "is_output": False})
    assert describe_words(inner).endswith("at the input of layer 1, and at most at 60 %, at the input of layer 2.")
    outer = pd.DataFrame({**words, "layer": [1, 4], "is_output": [False, True]})
    assert describe_words(outer).endswith("and at most at 60 %, at the output of the last layer.")
    assert "at the output of the last layer, and nowhere at more." in describe_words(outer[1:])


def test_what_is_lost_without_shared_heads_is_told_beside_random_heads():
    run = {"run": "visual", "heads": ["chosen", "random", "chosen − random"], "log_odds_change": [-2.0, -0.5, -1.5]}
    lost = pd.DataFrame({**run, "low": [-3.0, -1.0, -2.0], "high": [-1.0, 0.0, -1.0], "p_before": 0.9, "p": 0.7})
    one = {
        "compared": ["visual, textual"],
        "spearman": 0.8,
        "ceiling": 0.9,
        "k": 2,
        "shared": 1,
        "shared_by_chance": 0.5,
    }
    agreement = pd.DataFrame(one)
    said = describe_shared_heads(lost, agreement)
    assert "rank correlation 0.80 (0.90 is to be expected" in said and "1 of the 2 strongest heads" in said
    assert (
        "change by −2.0 [−3.0, −1.0], against random heads by −1.5 [−2.0, −1.0]; its probability goes from 0.90 to 0.70"
        in said
    )
    assert describe_shared_heads(lost[:0], agreement[:0]) == "No head was ablated."
