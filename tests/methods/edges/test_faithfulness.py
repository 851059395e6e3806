"""Faithfulness by size, and MIB's areas, against formulas written out."""

import numpy as np
import pandas as pd
import pytest
from fixtures.edge_runs import made_up

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import TABLES
from vlmtrace.methods.evaluation.selection import USE


def test_areas_are_those_of_mib():
    """Trapezoids over the sizes as shares of all edges, on a linear scale, from .1 % on."""
    f, sizes = [0.0, 0.5, 1.4, 1.0], [0.001, 0.1, 0.5, 1.0]
    table = made_up(f)
    row = vt.edge_faithfulness_summary(table).iloc[0]
    area = distance = 0.0
    for i in range(3):
        width = sizes[i + 1] - sizes[i]
        area += width * (f[i] + f[i + 1]) / 2
        distance += width * (abs(1 - f[i]) + abs(1 - f[i + 1])) / 2
    assert row["cpr"] == pytest.approx(area) and row["cmd"] == pytest.approx(distance)
    assert row["size_80"] == 0.5 and row["n_edges_80"] == 450
    assert pd.isna(row["advantage"]) and row["n_units"] == 2
    means = vt.edge_faithfulness_means(table)
    assert means["faithfulness"].tolist() == pytest.approx(f)
    assert means["n_edges"].tolist() == [0, 90, 450, 900]


def test_ratio_of_means_weighs_pairs_by_their_gap():
    """A pair whose clean and corrupt answers hardly differ decides nothing."""
    small = made_up([5.0, 5.0, 5.0, 1.0], gap=0.1, units=("z",))
    table = pd.concat([made_up([0.0, 0.5, 1.0, 1.0], units="abcdefgh"), small])
    means = vt.edge_faithfulness_means(table)
    expected = (8 * 0.5 * 2 + 5 * 0.1) / (8 * 2 + 0.1)
    assert means["faithfulness"].iloc[1] == pytest.approx(expected)


def test_random_circuits_are_what_the_scores_are_compared_with():
    random = [made_up([0, v, v, 1], order="random", draw=i) for i, v in enumerate([0.0, 0.2, 0.9])]
    table = pd.concat([made_up([0, 0.6, 0.6, 1.0]), *random])
    ranked, control = (row for _, row in vt.edge_faithfulness_summary(table).iterrows())
    assert ranked["n_beaten"] == 2 and ranked["n_random"] == 3
    assert ranked["advantage"] == pytest.approx(ranked["cpr"] - control["cpr"])
    assert control["cpr"] == pytest.approx(np.trapezoid([0, 1.1 / 3, 1.1 / 3, 1], [0.001, 0.1, 0.5, 1]))


def test_a_single_size_has_no_area():
    with pytest.raises(VlmtraceError, match="at least two sizes"):
        vt.edge_faithfulness_summary(made_up([0, 0, 0, 1]).query("size == 1"))
    with pytest.raises(VlmtraceError, match="no LD for a run of pair 'a0'"):
        vt.edge_faithfulness_means(made_up([0, np.nan, 0, 1]))


@pytest.mark.medium
@pytest.mark.parametrize("rule", ["greedy", "best"])
def test_sizes_are_shares_of_all_edges_and_runs_those_of_their_circuits(
    random_blip, random_pairs, graph, drawn_scores, rule
):
    sizes = [0.01, 0.2, 0.5, 1]
    table = vt.edge_faithfulness(random_blip, random_pairs.head(3), drawn_scores, rule=rule, sizes=sizes, n_random=2)
    TABLES["edge_faithfulness"].check(table)
    assert len(table) == 3 * 3 * 4
    for size, rows in table[table["order"] == "ranked"].groupby("size"):
        k = int(size * len(graph))
        circuit = vt.choose_circuit(random_blip, drawn_scores, k, rule)
        assert set(rows["k"]) == {k} and set(rows["n_edges"]) == {len(circuit)}
        ran = vt.run_edge_circuits(random_blip, random_pairs.head(3), {"it": circuit})
        np.testing.assert_allclose(rows["logit_diff"], ran["logit_diff"], atol=1e-4)
    random = table[(table["order"] == "random") & (table["size"] == 0.5)]
    assert random.groupby("draw")["logit_diff"].sum().nunique() == 2, "random circuits are all the same"
    whole = table[table["size"] == 1]
    np.testing.assert_allclose(whole["logit_diff"], whole["logit_diff_all"])


def test_what_cannot_be_tested_is_refused(random_blip, random_pairs, drawn_scores):
    found = random_pairs.head(2).assign(**{USE: ["discover", "verify"]})
    with pytest.raises(VlmtraceError, match="1 of the 2 pairs helped to find the circuit"):
        vt.edge_faithfulness(random_blip, found, drawn_scores)
    with pytest.raises(VlmtraceError, match=r"A circuit of \d+ edges cannot be chosen"):
        vt.edge_faithfulness(random_blip, random_pairs.head(1), drawn_scores.head(20), sizes=[0.5, 1], rule="best")
