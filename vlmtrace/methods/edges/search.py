"""Search for small circuits of edges: the first edges of a ranking that suffice, and ACDC, which needs no ranking.

Shapes: C circuits, E edges of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from vlmtrace.core.arguments import Positive, Share, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.types import Array
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.methods.circuits.faithfulness import circuit_sizes
from vlmtrace.methods.edges.circuit_runs import PreparedPairs
from vlmtrace.methods.edges.graph import RULES, EdgeGraph
from vlmtrace.methods.edges.measures import Divergences, Shares
from vlmtrace.models import VLM

#: Circuits that a search runs together, at most: more of them gain little and may be in vain.
TOGETHER = 16

#: Distances to the whole model that `acdc` knows.
METRICS = ("faithfulness", "kl")


@checked
def find_edge_circuit(
    model: VLM,
    pairs: pd.DataFrame,
    scores: pd.DataFrame,
    corruption: str = "image",
    threshold: Share = 0.8,
    rule: str = "greedy",
    shrink: bool = False,
    verify: pd.DataFrame | None = None,
    memory_gb: Positive | None = None,
    contrast: str = "answer",
) -> pd.DataFrame:
    """Find the smallest circuit of edges that restores a wanted share of the answer.

    Edges are taken in the order of their scores by the rule (see `choose_circuit`), and what reaches one end only is
    taken away. Growing sizes are run until one reaches the threshold; between it and the one before, sizes are halved.
    A larger circuit may restore less than a smaller one, so a still smaller one may exist.

    The circuit is the best of many on the pairs it was shown: the share to report is that on `verify`.

    Args:
        model: BLIP, or decoder-only with the fast sweep
        pairs: a pairs table, those to discover on
        scores: from `edge_scores`, or any table with sender, receiver and score
        corruption: "image" or "text"
        threshold: the share to reach, above 0
        rule: "greedy", "best", "greedy-signed" or "best-signed", as in `choose_circuit`
        shrink: afterwards, take away every edge without which the threshold is still reached, the smallest score
            first: one run of every pair for each edge
        verify: other pairs, on which the circuit is measured
        memory_gb: as in `patch_modules`
        contrast: as in `patch_modules`

    Returns:
        the circuit, in the order in which edges were chosen: sender, receiver, score; share (what the circuit restores
        of what all edges do, the same in all rows: a ratio of mean LDs, units averaged first), share_verify (that on
        `verify`; missing without) and n_circuits (how many circuits each pair was run with)

    Raises:
        VlmtraceError: the threshold is no share, a name is unknown, the scored edges together do not reach the
            threshold, or all edges restore nothing on these pairs

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> scores = vt.edge_scores(vt.patch_edges(model, pairs))
        >>> circuit = vt.find_edge_circuit(model, pairs, scores, threshold=0.5)
        >>> bool(circuit["share"].iloc[0] >= 0.5), len(circuit) < len(scores) / 10
        (True, True)
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    refuse_no_share(threshold)
    graph = EdgeGraph(model)
    values = graph.scores_of(scores)
    order = graph.order(values, one_of(rule, RULES, "rule"))
    shares = Shares(PreparedPairs(graph, pairs, corruption, memory_gb, contrast))
    k = _smallest_size(graph, order, shares, threshold)
    inside = graph.first(order, k)
    if shrink:
        chosen = order[:k][inside[order[:k]]]
        weakest_first = chosen[np.argsort(np.abs(values[chosen]), kind="stable")]
        inside = remove_in_order(inside, weakest_first, shares, lambda _, after: after >= threshold).inside
        inside = graph.pruned(inside)
    found = graph.table(order[inside[order]], values).assign(share=shares(inside[None])[0], share_verify=np.nan)
    if verify is not None:
        others = Shares(PreparedPairs(graph, verify, corruption, memory_gb, contrast))
        found["share_verify"] = others(inside[None])[0]
    return found.assign(n_circuits=shares.n_circuits)


def refuse_no_share(threshold: float) -> None:
    """Raise a sentence if a threshold is no share to reach.

    Raises:
        VlmtraceError: it is 0
    """
    if not 0 < threshold <= 1:
        raise VlmtraceError(f"threshold={threshold} is no share to reach: choose a number above 0 and up to 1.")


def _smallest_size(graph: EdgeGraph, order: Array, shares: Shares, threshold: float) -> int:
    """The smallest size found whose circuit reaches a threshold."""

    def reached(sizes: Sequence[int]) -> Array:
        return shares(np.stack([graph.first(order, k) for k in sizes])) >= threshold

    sizes, too_small = circuit_sizes(len(order)), 0
    for begin in range(0, len(sizes), 4):
        some = sizes[begin : begin + 4]
        enough = reached(some)
        if enough.any():
            first = int(enough.argmax())
            too_small, k = ([too_small, *some][first]), some[first]
            break
        too_small = some[-1]
    else:
        raise VlmtraceError(
            f"The {len(order)} edges with a score restore {shares(graph.first(order, len(order))[None])[0]:.2f} of the "
            f"answer together, less than {threshold}: score more edges, or choose a smaller threshold."
        )
    while k - too_small > 1:
        between = np.unique(np.linspace(too_small, k, 5).astype(int)[1:-1])
        between = between[(between > too_small) & (between < k)]
        enough = reached(between.tolist())
        bounds = [too_small, *between.tolist(), k]
        first = int(enough.argmax()) if enough.any() else len(between)
        too_small, k = bounds[first], bounds[first + 1]
    return k


