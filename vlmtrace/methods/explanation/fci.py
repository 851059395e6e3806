"""FCI with knowledge of what cannot cause what (Spirtes et al. 2000), made of causal-learn's rules.

A token of a higher tier cannot cause one of a lower tier. For the marks of an edge between them that means an arrow at
the higher one's end, and nothing about the other end: there stands a circle until the rules say more, since a common
cause outside the graph remains possible. causal-learn's own background knowledge puts a tail there and so claims that
the lower one is the cause; this is why its parts are called here one by one, in the order of its `fci`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np

#: p-value that two tokens are independent given others.
Test = Callable[[int, int, Sequence[int]], float]

#: Source, target, and the marks at both.
Edges = list[tuple[int, int, str, str]]

_MARKS = {"TAIL": "tail", "ARROW": "arrow", "CIRCLE": "circle"}


def fci(test: Test, n: int, alpha: float, tiers: Sequence[int] | None = None) -> Edges:
    """Learn a partial ancestral graph.

    Args:
        test: the p-value of two tokens given others, from 0 to 1
        n: how many tokens
        alpha: level of the tests
        tiers: of each token; one of a higher tier does not cause one of a lower. None: nothing is known

    Returns:
        one (source, target, mark at the source, mark at the target) for each edge, marks "tail", "arrow" or "circle"
    """
    learn, skeleton, conditional = _causal_learn()
    tiers = [0] * n if tiers is None else list(tiers)

    def allowed(x: int, y: int, given: Sequence[int]) -> float:
        # What separates two tokens is among their ancestors: sets with a token of a higher tier need no test.
        too_late = any(tiers[token] > max(tiers[x], tiers[y]) for token in given)
        return 0.0 if too_late else test(x, y, given)

    # Some of causal-learn's rules print what they do, asked or not.
    with contextlib.redirect_stdout(io.StringIO()):
        graph, separated = skeleton(conditional(allowed, n), n, alpha)
        _orient_colliders(learn, graph, separated, tiers)
        learn.removeByPossibleDsep(graph, conditional(allowed, n), alpha, separated)
        _orient_colliders(learn, graph, separated, tiers)
        _apply_rules(learn, graph, separated, conditional(allowed, n), alpha, len(set(tiers)) > 1)
    return [
        (
            int(edge.get_node1().get_name()),
            int(edge.get_node2().get_name()),
            _MARKS[edge.get_endpoint1().name],
            _MARKS[edge.get_endpoint2().name],
        )
        for edge in graph.get_graph_edges()
    ]


def _orient_colliders(learn: Any, graph: Any, separated: dict[tuple[int, int], set[int]], tiers: list[int]) -> None:
    """Set every end to a circle, then to an arrow where tiers say so, then where two tokens meet that are separated."""
    learn.reorientAllWith(graph, learn.Endpoint.CIRCLE)
    nodes = graph.get_nodes()

    def point_at(end: int, other: int) -> None:
        edge = graph.get_edge(nodes[other], nodes[end])
        graph.remove_edge(edge)
        mark = edge.get_proximal_endpoint(nodes[other])
        graph.add_edge(learn.Edge(nodes[other], nodes[end], mark, learn.Endpoint.ARROW))

    number = graph.get_node_map()
    for edge in graph.get_graph_edges():
        ends = [number[edge.get_node1()], number[edge.get_node2()]]
        lower, higher = sorted(ends, key=tiers.__getitem__)
        if tiers[lower] < tiers[higher]:
            point_at(higher, lower)
    for middle, node in enumerate(nodes):
        neighbours = [number[neighbour] for neighbour in graph.get_adjacent_nodes(node)]
        for a, c in combinations(neighbours, 2):
            known = separated.get((a, c))
            if not graph.is_adjacent_to(nodes[a], nodes[c]) and known is not None and middle not in known:
                point_at(middle, a)
                point_at(middle, c)


def _apply_rules(learn: Any, graph: Any, separated: dict, test: Any, alpha: float, is_known: bool) -> None:
    """Rules 1 to 10 until none changes anything, as causal-learn's `fci` applies them."""
    changed = True
    while changed:
        changed = learn.rulesR1R2cycle(graph, None, False)
        changed = learn.ruleR3(graph, separated, None, changed)
        if changed or is_known:
            changed = learn.ruleR4B(graph, -1, test.data, test, alpha, separated, changed, None)
        for rule in (learn.ruleR5, learn.ruleR6, learn.ruleR7):
            changed = rule(graph, changed)
        changed = learn.rule8(graph, graph.get_nodes(), changed)
        changed = learn.rule9(graph, graph.get_nodes(), changed)
        changed = learn.rule10(graph, changed)


@cache
def _causal_learn() -> tuple[Any, Any, Any]:
    """causal-learn's rules, its first step and its kind of test; imported when needed, since that takes seconds."""
    from causallearn.graph.GraphNode import GraphNode
    from causallearn.search.ConstraintBased import FCI
    from causallearn.utils.cit import CIT_Base
    from causallearn.utils.FAS import fas

    class Given(CIT_Base):
        """A test that is a function of two tokens and a set."""

        def __init__(self, function: Test, n: int):
            super().__init__(np.zeros((n + 1, n)))  # only its shape is read
            self.method, self.function = "vlmtrace", function

        def __call__(self, X: int, Y: int, condition_set: Sequence[int] | None = None) -> float:
            return self.function(int(X), int(Y), sorted({int(i) for i in condition_set or ()}))

    def skeleton(test: Any, n: int, alpha: float) -> tuple[Any, dict]:
        nodes = [GraphNode(str(i)) for i in range(n)]
        for i, node in enumerate(nodes):
            node.add_attribute("id", i)
        graph, separated, _ = fas(test.data, nodes, test, float(alpha), show_progress=False)
        return graph, separated

    return FCI, skeleton, Given
