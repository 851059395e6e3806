"""What a circuit takes and what is pruned, against definitions written out."""

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.edges.graph import RULES
from vlmtrace.models.edges.nodes import INPUT, THE_OUTPUT


def on_a_way(graph, inside):
    """Edges on some way from an input to the output, by searching the graph of the circuit's nodes."""
    found = nx.MultiDiGraph()
    for i in np.flatnonzero(inside):
        found.add_edge(graph.edges[i].sender, graph.edges[i].receiver.node)
    if THE_OUTPUT not in found:
        return np.zeros(len(graph), dtype=bool)
    inputs = [node for node in found if node.block == INPUT]
    below = set(inputs).union(*(nx.descendants(found, node) for node in inputs))
    above = nx.ancestors(found, THE_OUTPUT) | {THE_OUTPUT}
    return np.array(
        [is_in and e.sender in below and e.receiver.node in above for e, is_in in zip(graph.edges, inside, strict=True)]
    )


@pytest.mark.parametrize("share", [0.01, 0.03, 0.1, 0.5, 1])
def test_pruning_keeps_what_is_on_a_way(graph, share):
    inside = np.random.default_rng(1).random(len(graph)) < share
    kept = graph.pruned(inside)
    assert (kept == on_a_way(graph, inside)).all()
    assert (kept <= inside).all() and (graph.pruned(kept) == kept).all()
    if share == 1:
        assert (kept == graph.whole).all() and kept.any()


def test_best_edges_come_by_the_size_of_their_scores(graph, drawn_scores):
    scores = graph.scores_of(drawn_scores)
    order = graph.order(scores, "best")
    assert sorted(order) == list(range(len(graph)))
    assert (np.diff(np.abs(scores[order])) <= 0).all()


def test_greedy_growth_takes_the_best_edge_into_the_circuit(graph, drawn_scores):
    """Step by step, searched anew among all edges: MIB's rule as its paper words it."""
    scores = graph.scores_of(drawn_scores)
    order = graph.order(scores, "greedy")
    nodes, left = {THE_OUTPUT}, set(range(len(graph)))
    for step in range(300):
        candidates = [i for i in sorted(left) if graph.edges[i].receiver.node in nodes]
        best = max(candidates, key=lambda i: abs(scores[i]))
        assert order[step] == best, f"step {step} takes another edge"
        nodes.add(graph.edges[best].sender)
        left.remove(best)


def test_signed_rules_take_what_works_against_the_answer_last(graph, drawn_scores):
    scores = graph.scores_of(drawn_scores)
    assert (scores < 0).any() and (np.diff(scores[graph.order(scores, "best-signed")]) <= 0).all()
    nodes, left = {THE_OUTPUT}, set(range(len(graph)))
    for step, taken in enumerate(graph.order(scores, "greedy-signed")[:100]):
        best = max((i for i in sorted(left) if graph.edges[i].receiver.node in nodes), key=lambda i: scores[i])
        assert taken == best, f"step {step} takes another edge"
        nodes.add(graph.edges[best].sender)
        left.remove(best)


def test_edges_without_a_score_are_never_taken(graph, drawn_scores):
    some = drawn_scores.iloc[::3]
    for rule in RULES:
        order = graph.order(graph.scores_of(some), rule)
        assert len(order) and set(order) <= set(range(0, len(graph), 3))


def test_unknown_and_repeated_edges_are_refused(graph, drawn_scores):
    with pytest.raises(VlmtraceError, match="has no edge from 'image' to 'moon'"):
        graph.inside(pd.DataFrame({"sender": ["image"], "receiver": ["moon"]}))
    with pytest.raises(VlmtraceError, match="more than once"):
        graph.inside(pd.concat([drawn_scores.head(2), drawn_scores.head(1)]))
    with pytest.raises(VlmtraceError, match="no edge a finite score"):
        graph.scores_of(drawn_scores.assign(score=np.nan))
