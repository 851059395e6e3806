"""What searches measure circuits by: the share of the answer that one restores, and how far its answers are off.

Shapes: C circuits, E edges of the model, P pairs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.types import Array
from vlmtrace.methods.edges.circuit_runs import PreparedPairs
from vlmtrace.methods.edges.circuits import mean_over_units
from vlmtrace.methods.patching.metrics import SMALLEST_GAP


class Measure(ABC):
    """A number for circuits, on some pairs; those that have been measured are remembered.

    Attributes:
        n_circuits: how many circuits each pair was run with
    """

    def __init__(self, ready: PreparedPairs):
        """Measure nothing yet.

        Args:
            ready: the pairs
        """
        self._ready, self._known = ready, dict[bytes, float]()
        self.n_circuits = 0

    def __call__(self, inside: Array) -> Array:
        """Measure circuits.

        Args:
            inside: (C, E) bool; edges that reach one end only change nothing

        Returns:
            (C,)

        Raises:
            VlmtraceError: these pairs tell nothing
        """
        graph = self._ready.graph
        kept = [graph.pruned(one) for one in inside]
        keys = [one.tobytes() for one in kept]
        new = list({key: one for key, one in zip(keys, kept, strict=True) if key not in self._known}.items())
        if new:
            values = self._run(np.stack([one for _, one in new]))
            self.n_circuits += len(new)
            self._known.update(zip((key for key, _ in new), values, strict=True))
        return np.array([self._known[key] for key in keys])

    @abstractmethod
    def _run(self, inside: Array) -> Array:
        """Run all pairs with circuits (C, E), without edges that reach one end only: (C,)."""


class Shares(Measure):
    """How much circuits restore: (m(C) − m(none)) / (m(all) − m(none)), m the mean LD over units.

    That is 0 without an edge, 1 with all. It is refused where all edges together restore nothing on these pairs.
    """

    def _run(self, inside: Array) -> Array:
        rows = np.empty((len(self._ready.pairs), len(inside) + 2))
        for row, pair in self._ready:
            rows[row] = [*pair.logit_diffs(self._ready.graph, inside, self._ready.memory), pair.corrupt, pair.clean]
        *circuits, none, everything = mean_over_units(rows, self._ready.units)
        if abs(everything - none) < SMALLEST_GAP:
            raise VlmtraceError(
                f"All edges together restore nothing on these {len(rows)} pairs: there is no share that a circuit "
                "could reach. Choose pairs whose answer the corruption changes."
            )
        return (np.array(circuits) - none) / (everything - none)


class Divergences(Measure):
    """Mean KL divergence over units, in nats: of the first token's distribution, the whole model's from the circuit's.

    That is 0 with all edges.
    """

    def _run(self, inside: Array) -> Array:
        rows = np.empty((len(self._ready.pairs), len(inside)))
        for row, pair in self._ready:
            rows[row] = pair.divergences(self._ready.graph, inside, self._ready.memory)
        return mean_over_units(rows, self._ready.units)
