"""What is true in a planted model, and what a table of scores says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from vlmtrace.benchmarks.circuits.node_methods import scored_nodes
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.types import Array
from vlmtrace.methods.edges.listing import edges
from vlmtrace.models import VLM
from vlmtrace.models.known import KnownCircuit

#: What is scored.
OF = ("edges", "nodes", "heads")


class Target(NamedTuple):
    """What is scored of one model under one corruption: edges, nodes or heads.

    Attributes:
        labels: names of nodes, or (sender, receiver)
        carrying: (n,) bool, those of the circuit that carry something else in the corrupt run
        listed: (n,) bool, all of the circuit
        joint: (n,) bool, those that back each other up
    """

    labels: pd.Index
    carrying: Array
    listed: Array
    joint: Array


def targets_of(model: VLM, known: KnownCircuit, corruption: str) -> dict[str, Target]:
    """Everything that can be scored of a model: all of its edges; its heads and mlps; its heads.

    Args:
        model: with a planted circuit
        known: the circuit
        corruption: "image" or "text"
    """
    nodes = scored_nodes(model)
    listed = edges(model)[["sender", "receiver"]].astype(str)
    circuit = zip(known.edges["sender"], known.edges["receiver"], strict=True)
    found = {
        "edges": _target(pd.MultiIndex.from_frame(listed), known.true_edges(corruption), set(circuit), ()),
    }
    for of, chosen in (("nodes", nodes), ("heads", [node for node in nodes if node.head is not None])):
        labels = pd.Index([node.label for node in chosen])
        found[of] = _target(labels, known.true_nodes(corruption), set(known.nodes["node"]), known.joint)
    return found


def _target(labels: pd.Index, carrying: set, listed: set, joint: Sequence[str]) -> Target:
    return Target(labels, *(np.array([one in some for one in labels]) for some in (carrying, listed, set(joint))))


def ranked(table: pd.DataFrame, targets: dict[str, Target], method: str, model: str) -> dict[str, Array]:
    """Scores (draw, n) of edges, nodes and heads, as far as a method gives them; what it leaves out is at −inf.

    Args:
        table: what the method returned
        targets: of the model
        method: its name, for the sentence
        model: its name, for the sentence

    Raises:
        VlmtraceError: the table is not what a method has to return
    """
    _check(table, method)
    draws = table["draw"] if "draw" in table else pd.Series(0, index=table.index)
    numbers, values = draws.factorize()
    table = table.assign(number=numbers)
    full: dict[str, Array] = {}
    if "sender" in table:
        mine = table if "node" not in table else table[table["sender"].notna()]
        labels = pd.MultiIndex.from_frame(mine[["sender", "receiver"]].astype(str))
        full["edges"] = _placed(mine, labels, len(values), targets["edges"], method, model)
    if "node" in table:
        # The image, the prompt and the output are nodes, too, and are not scored.
        mine = table[table["node"].notna() & ~table["node"].isin(["image", "prompt", "output"])]
        labels = pd.Index(mine["node"].astype(str))
        nodes = _placed(mine, labels, len(values), targets["nodes"], method, model)
    else:
        nodes = _best_sent(full["edges"], targets)
    is_head = targets["nodes"].labels.isin(targets["heads"].labels)
    if np.isfinite(nodes[:, ~is_head]).any():
        full["nodes"] = nodes
    return {**full, "heads": nodes[:, is_head]}


def _check(table: pd.DataFrame, method: str) -> None:
    columns = set(table) if isinstance(table, pd.DataFrame) else set()
    if "score" not in columns or not ("node" in columns or {"sender", "receiver"} <= columns):
        raise VlmtraceError(
            f"The method {method!r} has to return a table with the column score, and node, or sender and receiver."
        )
    scores = table["score"]
    if not pd.api.types.is_numeric_dtype(scores) or not np.isfinite(scores.to_numpy(float, na_value=np.nan)).all():
        raise VlmtraceError(f"The method {method!r} gives scores that are no finite numbers: leave out what has none.")


def _best_sent(edge_scores: Array, targets: dict[str, Target]) -> Array:
    """Of each node the best score among the edges that it sends, (draw, n)."""
    numbers = targets["nodes"].labels.get_indexer(targets["edges"].labels.get_level_values("sender"))
    sent = numbers >= 0  # image and prompt send, too
    best = np.full((len(edge_scores), len(targets["nodes"].labels)), -np.inf)
    for row, scores in zip(best, edge_scores, strict=True):
        np.maximum.at(row, numbers[sent], scores[sent])
    return best


def _placed(table: pd.DataFrame, labels: pd.Index, n_draws: int, target: Target, method: str, model: str) -> Array:
    numbers = table["number"].to_numpy()
    at = target.labels.get_indexer(labels)
    if (at < 0).any():
        unknown = labels[int(np.argmax(at < 0))]
        name = " → ".join(unknown) if isinstance(unknown, tuple) else unknown
        raise VlmtraceError(
            f"The method {method!r} scores {name!r}, which {model} does not have: use names that vt.edges(model) lists."
        )
    if pd.MultiIndex.from_arrays([numbers, at]).has_duplicates:
        raise VlmtraceError(f"The method {method!r} scores something twice: return one row for each node or edge.")
    found = np.full((n_draws, len(target.labels)), -np.inf)
    found[numbers, at] = table["score"].to_numpy(float)
    return found
