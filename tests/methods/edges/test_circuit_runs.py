"""Named circuits run on pairs, whatever their answers, however little memory there is."""

import numpy as np
import pytest

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.edges.circuit_runs import PreparedPairs, run_inside
from vlmtrace.methods.edges.measures import Shares


@pytest.mark.parametrize("corruption", ["image", "text"])
def test_all_edges_are_the_clean_run_and_none_the_corrupt(random_blip, random_pairs, graph, corruption):
    """Also where some edges are missing that no run can tell: what is on no way from an input to the output."""
    every = vt.edges(random_blip)
    circuits = {"none": every[:0], "all": every, "on a way": every[graph.whole], "dead": every[~graph.whole]}
    ran = vt.run_edge_circuits(random_blip, random_pairs, circuits, corruption)
    assert ran["sample_id"].nunique() == len(random_pairs)
    wide = ran.pivot(index="sample_id", columns="circuit", values="logit_diff")
    ends = ran.drop_duplicates("sample_id").set_index("sample_id").loc[wide.index]
    for name in ("none", "dead"):
        np.testing.assert_allclose(wide[name], ends["logit_diff_none"])
    for name in ("all", "on a way"):
        np.testing.assert_allclose(wide[name], ends["logit_diff_all"])
    assert (ends["logit_diff_all"] - ends["logit_diff_none"]).abs().max() > 1e-3


def test_what_is_pruned_changes_no_run(random_blip, random_pairs, graph):
    """A run with dead edges, made by `run_circuits` itself, equals that without."""
    inside = np.random.default_rng(2).random((3, len(graph))) < 0.2
    kept = np.stack([graph.pruned(one) for one in inside])
    assert (kept.sum(1) < inside.sum(1)).all()
    for _, pair in PreparedPairs(graph, random_pairs, "image"):
        together = pair.logit_diffs(graph, np.concatenate([inside, kept]), 2**28)
        np.testing.assert_allclose(together[:3], together[3:], atol=1e-5)


def test_nearly_all_edges_give_nearly_the_clean_run(random_blip, random_pairs, graph):
    """The shortcut for all edges agrees with a run: one edge that does nothing is taken out."""
    inside = np.repeat(graph.whole[None], 2, 0)
    weakest = next(i for i in np.flatnonzero(graph.whole) if graph.edges[i].receiver.input == "query")
    inside[1, weakest] = False
    ran = run_inside(graph, random_pairs, inside, "image")
    gaps = ran.pivot(index="sample_id", columns="circuit", values="logit_diff")
    assert (gaps[0] - gaps[1]).abs().max() < 0.1


@pytest.mark.medium
def test_runs_that_do_not_fit_are_made_anew(random_blip, random_pairs, graph):
    inside = np.random.default_rng(3).random((2, len(graph))) < 0.5
    kept, anew = (PreparedPairs(graph, random_pairs, "image", memory) for memory in (None, 1e-6))
    expected, got = Shares(kept)(inside), Shares(anew)(inside)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert kept._kept is not None and anew._kept is None
    # The pairs that are kept serve a second round.
    np.testing.assert_allclose(Shares(kept)(inside), expected)


def test_shares_are_ratios_of_means_over_units(random_blip, random_pairs, graph):
    inside = np.random.default_rng(4).random((2, len(graph))) < 0.5
    pairs = random_pairs.assign(unit=["a"] * (len(random_pairs) - 1) + ["b"])
    ran = run_inside(graph, pairs, inside, "image")
    columns = ["logit_diff", "logit_diff_none", "logit_diff_all"]
    means = ran.groupby(["circuit", "unit"])[columns].mean().groupby("circuit").mean()
    expected = (means["logit_diff"] - means["logit_diff_none"]) / (means["logit_diff_all"] - means["logit_diff_none"])
    np.testing.assert_allclose(Shares(PreparedPairs(graph, pairs, "image"))(inside), expected, atol=1e-5)


def test_bad_input_is_refused(random_blip, random_pairs):
    with pytest.raises(VlmtraceError, match="no circuit to run"):
        vt.run_edge_circuits(random_blip, random_pairs, {})
    same = random_pairs.head(1).assign(corrupt_image=lambda t: t["clean_image"])
    every = vt.edges(random_blip)
    with pytest.raises(VlmtraceError, match="All edges together restore nothing"):
        vt.find_edge_circuit(random_blip, same, every.assign(score=1.0))
