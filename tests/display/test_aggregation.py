"""Averages: each pair weighs the same, roles stand in the order of the prompt, examples are of all kinds."""

import numpy as np
import pandas as pd
import pytest
from fixtures import synthetic_tables as tables

from vlmtrace.display.aggregation import prompt_order, role_means, spread_over_kinds


def effects_of(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["sample_id", "layer", "position", "token_role", "patching_effect"])


def test_positions_of_a_role_are_averaged_within_the_pair_first():
    means = role_means(effects_of([("a", 0, 0, "the", 0.2), ("a", 0, 1, "the", 0.4), ("b", 0, 0, "the", 0.9)]))
    assert means.matrix.loc[0, "the"] == pytest.approx((0.3 + 0.9) / 2), "each pair must weigh the same"
    assert means.labels == ["the (2×)"] and means.n == (2, 2)


def test_missing_effects_are_left_out_and_counted():
    means = role_means(effects_of([("a", 0, 0, "the", 0.5), ("b", 0, 0, "the", np.nan)]))
    assert means.matrix.loc[0, "the"] == 0.5 and means.n == (1, 1)
    assert role_means(effects_of([("a", 0, 0, "the", np.nan)])) is None


def test_roles_stand_in_the_order_of_the_most_frequent_prompt():
    prompts = {"a": "is correct or incorrect ?", "b": "is incorrect or correct ?", "c": "is correct or incorrect now ?"}
    rows = [(pair, 0, i, role, 0.0) for pair, prompt in prompts.items() for i, role in enumerate(prompt.split())]
    # The mean position would put "correct", "or" and "incorrect" into an order that no prompt has.
    assert prompt_order(effects_of(rows)) == ["is", "correct", "or", "incorrect", "now", "?"]


def test_examples_are_spread_over_kinds(tmp_path):
    shown = spread_over_kinds(tables.make_pairs(tmp_path, n=12), 6)
    assert shown[["category", "correct_first"]].drop_duplicates().shape[0] == 6, (
        "six kinds there are, six must be shown"
    )
