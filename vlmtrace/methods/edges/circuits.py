"""Circuits of edges, chosen by score.

A circuit is a table with the columns sender, receiver and score, one row per edge, so that whatever selects rows makes
another circuit.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from vlmtrace.core import stats
from vlmtrace.core.arguments import Natural, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.schema import UNIT, check_table, pick
from vlmtrace.methods.edges.graph import RULES, EdgeGraph
from vlmtrace.models import VLM

#: Columns of effects that may be averaged.
EFFECTS = ("logit_diff", "patching_effect")


@checked
def edge_scores(effects: pd.DataFrame, column: str = "logit_diff") -> pd.DataFrame:
    """Average the effects of edges over pairs: by these scores, circuits are chosen.

    Positions of a pair are added up, pairs of a unit averaged first.

    Args:
        effects: of one corruption and direction, from `patch_edges` or `attribute_edges`
        column: "logit_diff", or "patching_effect", in which pairs with a small gap between clean and corrupt weigh more

    Returns:
        one row per edge: sender, receiver, score (unit of the column), n (pairs) and n_units. Pairs without an effect
        are left out

    Raises:
        VlmtraceError: a column is missing or unknown, or the table holds several corruptions or directions

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> effects = vt.patch_edges(model, vt.load_pairs("rendered_states", n=2), receivers=["output"])
        >>> list(vt.edge_scores(effects).nlargest(1, "score")["sender"])
        ['text_decoder.cross_attention.3.0']
    """
    one_of(column, EFFECTS, "column")
    check_table(effects, ["sample_id", "sender", "receiver", column], "edge_patching")
    for name in ("corruption", "direction", "task", "method"):
        if name in effects:
            pick(effects, "edge_patching", **{name: None})
    units = [UNIT] if UNIT in effects else []
    edge = ["sender", "receiver"]
    # Names stand in millions of rows: as numbers, they are grouped many times faster.
    known = effects[["sample_id", *units, *edge, column]].dropna(subset=[column])
    known = known.astype(dict.fromkeys(edge, "category"))
    by_pair = known.groupby([*edge, *units, "sample_id"], observed=True, sort=False)[column].sum()
    if by_pair.empty:
        raise VlmtraceError(f"The edge_patching table has no pair with a {column}: choose pairs whose answer changes.")
    by_unit = by_pair.groupby(level=[*edge, *(units or ["sample_id"])], observed=True, sort=False).mean()
    n = by_pair.groupby(level=edge, observed=True, sort=False).size()
    grouped = by_unit.groupby(level=edge, observed=True, sort=False)
    table = pd.DataFrame({"score": grouped.mean(), "n": n, "n_units": grouped.size()}).reset_index()
    return table.astype(dict.fromkeys(edge, str))


@checked
def choose_circuit(
    model: VLM, scores: pd.DataFrame, n_edges: Natural, rule: str = "greedy", prune: bool = True
) -> pd.DataFrame:
    """Choose a circuit of so many edges by their scores, and take away what reaches neither end.

    Both rules are those of MIB (Mueller et al. 2025, https://arxiv.org/abs/2504.13151), with scores by their size:
    one that works against the answer is a part of how the model makes it. The signed rules leave these to the end.

    Args:
        model: whose edges they are
        scores: from `edge_scores`, or any table with sender, receiver and score; edges that it lacks are not chosen
        n_edges: how many are chosen, before those that reach only one end are taken away
        rule: "greedy": grown from the output, each time by the best edge that leads into a node of the circuit;
            "best": the best edges wherever they are; "greedy-signed", "best-signed": by scores with their sign, so that
            edges that work against the answer come last
        prune: take away edges that lie on no way from an input to the output

    Returns:
        the circuit, in the order in which edges were chosen: sender, receiver, score

    Raises:
        VlmtraceError: a name is unknown, or fewer edges have a score, or are reached from the output

    Example:
        >>> import pandas as pd
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> asked, told = "text_encoder.cross_attention.0.1", "text_decoder.cross_attention.3.0"
        >>> senders = ["image", asked, told, "text_encoder.mlp.0"]
        >>> receivers = [f"{asked}.value", f"{told}.value", "output", "text_encoder.mlp.1"]
        >>> scores = pd.DataFrame({"sender": senders, "receiver": receivers, "score": [0.3, 0.5, 1.0, -2.0]})
        >>> vt.choose_circuit(model, scores, 4, rule="best")["sender"].tolist()  # nothing reads text_encoder.mlp.1
        ['text_decoder.cross_attention.3.0', 'text_encoder.cross_attention.0.1', 'image']
    """
    graph = EdgeGraph(model)
    values = graph.scores_of(scores)
    order = graph.order(values, one_of(rule, RULES, "rule"))
    refuse_more(graph, order, n_edges)
    chosen = order[:n_edges]
    if prune:
        kept = graph.first(order, n_edges)
        chosen = chosen[kept[chosen]]
    return graph.table(chosen, values)


def refuse_more(graph: EdgeGraph, order: np.ndarray, k: int) -> None:
    """Raise a sentence if a circuit is to have more edges than can be chosen.

    Args:
        graph: of the model
        order: the edges that can be chosen
        k: how many are to be

    Raises:
        VlmtraceError: there are fewer
    """
    if k > len(order):
        raise VlmtraceError(
            f"A circuit of {k} edges cannot be chosen: of the {len(graph)} edges of {graph.model.name}, {len(order)} "
            "have a score and can be reached by the rule. Choose fewer, or score more edges."
        )


def mean_over_units(values: np.ndarray, units: np.ndarray | None) -> np.ndarray:
    """The mean over units of the means over their pairs.

    Args:
        values: (pair, k)
        units: (pair,); None: every pair is one

    Returns:
        (k,)
    """
    return stats.unit_means(values, units).mean(0)
