"""Damping against weights that are scaled by hand, and its counts against counting."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_written
from vlmtrace.models import Site

NAMES = ["block", "module", "layer", "head"]


def heads_of(model):
    """Two heads of the block that reads the question, and one of the block that answers."""
    reads, writes = model.head_block.name, model.answer_block
    module = model.image_module
    return pd.DataFrame([(reads, module, 1, 2), (reads, module, 1, 5), (writes, "self_attention", 2, 0)], columns=NAMES)


@pytest.mark.medium
@pytest.mark.parametrize("factor", [0.0, 0.4, 2.0])
def test_damping_equals_scaled_weights(model, pairs, factor):
    """The output projection reads the heads side by side: a factor on a head is one on its columns."""
    heads = heads_of(model)
    damped = check_written("damped", vt.damp_heads(model, pairs, heads, factors=[factor]))
    assert damped["sample_id"].tolist() == pairs["sample_id"].tolist(), "rows are not in the order of the pairs"
    kept = []
    for block, module, layer, head in heads.itertuples(index=False):
        point = model.hook_point(Site(block, module, layer))
        assert point.is_input
        weight = point.module.weight
        width = weight.shape[1] // model.blocks[block].n_heads
        kept.append((weight, weight.clone()))
        with torch.no_grad():
            weight[:, head * width : (head + 1) * width] *= factor
    try:
        scaled = vt.split_log_odds(model, pairs, without="corrupt")
    finally:
        for weight, before in reversed(kept):
            with torch.no_grad():
                weight.copy_(before)
    assert (damped["log_odds"] - damped["log_odds_before"]).abs().max() > 1e-2, "the heads do nothing: no proof"
    np.testing.assert_allclose(damped["log_odds"], scaled["log_odds"], atol=1e-3)
    assert damped["answer"].tolist() == scaled["answer"].tolist()


@pytest.mark.medium
def test_random_sets_are_other_heads_of_the_same_kind(model, pairs):
    few = pairs.head(3)
    options = {"factors": [0.0, 1.0], "n_random": 2}
    damped = vt.damp_heads(model, few, heads_of(model), **options, seed=1)
    assert damped.groupby(["heads", "draw", "factor"]).size().to_dict() == {
        (heads, draw, factor): 3 for heads, draw in (("chosen", 0), ("random", 0), ("random", 1)) for factor in (0, 1)
    }
    same = damped[damped["factor"] == 1]
    np.testing.assert_allclose(same["log_odds"], same["log_odds_before"], atol=1e-4)
    again = vt.damp_heads(model, few, heads_of(model), **options, seed=1)
    np.testing.assert_array_equal(damped["log_odds"], again["log_odds"])
    block = model.blocks[model.head_block.name]
    every = pd.DataFrame([(block.name, model.image_module, *head) for head in block.every_head], columns=NAMES)
    with pytest.raises(VlmtraceError, match="too few for a random set"):
        vt.damp_heads(model, few, every, n_random=1)


@pytest.mark.medium
def test_heads_that_are_not_there_get_a_sentence(pairs):
    model = vt.load_model("tiny-blip")
    for row, sentence in (
        (("text_encoder", "self_attention", 4, 0), "no head self_attention 4.0 in text_encoder"),
        (("text_encoder", "mlp", 0, 0), "no head mlp 0.0"),
    ):
        with pytest.raises(VlmtraceError, match=sentence):
            vt.damp_heads(model, pairs, pd.DataFrame([row], columns=NAMES))
    with pytest.raises(VlmtraceError, match="no head to damp"):
        vt.damp_heads(model, pairs, pd.DataFrame([], columns=NAMES))
    with pytest.raises(VlmtraceError, match="no column 'head'"):
        vt.damp_heads(model, pairs, pd.DataFrame([{"block": "text_encoder", "module": "mlp", "layer": 0}]))


def made_up(now, then, heads="chosen", draw=0, units=None):
    n = len(now)
    return pd.DataFrame(
        {
            "sample_id": [f"pair {i}" for i in range(n)],
            "unit": units or [f"unit {i}" for i in range(n)],
            "category": "color",
            "heads": heads,
            "draw": draw,
            "factor": 0.0,
            "log_odds": np.arange(n) + 1.0,
            "log_odds_before": np.arange(n) + 0.5,
            "is_correct": now,
            "was_correct": then,
        }
    )


def test_repaired_and_spoiled_are_counted():
    now = [True] * 9 + [False] * 3
    then = [False] * 6 + [True] * 6
    row = vt.damping_table(made_up(now, then)).iloc[0]
    assert (row["n"], row["before"], row["after"]) == (12, 0.5, 0.75)
    assert (row["repaired"], row["spoiled"], row["change"]) == (0.5, 0.25, 0.25)
    assert (row["better"], row["worse"]) == (6, 3)
    assert row["p_value"] == pytest.approx(binomtest(6, 9).pvalue), "McNemar's exact test"
    assert row["ci_low"] < 0.25 < row["ci_high"] and row["log_odds_change"] == pytest.approx(0.5)


def test_pairs_of_a_unit_count_once():
    row = vt.damping_table(made_up([True] * 4, [False] * 4, units=["a", "a", "a", "b"])).iloc[0]
    assert (row["n"], row["n_units"], row["p_value"]) == (4, 2, pytest.approx(0.5))


def test_random_draws_are_averaged_within_pairs():
    draws = [made_up(now, [False] * 4, "random", i) for i, now in enumerate(([True] * 4, [False] * 4))]
    row = vt.damping_table(pd.concat(draws)).iloc[0]
    assert (row["n"], row["after"], row["repaired"]) == (4, 0.5, 0.5) and np.isnan(row["p_value"])
    with pytest.raises(VlmtraceError, match="has no row"):
        vt.damping_table(draws[0].iloc[:0])


def test_tables_of_several_models_are_not_averaged():
    stacked = pd.concat([made_up([True] * 4, [False] * 4).assign(model=name) for name in "ab"])
    with pytest.raises(VlmtraceError, match="A pair stands twice in a group: group by a column"):
        vt.damping_table(stacked)
    assert vt.damping_table(stacked, by=["model"])["n"].tolist() == [4, 4]
