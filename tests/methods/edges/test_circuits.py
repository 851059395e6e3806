"""Scores are means over units, and circuits are chosen by them."""

import numpy as np
import pandas as pd
import pytest

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import TABLES


def effects():
    rows = [
        ("a", "u", "image", "output", 0, 1.0),
        ("a", "u", "image", "output", 1, 2.0),
        ("b", "u", "image", "output", 0, 5.0),
        ("c", "v", "image", "output", 0, 10.0),
        ("a", "u", "prompt", "output", 0, 1.0),
        ("c", "v", "prompt", "output", 0, np.nan),
    ]
    table = pd.DataFrame(rows, columns=["sample_id", "unit", "sender", "receiver", "position", "logit_diff"])
    return table.assign(corruption="image").astype({"sender": "category", "receiver": "category"})


def test_positions_are_added_up_and_units_averaged_first():
    scores = vt.edge_scores(effects())
    assert scores["sender"].tolist() == ["image", "prompt"]
    # Unit u: (3 + 5) / 2 = 4; unit v: 10.
    assert scores["score"].tolist() == [7.0, 1.0]
    assert scores["n"].tolist() == [3, 1] and scores["n_units"].tolist() == [2, 1]
    without_units = vt.edge_scores(effects().drop(columns="unit"))
    assert without_units["score"].iloc[0] == pytest.approx((3 + 5 + 10) / 3)


def test_scores_of_several_corruptions_are_refused():
    both = pd.concat([effects(), effects().assign(corruption="text")])
    with pytest.raises(VlmtraceError, match="several values of corruption"):
        vt.edge_scores(both)
    with pytest.raises(VlmtraceError, match="Unknown column"):
        vt.edge_scores(effects(), "p_diff")


@pytest.mark.parametrize("rule", ["greedy", "best"])
def test_a_circuit_is_what_the_first_edges_leave_of_it(random_blip, graph, drawn_scores, rule):
    for k in (0, 5, 60, len(graph)):
        whole = vt.choose_circuit(random_blip, drawn_scores, k, rule, prune=False)
        circuit = vt.choose_circuit(random_blip, drawn_scores, k, rule)
        TABLES["edge_circuit"].check(circuit)
        assert len(whole) == k
        assert (graph.inside(circuit) == graph.pruned(graph.inside(whole))).all()
    assert (graph.inside(circuit) == graph.whole).all()


def test_more_edges_than_have_a_score_are_refused(random_blip, drawn_scores):
    with pytest.raises(VlmtraceError, match=r"A circuit of 11 edges .* 10 have a score"):
        vt.choose_circuit(random_blip, drawn_scores.head(10), 11, "best")


def test_what_is_patched_keeps_the_contract(random_blip, random_pairs):
    table = vt.patch_edges(random_blip, random_pairs.head(2), receivers=["output"])
    TABLES["edge_patching"].check(table)
    one = vt.patch_edges(random_blip, random_pairs.head(1), receivers=["output"], positions="all")
    TABLES["edge_patching"].check(one)
