"""Searches find what an exhaustive or one-at-a-time search finds."""

import numpy as np
import pytest
import torch

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.batching import one_by_one
from vlmtrace.methods.edges.circuit_runs import PreparedPairs
from vlmtrace.methods.edges.measures import Shares
from vlmtrace.methods.edges.search import remove_in_order
from vlmtrace.models.edges.circuit_run import divergences
from vlmtrace.models.edges.stacks import stacks_of


@pytest.mark.parametrize("together", [1, 3, 16])
def test_removal_in_groups_is_removal_one_at_a_time(together):
    """On shares made up so that what may go depends on what has gone."""
    generator = np.random.default_rng(0)
    weights, order = generator.normal(size=40) / 40, generator.permutation(40)

    def shares(inside):
        gain = inside @ weights
        return 1 + gain + 0.05 * np.sin(7 * inside.sum(1))

    def may_go(before, after):
        return abs(1 - after) - abs(1 - before) < 0.01

    current, kept = np.ones(40, dtype=bool), {}
    value = shares(current[None])[0]
    for edge in order:
        without = current.copy()
        without[edge] = False
        after = shares(without[None])[0]
        if may_go(value, after):
            current, value = without, after
        else:
            kept[int(edge)] = (value, after)
    found = remove_in_order(np.ones(40, dtype=bool), order, shares, may_go, together)
    assert (found.inside == current).all() and 0 < current.sum() < 40
    assert list(found.kept) == list(kept)
    np.testing.assert_allclose(list(found.kept.values()), list(kept.values()))


@pytest.mark.medium
def test_acdc_is_acdc(random_blip, random_pairs, graph, patched_scores):
    """Against the algorithm of the paper, one edge at a time, on a start small enough."""
    pairs = random_pairs.head(1)
    start = vt.choose_circuit(random_blip, patched_scores, 120)
    found = vt.acdc(random_blip, pairs, 0.02, start=start)
    shares = Shares(PreparedPairs(graph, pairs, "image"))
    inside = graph.pruned(graph.inside(start))
    value = shares(inside[None])[0]
    for edge in np.flatnonzero(inside)[::-1]:
        without = inside.copy()
        without[edge] = False
        after = shares(without[None])[0]
        if abs(1 - after) - abs(1 - value) < 0.02:
            inside, value = without, after
    assert (graph.inside(found) == graph.pruned(inside)).all()
    assert found["share"].iloc[0] == pytest.approx(value, abs=1e-4)
    assert (found["score"] >= 0.02).all()
    assert 0 < len(found) < len(start)


@pytest.mark.medium
@pytest.mark.parametrize("is_long", [False, True])
def test_acdc_by_divergence_is_that_of_the_paper(random_blip, random_pairs, graph, patched_scores, is_long):
    """One edge at a time, by the mean KL divergence of two pairs; also where answers have several tokens."""
    pairs = random_pairs.head(2)
    if is_long:
        pairs = pairs.assign(correct_answer="striped red", incorrect_answer="blue dotted ball")
    start = vt.choose_circuit(random_blip, patched_scores, 40)
    found = vt.acdc(random_blip, pairs, 0.01, start=start, metric="kl")

    ready = [
        (
            stacks_of(random_blip, runs.clean, runs.corrupt, runs.inputs, first_ids(runs)),
            random_blip.answer_logits(runs.clean_inputs)[0],
        )
        for _, runs in one_by_one(random_blip, pairs, "image", "answer")
    ]

    def distance(inside):
        carried = torch.from_numpy(inside[None])
        return np.mean([divergences(stacks, graph.edges, carried, whole, 2**28).item() for stacks, whole in ready])

    inside = graph.pruned(graph.inside(start))
    value, scores = distance(inside), {}
    for edge in np.flatnonzero(inside)[::-1]:
        without = inside.copy()
        without[edge] = False
        after = distance(without)
        if after - value < 0.01:
            inside, value = without, after
        else:
            scores[edge] = after - value
    left = graph.pruned(inside)
    assert (graph.inside(found) == left).all() and 0 < len(found) < len(start)
    expected = [scores[edge] for edge in np.flatnonzero(left)[::-1]]
    np.testing.assert_allclose(found["score"], expected, atol=1e-5)
    shares = Shares(PreparedPairs(graph, pairs, "image"))
    assert found["share"].iloc[0] == pytest.approx(shares(left[None])[0], abs=1e-4)


def first_ids(runs):
    """The first tokens of both answers: of what is read, only where it begins plays a part."""
    return torch.zeros(1, 2, dtype=torch.long) if runs.whole else runs.answer_ids


@pytest.mark.medium
def test_a_larger_threshold_keeps_fewer_edges(random_blip, random_pairs, patched_scores):
    pairs = random_pairs.head(1)
    start = vt.choose_circuit(random_blip, patched_scores, 80)
    sizes = [len(vt.acdc(random_blip, pairs, tau, start=start)) for tau in (0.003, 0.03, 10.0)]
    assert sizes[0] > sizes[1] > sizes[2] == 0


@pytest.mark.medium
@pytest.mark.parametrize("rule", ["greedy", "best"])
def test_the_circuit_found_reaches_the_threshold_and_one_edge_less_does_not(random_blip, random_pairs, graph, rule):
    pairs = random_pairs.head(2)
    scores = vt.edge_scores(vt.patch_edges(random_blip, pairs))
    found = vt.find_edge_circuit(random_blip, pairs, scores, threshold=0.7, rule=rule, verify=random_pairs.tail(2))
    values = graph.scores_of(scores)
    order, shares = graph.order(values, rule), Shares(PreparedPairs(graph, pairs, "image"))
    inside = graph.inside(found)
    assert shares(inside[None])[0] == pytest.approx(found["share"].iloc[0], abs=1e-4)
    assert found["share"].iloc[0] >= 0.7
    k = next(k for k in range(len(order)) if (graph.first(order, k) == inside).all())
    assert shares(graph.first(order, k - 1)[None])[0] < 0.7
    others = Shares(PreparedPairs(graph, random_pairs.tail(2), "image"))
    assert found["share_verify"].iloc[0] == pytest.approx(others(inside[None])[0], abs=1e-4)


@pytest.mark.medium
def test_shrinking_keeps_the_threshold_with_fewer_edges(random_blip, random_pairs):
    pairs = random_pairs.head(2)
    scores = vt.edge_scores(vt.patch_edges(random_blip, pairs))
    whole, small = (
        vt.find_edge_circuit(random_blip, pairs, scores, threshold=0.5, shrink=shrink) for shrink in (False, True)
    )
    assert small["share"].iloc[0] >= 0.5
    assert len(small) < len(whole) and set(small["sender"]) <= set(whole["sender"])


def test_bad_thresholds_are_refused(random_blip, random_pairs):
    scores = vt.edges(random_blip).assign(score=1.0)
    with pytest.raises(VlmtraceError, match="no share to reach"):
        vt.find_edge_circuit(random_blip, random_pairs, scores, threshold=0)
    with pytest.raises(VlmtraceError, match="faithfulness, kl"):
        vt.acdc(random_blip, random_pairs, metric="KL divergence")
    with pytest.raises(VlmtraceError, match="score more edges, or choose a smaller threshold"):
        vt.find_edge_circuit(random_blip, random_pairs, scores.query("receiver == 'output'"), threshold=1)
