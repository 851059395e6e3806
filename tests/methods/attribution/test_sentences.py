"""Sentences about estimates: whether more steps help is what the rank correlations say."""

import pandas as pd
import pytest

from vlmtrace.methods.attribution import describe_agreement


@pytest.mark.parametrize(
    ("later", "expected"),
    [(0.2, "More steps order heads worse."), (0.9, "More steps order heads better."), (0.51, "make no difference.")],
)
def test_more_steps_are_compared_with_one(later, expected):
    both = {"corruption": "text", "steps": [8, 1], "spearman": [later, 0.5], "top": 10, "overlap": [0.7, 0.6]}
    said = describe_agreement(pd.DataFrame(both).assign(overlap_by_chance=0.16))
    assert said.startswith(
        "Text corruption: one gradient: rank correlation 0.50, 6 of the 10 strongest heads (by chance 1.6); 8 steps:"
    )
    assert said.endswith(expected)


def test_nothing_to_compare_is_a_sentence():
    columns = ["corruption", "steps", "spearman", "top", "overlap", "overlap_by_chance"]
    assert describe_agreement(pd.DataFrame(columns=columns)) == "Nothing was compared."
