"""Several edges at once: what would the corrupt run have answered, had all of them carried the clean output?

    edges = [("image", "text_encoder.cross_attention.2.7.value"), ("text_decoder.cross_attention.3.0", "output")]
    print(intervene_on_edges(model, pairs.iloc[0], edges, corruption="image"))

`patch_edges` patches every edge by itself; here they act together, those above on what those below have changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.pair_runs import PairRuns, encode_pair, run_pairs
from vlmtrace.methods.patching.metrics import patching_effect
from vlmtrace.methods.patching.run_sweep import default_memory, memory_for_states
from vlmtrace.models import VLM, Readout
from vlmtrace.models.edges.circuit_run import OF_BASE, OF_RUN, OF_SOURCE, run_circuits
from vlmtrace.models.edges.nodes import INPUT, Edge
from vlmtrace.models.edges.stacks import stacks_of
from vlmtrace.models.edges.wiring import edges_of


@dataclass(frozen=True)
class EdgeOutcome:
    """What edges did to the answer.

    Attributes:
        readouts: by run ("clean", "corrupt", "patched"), logits of the two options
    """

    readouts: dict[str, Readout]

    @property
    def patching_effect(self) -> float:
        """(LD_patched − LD_corrupt) / (LD_clean − LD_corrupt); NaN where clean and corrupt do not differ."""
        return float(patching_effect(*(self.logit_diff(run) for run in ("patched", "clean", "corrupt"))))

    def logit_diff(self, run: str = "patched") -> float:
        """LD = logit(correct) − logit(incorrect) of a run.

        Args:
            run: "clean", "corrupt" or "patched"

        Raises:
            VlmtraceError: there is no such run
        """
        return float(self.readouts[one_of(run, self.readouts, "run")].logit_diff)

    def table(self) -> pd.DataFrame:
        """One row per run: run, p_correct (probability of the correct answer, 0 to 1) and logit_diff (logits)."""
        return pd.DataFrame(
            [
                {"run": run, "p_correct": float(readout.p_correct), "logit_diff": float(readout.logit_diff)}
                for run, readout in self.readouts.items()
            ]
        )

    def __str__(self) -> str:
        """LD of each run, and the patching effect."""
        said = ", ".join(f"{run} {self.logit_diff(run):.2f}" for run in self.readouts)
        return f"LD: {said}; patching effect {self.patching_effect:.3f}"


@checked
def intervene_on_edges(
    model: VLM, pair: Mapping[str, Any] | pd.Series, edges: Sequence[tuple[str, str]], corruption: str = "image"
) -> EdgeOutcome:
    """Run one pair's corrupt input, with some edges that carry what their senders give in the clean run.

    Args:
        model: BLIP, or decoder-only with the fast sweep
        pair: a row of a pairs table
        edges: (sender, receiver), named as `vt.edges` lists them; none leaves the corrupt run as it is
        corruption: "image" or "text"

    Returns:
        what the edges did to the answer

    Raises:
        VlmtraceError: the model has no such edge, or the pair's runs cannot be aligned

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.methods.edges import intervene_on_edges
        >>> model = vt.load_model("tiny-blip")
        >>> pair = vt.load_pairs("rendered_states", n=1).iloc[0]
        >>> heads = [f"text_decoder.cross_attention.{head}" for head in ("3.0", "2.7", "3.2", "2.2")]
        >>> outcome = intervene_on_edges(model, pair, [(head, "output") for head in heads])
        >>> round(outcome.patching_effect, 1)
        0.4
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    frame = pd.DataFrame([dict(pair)])
    runs = run_pairs(model, frame, [encode_pair(model, frame, 0, corruption)], corruption)
    return intervene_on_edges_in(model, runs, edges)


def intervene_on_edges_in(
    model: VLM, runs: PairRuns, edges: Sequence[tuple[str, str]], as_circuit: bool = False
) -> EdgeOutcome:
    """Do the same as `intervene_on_edges`, with the runs of a pair that have been computed.

    Args:
        model: any whose edges are known
        runs: of one pair
        edges: (sender, receiver)
        as_circuit: run them as a circuit: they carry what this run gives, the inputs what is clean, and every other
            edge carries what the corrupt run gives

    Raises:
        VlmtraceError: the model has no such edge
    """
    known = edges_of(model)
    carried = _carried(model, known, set(edges), as_circuit)[None]
    memory = memory_for_states(default_memory(model), runs)
    if runs.whole is None:
        stacks = stacks_of(model, runs.clean, runs.corrupt, runs.inputs, runs.answer_ids)
        patched = run_circuits(stacks, known, carried, memory)
    else:
        sides = [stacks_of(model, side.clean, side.corrupt, side.inputs, side.ids) for side in runs.whole]
        patched = Readout.of_two(*(run_circuits(stacks, known, carried, memory) for stacks in sides))
    return EdgeOutcome({"clean": runs.clean_readout, "corrupt": runs.corrupt_readout, "patched": patched})


def _carried(model: VLM, known: Sequence[Edge], wanted: set[tuple[str, str]], as_circuit: bool) -> torch.Tensor:
    """What each edge carries: (edge,)."""
    names = [(edge.sender.label, edge.receiver.label) for edge in known]
    for sender, receiver in sorted(wanted - set(names)):
        raise VlmtraceError(f"{model.name} has no edge from {sender!r} to {receiver!r}: vt.edges(model) lists them.")
    if as_circuit:
        return torch.tensor([OF_RUN if name in wanted else OF_BASE for name in names])
    return torch.tensor(
        [
            # What nobody has chosen carries on what the chosen edges have changed; the inputs stay corrupt.
            OF_SOURCE if name in wanted else OF_BASE if edge.sender.block == INPUT else OF_RUN
            for name, edge in zip(names, known, strict=True)
        ]
    )
