"""Run pairs with circuits of edges, and say how much of the answer a circuit carries.

Shapes: C circuits, E edges of the model, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vlmtrace.core.arguments import Positive, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import UNIT, validate_pairs
from vlmtrace.core.types import Array
from vlmtrace.inputs.batching import one_by_one
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.pair_runs import PairRuns
from vlmtrace.methods.edges.graph import EdgeGraph
from vlmtrace.methods.patching.metrics import patching_effect
from vlmtrace.methods.patching.run_sweep import memory_bytes
from vlmtrace.models import VLM, Readout
from vlmtrace.models.edges.circuit_run import divergences, run_circuits
from vlmtrace.models.edges.stacks import Stack, stacks_of


@checked
def run_edge_circuits(
    model: VLM,
    pairs: pd.DataFrame,
    circuits: Mapping[str, pd.DataFrame],
    corruption: str = "image",
    memory_gb: Positive | None = None,
    contrast: str = "answer",
) -> pd.DataFrame:
    """Run pairs with circuits of edges: what is inside is computed, what is outside carries its corrupt value.

    The circuit run of Wang et al. 2022 (https://arxiv.org/abs/2211.00593), Conmy et al. 2023
    (https://arxiv.org/abs/2304.14997) and MIB (Mueller et al. 2025, https://arxiv.org/abs/2504.13151), edge by edge:
    the image and the prompt enter clean along edges of the circuit, every node computes its output from what its edges
    carry, and an edge that is not in the circuit carries what its sender gives in the corrupt run. With all edges that
    is the clean run, with none the corrupt one.

    Args:
        model: BLIP, or decoder-only with the fast sweep
        pairs: a pairs table
        circuits: by name, each with the columns sender and receiver; one may be without rows
        corruption: "image" or "text": of the run that gives what lies outside
        memory_gb: as in `patch_modules`
        contrast: as in `patch_modules`

    Returns:
        one row per pair and circuit: sample_id, unit (if the pairs have it), corruption, circuit (its name), n_edges,
        logit_diff (LD of this run, in logits), logit_diff_none and logit_diff_all (LD without any edge and with all:
        of the corrupt and of the clean run), patching_effect (0: the corrupt answer, 1: the clean one; missing where
        they do not differ)

    Raises:
        VlmtraceError: the model has no such edge, or there is no circuit

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> every = vt.edges(model)
        >>> circuits = {"none": every[:0], "no image": every[every["sender"] != "image"], "all": every}
        >>> ran = vt.run_edge_circuits(model, vt.load_pairs("rendered_states", n=2), circuits)
        >>> ran.groupby("circuit", sort=False)["patching_effect"].mean().round(3).abs().tolist()
        [0.0, 0.0, 1.0]
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    if not circuits:
        raise VlmtraceError("There is no circuit to run: name one, as in {'mine': circuit}.")
    graph = EdgeGraph(model)
    inside = np.stack([graph.inside(circuit) for circuit in circuits.values()])
    ran = run_inside(graph, pairs, inside, corruption, memory_gb, contrast, f"{len(circuits)} circuits of edges")
    ran["circuit"] = np.array(list(circuits), dtype=object)[ran["circuit"]]
    columns = ["sample_id", UNIT, "corruption", "circuit", "n_edges", "logit_diff", "logit_diff_none"]
    return ran[[name for name in [*columns, "logit_diff_all", "patching_effect"] if name in ran]]


def run_inside(
    graph: EdgeGraph,
    pairs: pd.DataFrame,
    inside: Array,
    corruption: str,
    memory_gb: float | None = None,
    contrast: str = "answer",
    what: str = "circuits",
) -> pd.DataFrame:
    """As `run_edge_circuits`, with circuits as (C, E) bool; `circuit` is the row of each."""
    ready = PreparedPairs(graph, pairs, corruption, memory_gb, contrast)
    pairs, n_edges = ready.pairs, inside.sum(1)
    kept = np.stack([graph.pruned(one) for one in inside])
    tables: dict[int, pd.DataFrame] = {}
    with counter(len(pairs), f"{what}, {corruption} corruption") as advance:
        for row, pair in ready:
            logit_diff = pair.logit_diffs(graph, kept, ready.memory)
            tables[row] = pd.DataFrame(
                {
                    "sample_id": pairs["sample_id"].iloc[row],
                    **({UNIT: pairs[UNIT].iloc[row]} if UNIT in pairs else {}),
                    "corruption": corruption,
                    "circuit": range(len(inside)),
                    "n_edges": n_edges,
                    "logit_diff": logit_diff,
                    "logit_diff_none": pair.corrupt,
                    "logit_diff_all": pair.clean,
                    "patching_effect": patching_effect(logit_diff, pair.clean, pair.corrupt),
                }
            )
            advance(1)
    return pd.concat([tables[row] for row in sorted(tables)], ignore_index=True)


@dataclass(frozen=True)
class PreparedPair:
    """Both runs of one pair, taken apart.

    Attributes:
        sides: its stacks; where an answer has several tokens, those of the runs with either answer given
        clean: LD of the clean run
        corrupt: LD of the corrupt run
        whole: (vocabulary,) logits of the clean run where the answer begins
        nbytes: what the runs occupy
    """

    sides: tuple[list[Stack], ...]
    clean: float
    corrupt: float
    whole: Tensor
    nbytes: int

    @classmethod
    def of(cls, model: VLM, runs: PairRuns) -> PreparedPair:
        """Take both runs of one pair apart.

        Args:
            model: that ran
            runs: of one pair
        """
        sides = [(runs, runs.answer_ids)] if runs.whole is None else [(side, side.ids) for side in runs.whole]
        stacks = tuple(stacks_of(model, one.clean, one.corrupt, one.inputs, ids) for one, ids in sides)
        nbytes = sum(one.clean.nbytes + one.corrupt.nbytes for one, _ in sides)
        clean, corrupt = (side.logit_diff.item() for side in (runs.clean_readout, runs.corrupt_readout))
        return cls(stacks, clean, corrupt, runs.clean.logits[0], nbytes)

    def logit_diffs(self, graph: EdgeGraph, inside: Array, memory: int) -> Array:
        """LD of the pair with each circuit.

        Args:
            graph: of the model
            inside: (C, E) bool, without edges that reach one end only; circuits that agree are run once
            memory: bytes that streams may take

        Returns:
            (C,), in logits
        """
        rows, place = _distinct(inside)
        # Both ends are known without a run.
        is_none, is_all = ~inside[rows].any(1), (inside[rows] == graph.whole).all(1)
        found = np.where(is_all, self.clean, self.corrupt)
        is_run = ~is_none & ~is_all
        if is_run.any():
            carried = torch.from_numpy(inside[rows[is_run]])
            sides = [run_circuits(stacks, graph.edges, carried, memory) for stacks in self.sides]
            readout = sides[0] if len(sides) == 1 else Readout.of_two(*sides)
            found[is_run] = readout.logit_diff[0].cpu().numpy()
        return found[place]

    def divergences(self, graph: EdgeGraph, inside: Array, memory: int) -> Array:
        """KL divergence from the clean run, of the distribution over the token with which an answer begins.

        Args:
            graph: of the model
            inside: as in `logit_diffs`
            memory: bytes that streams may take

        Returns:
            (C,), in nats: 0 for the whole model
        """
        rows, place = _distinct(inside)
        found, is_run = np.zeros(len(rows)), ~(inside[rows] == graph.whole).all(1)
        if is_run.any():
            carried = torch.from_numpy(inside[rows[is_run]])
            # What is given of an answer comes behind this token, so either side's runs will do.
            found[is_run] = divergences(self.sides[0], graph.edges, carried, self.whole, memory).cpu().numpy()
        return found[place]


def _distinct(inside: Array) -> tuple[Array, list[int]]:
    """Rows (D,) of circuits (C, E) that differ, and of each circuit the place of its like among them."""
    known: dict[bytes, int] = {}
    place = [known.setdefault(one.tobytes(), len(known)) for one in inside]
    return np.array([place.index(i) for i in range(len(known))], dtype=int), place


class PreparedPairs:
    """Pairs whose runs are made once and kept, as long as they fit into the memory; beyond it they are made anew.

    Attributes:
        graph: of the model that runs them
        pairs: their table
        memory: bytes that the streams of a run may take
    """

    def __init__(
        self,
        graph: EdgeGraph,
        pairs: pd.DataFrame,
        corruption: str,
        memory_gb: float | None = None,
        contrast: str = "answer",
    ):
        """Prepare nothing yet.

        Args:
            graph: of the model
            pairs: a pairs table
            corruption: "image" or "text"
            memory_gb: as in `patch_modules`; half of it is for runs that are kept
            contrast: as in `patch_modules`

        Raises:
            VlmtraceError: the table breaks the contract
        """
        self.graph, self.pairs = graph, validate_pairs(pairs).reset_index(drop=True)
        self._corruption, self._contrast = corruption, contrast
        self.memory = max(1, memory_bytes(graph.model, memory_gb) // 2)
        self._kept: list[tuple[int, PreparedPair]] | None = None
        self._fits = True

    def __iter__(self) -> Iterator[tuple[int, PreparedPair]]:
        """Every pair's row number and runs."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[tuple[int, PreparedPair]] = []
        for row, runs in one_by_one(self.graph.model, self.pairs, self._corruption, self._contrast):
            pair = PreparedPair.of(self.graph.model, runs)
            kept.append((row, pair))
            self._fits = self._fits and sum(one.nbytes for _, one in kept) <= self.memory
            if not self._fits:
                kept.clear()
            yield row, pair
        if self._fits:
            self._kept = kept

    @property
    def units(self) -> Array | None:
        """(P,), the unit of each pair; None: every pair is one."""
        return self.pairs[UNIT].to_numpy() if UNIT in self.pairs else None
