"""Sentences about functions of heads."""

import pandas as pd

from vlmtrace.methods.attention import describe_functions


def functions():
    place = {"block": "text_encoder", "module": "cross_attention", "layer": 2, "head": range(3), "region": "object"}
    ratio = {"ratio": [0.5, 2.0, 3.0], "ratio_low": [0.4, 1.8, 2.5], "ratio_high": [0.6, 2.2, 3.5]}
    return pd.DataFrame({**place, **ratio, "function": ["none", "object detection", "object detection"]})


def test_heads_are_counted_by_function_and_set_beside_their_effects():
    effects = functions()[["block", "module", "layer", "head"]].assign(mean_effect=[0.3, 0.2, 0.1])
    assert describe_functions(functions(), effects).splitlines() == [
        "No function: 1 of 3 heads.",
        "Object detection: 2 of 3 heads, cross-attention 2.2 and 2.1.",
        "The head that gives the object most is cross-attention 2.2: 3.0 times what an even spread would (picked on "
        "these pairs).",
        "Over 3 heads, looking at the object and mean effect have rank correlation −1.00.",
    ]


def test_no_scored_head_is_a_sentence():
    assert describe_functions(functions()[:0]) == "No head was scored."