@checked
def acdc(
    model: VLM,
    pairs: pd.DataFrame,
    threshold: Positive = 0.01,
    corruption: str = "image",
    start: pd.DataFrame | None = None,
    memory_gb: Positive | None = None,
    contrast: str = "answer",
    metric: str = "faithfulness",
) -> pd.DataFrame:
    """Find a circuit by automatic circuit discovery: take away every edge whose loss changes the answer too little.

    ACDC (Conmy et al. 2023, https://arxiv.org/abs/2304.14997): from the output down, each edge is taken out of what is
    left of the model, and stays out if the distance to the whole model grows by less than the threshold. Two distances
    are known, both 0 for the whole model and never negative:

    - "faithfulness": abs(1 − f), with f the share of the answer that is restored (`run_edge_circuits`, ratio of mean
      LDs). It asks for the difference between two answers, and for nothing else
    - "kl": that of the authors, the KL divergence of the circuit's distribution over the whole vocabulary from that of
      the whole model, at the token with which the answer begins (mean over units). It asks that no token changes

    The authors leave the order of one node's edges open; here the sender that is computed later comes first.

    It is the slow baseline: each pair is run once for every edge that reaches both ends. Edges are tried in groups as
    if all of a group went; from the first that stays, the rest is tried anew, so the circuit is that of one at a time.

    Args:
        model: BLIP, or decoder-only with the fast sweep
        pairs: a pairs table
        threshold: growth of the distance from which an edge stays: a share of the answer, or nats
        corruption: "image" or "text"
        start: the circuit to begin with, with the columns sender and receiver; None: all edges
        memory_gb: as in `patch_modules`
        contrast: as in `patch_modules`
        metric: the distance, one of those above

    Returns:
        the circuit: sender, receiver, score (by how much the distance grew without the edge, when it was tried), share
        (what the circuit restores) and n_circuits (how many circuits each pair was run with), the edges nearest to the
        output first

    Raises:
        VlmtraceError: a name is unknown, or all edges restore nothing on these pairs

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=1)
        >>> start = vt.choose_circuit(model, vt.edge_scores(vt.patch_edges(model, pairs)), 60)
        >>> found = vt.acdc(model, pairs, threshold=0.01, start=start)
        >>> 0 < len(found) < len(start)
        True
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    one_of(metric, METRICS, "metric")
    graph = EdgeGraph(model)
    ready = PreparedPairs(graph, pairs, corruption, memory_gb, contrast)
    shares, divergences = Shares(ready), Divergences(ready)
    if metric == "kl":
        shares(graph.whole[None])  # pairs that say nothing of a share are refused before the search
    inside = np.ones(len(graph), dtype=bool) if start is None else graph.pruned(graph.inside(start))
    order = np.flatnonzero(inside)[::-1]

    def distance(inside: Array) -> Array:
        return divergences(inside) if metric == "kl" else np.abs(1 - shares(inside))

    removed = remove_in_order(inside, order, distance, lambda before, after: after - before < threshold)
    left = graph.pruned(removed.inside)
    scores = np.full(len(graph), np.nan)
    for edge, (before, after) in removed.kept.items():
        scores[edge] = after - before
    used = divergences if metric == "kl" else shares
    found = graph.table(order[left[order]], scores).assign(n_circuits=used.n_circuits)
    found.insert(3, "share", shares(left[None])[0])
    return found


class Removed(NamedTuple):
    """What is left when edges were taken away one by one.

    Attributes:
        inside: (E,) bool
        kept: of each edge that had to stay, the value before and what it would have been without
    """

    inside: Array
    kept: dict[int, tuple[float, float]]


def remove_in_order(
    inside: Array,
    order: Array,
    measure: Callable[[Array], Array],
    may_go: Callable[[float, float], bool],
    together: int = TOGETHER,
) -> Removed:
    """Take edges out of a circuit one after the other, each if what is left allows it.

    Most edges go. So a group is run as if all of them went, each circuit lacking one more; up to the first that has to
    stay, these are the very circuits of one at a time.

    Args:
        inside: (E,) bool, the circuit
        order: the edges to try
        measure: circuits (C, E) -> a value for each (C,)
        may_go: of the value with an edge and without it, whether the edge goes
        together: how many are run together at most

    Returns:
        what is left
    """
    inside, kept = inside.copy(), dict[int, tuple[float, float]]()
    value = float(measure(inside[None])[0])
    place, width = 0, together
    while place < len(order):
        group = order[place : place + width]
        tried = np.repeat(inside[None], len(group), axis=0)
        for i, edge in enumerate(group):
            tried[i:, edge] = False
        gone = 0
        for edge, after in zip(group.tolist(), measure(tried).tolist(), strict=True):
            if not may_go(value, after):
                kept[edge] = (value, after)
                break
            value, gone = after, gone + 1
        inside[group[:gone]] = False
        place += min(gone + 1, len(group))
        # Where edges stay one after the other, guessing that they go is in vain.
        width = min(2 * width, together) if gone == len(group) else max(1, gone + 1)
    return Removed(inside, kept)
