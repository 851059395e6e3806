"""The edges of a model as arrays: numbers for names, what reaches both ends, and the order in which edges are taken.

Shapes: E edges of the model, C circuits.
"""

from __future__ import annotations

import heapq

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_columns
from vlmtrace.core.types import Array
from vlmtrace.models import VLM
from vlmtrace.models.edges.nodes import INPUT, THE_OUTPUT, Node
from vlmtrace.models.edges.wiring import edges_of

#: How edges are taken by their scores: the best ones wherever they are, or those that join what has grown from the
#: output.
RULES = ("greedy", "best", "greedy-signed", "best-signed")


class EdgeGraph:
    """All edges of a model, numbered in the order of `edges`.

    Attributes:
        model: whose they are
        edges: all of them
        senders: (E,), the number of each edge's sender
        receivers: (E,), the number of the node that each edge enters
        whole: (E,) bool, the edges that are on some way from an input to the output
    """

    def __init__(self, model: VLM):
        """Number the nodes of a model.

        Args:
            model: BLIP, or decoder-only with the fast sweep

        Raises:
            VlmtraceError: the model's layers are not known node by node
        """
        self.model, self.edges = model, edges_of(model)
        numbers: dict[Node, int] = {}
        for edge in self.edges:
            numbers.setdefault(edge.sender, len(numbers))
            numbers.setdefault(edge.receiver.node, len(numbers))
        self.senders = np.array([numbers[edge.sender] for edge in self.edges])
        self.receivers = np.array([numbers[edge.receiver.node] for edge in self.edges])
        self._is_input = np.array([node.block == INPUT for node in numbers])
        self._output = numbers[THE_OUTPUT]
        self._places = {(edge.sender.label, edge.receiver.label): i for i, edge in enumerate(self.edges)}
        self.whole = self.pruned(np.ones(len(self.edges), dtype=bool))

    def __len__(self) -> int:
        """How many edges there are."""
        return len(self.edges)

    def numbers_of(self, table: pd.DataFrame, name: str = "circuit") -> Array:
        """The numbers of the edges that a table names, row by row.

        Args:
            table: with the columns sender and receiver
            name: what sentences call it

        Returns:
            (row,) int

        Raises:
            VlmtraceError: a column is missing, or an edge is unknown or named twice
        """
        check_columns(table, ["sender", "receiver"], name)
        named = list(zip(table["sender"].astype(str), table["receiver"].astype(str), strict=True))
        unknown = [one for one in named if one not in self._places]
        if unknown:
            sender, receiver = unknown[0]
            raise VlmtraceError(
                f"{self.model.name} has no edge from {sender!r} to {receiver!r}, nor {len(unknown) - 1} others of the "
                f"{len(named)} that the {name} table names: use edges that vt.edges(model) lists, or a model of the "
                "shape that they come from."
            )
        numbers = np.array([self._places[one] for one in named], dtype=int)
        if len(set(named)) < len(named):
            twice = pd.Series(named)[pd.Series(named).duplicated()].iloc[0]
            raise VlmtraceError(
                f"The {name} table names the edge from {twice[0]!r} to {twice[1]!r} more than once: drop the copies."
            )
        return numbers

    def inside(self, circuit: pd.DataFrame) -> Array:
        """Which edges are in a circuit: (E,) bool; see `numbers_of`."""
        found = np.zeros(len(self), dtype=bool)
        found[self.numbers_of(circuit)] = True
        return found

    def scores_of(self, scores: pd.DataFrame) -> Array:
        """The scores of a table by edge: (E,), missing where it has none.

        Args:
            scores: with the columns sender, receiver and score

        Raises:
            VlmtraceError: a column is missing, an edge is unknown or named twice, or no score is a number
        """
        check_columns(scores, ["score"], "scores")
        found = np.full(len(self), np.nan)
        values = pd.to_numeric(scores["score"], errors="coerce").to_numpy(dtype=float)
        found[self.numbers_of(scores, "scores")] = np.where(np.isfinite(values), values, np.nan)
        if np.isnan(found).all():
            raise VlmtraceError("The scores table gives no edge a finite score: compute it by edge_scores.")
        return found

    def order(self, scores: Array, rule: str = "greedy") -> Array:
        """Edges in the order in which a circuit takes them.

        "best": by the size of their scores. "greedy": the best of those that lead into what has been taken, beginning
        with what leads into the output. As the edges of a node all come in when its first way out does, the first k
        are the circuit of MIB (Mueller et al. 2025, https://arxiv.org/abs/2504.13151) of size k. "…-signed": the same
        by the scores themselves, so that edges against the answer come last; MIB's code knows both.

        Args:
            scores: (E,); edges whose score is missing are never taken
            rule: one of `RULES`

        Returns:
            their numbers; among equals, the one that is read earlier comes first
        """
        size = scores if rule.endswith("-signed") else np.abs(scores)
        known = np.flatnonzero(~np.isnan(size))
        by_size = known[np.argsort(-size[known], kind="stable")]
        if rule.startswith("best"):
            return by_size
        entering: dict[int, list[int]] = {}
        for edge in known.tolist():
            entering.setdefault(int(self.receivers[edge]), []).append(edge)
        reached = {self._output}
        waiting = [(-size[edge], edge) for edge in entering.get(self._output, [])]
        heapq.heapify(waiting)
        found = []
        while waiting:
            _, edge = heapq.heappop(waiting)
            found.append(edge)
            node = int(self.senders[edge])
            if node not in reached:
                reached.add(node)
                for other in entering.get(node, []):
                    heapq.heappush(waiting, (-size[other], other))
        return np.array(found, dtype=int)

    def first(self, order: Array, k: int) -> Array:
        """The circuit (E,) bool of the first k edges of an order, without those that reach only one end."""
        found = np.zeros(len(self), dtype=bool)
        found[order[:k]] = True
        return self.pruned(found)

    def pruned(self, inside: Array) -> Array:
        """Take away edges that are on no way from an input to the output, until none is left.

        What is taken away changes no run: a node that none of the circuit's edges enters gives what it gives in the
        corrupt run, and one that none leaves is not read.

        Args:
            inside: (E,) bool

        Returns:
            (E,) bool
        """
        edges = np.flatnonzero(inside)
        while True:
            is_entered, is_read = self._is_input.copy(), np.zeros(len(self._is_input), dtype=bool)
            is_entered[self.receivers[edges]] = True
            is_read[self.senders[edges]] = True
            is_read[self._output] = True
            kept = edges[is_entered[self.senders[edges]] & is_read[self.receivers[edges]]]
            if len(kept) == len(edges):
                break
            edges = kept
        found = np.zeros(len(self), dtype=bool)
        found[edges] = True
        return found

    def table(self, chosen: Array, scores: Array | None = None) -> pd.DataFrame:
        """Edges as a circuit: sender, receiver and score.

        Args:
            chosen: numbers of edges, in the order of the rows
            scores: (E,); None: all missing
        """
        values = np.full(len(self), np.nan) if scores is None else scores
        return pd.DataFrame(
            {
                "sender": pd.Series([self.edges[i].sender.label for i in chosen], dtype=str),
                "receiver": pd.Series([self.edges[i].receiver.label for i in chosen], dtype=str),
                "score": values[np.asarray(chosen, dtype=int)].astype(float),
            }
        )
