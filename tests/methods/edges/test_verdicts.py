"""Completeness, minimality, transfer and overlap, against definitions written out."""

from math import comb

import numpy as np
import pandas as pd
import pytest

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import TABLES
from vlmtrace.methods.evaluation.selection import USE


@pytest.mark.medium
def test_subsets_are_runs_of_the_circuit_and_of_the_model_without_them(random_blip, random_pairs, drawn_scores):
    pairs, circuit = random_pairs.head(2), vt.choose_circuit(random_blip, drawn_scores, 300).iloc[::40]
    table = vt.edge_subsets(random_blip, pairs, circuit, n_halves=1)
    TABLES["edge_subsets"].check(table)
    assert table["removed"].nunique() == len(circuit) + 3
    every = vt.edges(random_blip)
    edge = circuit.iloc[2]
    is_edge = (every["sender"] == edge["sender"]) & (every["receiver"] == edge["receiver"])
    key = ["sender", "receiver"]
    outside = pd.MultiIndex.from_frame(every[key].astype(str)).isin(pd.MultiIndex.from_frame(circuit[key]))
    runs = {
        ("nothing", "circuit"): circuit,
        ("the circuit", "model"): every[~outside],
        (f"{edge['sender']} → {edge['receiver']}", "model"): every[~is_edge],
        (f"{edge['sender']} → {edge['receiver']}", "circuit"): circuit.drop(circuit.index[2]),
    }
    for (removed, where), expected in runs.items():
        ran = vt.run_edge_circuits(random_blip, pairs, {"it": expected})
        got = table[table["removed"] == removed][f"logit_diff_{where}"]
        np.testing.assert_allclose(got, ran["logit_diff"], atol=1e-4)


def made_up(shares):
    """Subsets whose faithfulness is known: by what is removed, that of the circuit and that of the model."""
    rows = [
        {
            "sample_id": f"s{i}", "corruption": "image", "removed": removed, "n_removed": 1, "n_edges": 2,
            "logit_diff_circuit": 3 + 2 * inside, "logit_diff_model": 3 + 2 * left, "logit_diff_none": 3.0,
            "logit_diff_all": 5.0,
        }
        for removed, (inside, left) in shares.items() for i in range(4)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_verdicts_follow_the_numbers():
    shares = {"nothing": (0.9, 1.0), "the circuit": (0.0, 0.1), "a → b": (0.2, 0.3), "a → c": (0.9, 0.5)}
    (_, row), *others = vt.edge_verdicts(made_up(shares)).iterrows()
    assert not others
    assert row["sufficiency"] == pytest.approx(0.9) and row["sufficient"] == "yes"
    assert row["left"] == pytest.approx(0.1) and row["necessary"] == "yes"
    assert row["incompleteness"] == pytest.approx(0.4) and row["complete"] == "no"
    assert row["n_redundant"] == 1 and row["minimal"] == "no", "a → c changes nothing"
    shares |= {"nothing": (0.5, 1.0), "the circuit": (0.0, 0.9), "a → c": (0.0, 0.1)}
    row = vt.edge_verdicts(made_up(shares).assign(task="t")).iloc[0]
    assert (row["task"], row["sufficient"], row["necessary"]) == ("t", "partly", "no")
    assert row["minimal"] == "yes" and row["incompleteness"] == pytest.approx(0.9)


def test_verdicts_need_the_runs_with_and_without_the_circuit():
    subsets = made_up({"nothing": (0.9, 1.0), "the circuit": (0.0, 0.1), "a → b": (0.2, 0.3)})
    for removed in ("nothing", "the circuit"):
        with pytest.raises(VlmtraceError, match=f"no run of image in which {removed} is taken away"):
            vt.edge_verdicts(subsets[subsets["removed"] != removed])
    with pytest.raises(VlmtraceError, match="edge_subsets table has no rows"):
        vt.edge_verdicts(subsets[:0])


def test_overlap_by_chance_is_hypergeometric(random_blip, graph):
    every = vt.edges(random_blip)
    circuits = {"a": every.iloc[:6], "b": every.iloc[3:8], "none": every[:0]}
    table = vt.edge_overlap(random_blip, circuits)
    assert table[["circuit", "other"]].to_numpy().tolist() == [["a", "b"], ["a", "none"], ["b", "none"]]
    row, n = table.iloc[0], len(graph)
    assert (row["shared"], row["n_all"]) == (3, n)
    assert row["expected"] == pytest.approx(30 / n) and row["jaccard"] == pytest.approx(3 / 8)
    by_hand = sum(comb(6, i) * comb(n - 6, 5 - i) for i in range(3, 6)) / comb(n, 5)
    assert row["p_value"] == pytest.approx(by_hand)
    assert table.iloc[1]["p_value"] == 1 and table.iloc[1]["shared"] == 0


@pytest.mark.medium
def test_transfer_runs_every_circuit_on_every_task(random_blip, random_pairs, drawn_scores):
    circuits = {"all": vt.edges(random_blip), "some": vt.choose_circuit(random_blip, drawn_scores, 600)}
    pairs = {"first": random_pairs.head(3), "rest": random_pairs.tail(3)}
    table = vt.edge_transfer(random_blip, circuits, pairs, "text")
    assert table[["circuit", "task"]].to_numpy().tolist() == [
        ["all", "first"], ["all", "rest"], ["some", "first"], ["some", "rest"]
    ]  # fmt: skip
    usable = table[table["circuit"] == "all"]["faithfulness"].dropna()
    assert usable.tolist() == pytest.approx([1.0] * len(usable))
    ran = vt.run_edge_circuits(random_blip, random_pairs.tail(3), {"some": circuits["some"]}, "text")
    gain, gap = ran["logit_diff"] - ran["logit_diff_none"], ran["logit_diff_all"] - ran["logit_diff_none"]
    found = table.iloc[3]["faithfulness"]
    assert np.isnan(found) or found == pytest.approx(gain.mean() / gap.mean(), abs=1e-3)


def test_bad_input_is_refused(random_blip, random_pairs):
    every = vt.edges(random_blip)
    with pytest.raises(VlmtraceError, match="two circuits or more"):
        vt.edge_overlap(random_blip, {"a": every})
    with pytest.raises(VlmtraceError, match="has no edge, so nothing"):
        vt.edge_subsets(random_blip, random_pairs, every[:0])
    with pytest.raises(VlmtraceError, match="at least one circuit and one task"):
        vt.edge_transfer(random_blip, {"a": every}, {})
    marked = random_pairs.assign(**{USE: "discover"})
    for call in (
        lambda: vt.edge_subsets(random_blip, marked, every[:2]),
        lambda: vt.edge_transfer(random_blip, {"a": every}, {"t": marked}),
    ):
        with pytest.raises(VlmtraceError, match="helped to find the circuit"):
            call()
