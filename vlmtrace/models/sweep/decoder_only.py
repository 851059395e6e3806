"""Exact patching sweeps for decoder-only models: the numbers of the hooked reference, for a fraction of its work.

Attention is causal, so a patch at position t cannot change positions before t: keys and values of those come from the
corrupt run, and only positions from t on, in layers from the patched one on, are run again, by the model's own layers.
Where a mask lets earlier positions see t (the image's block in some families), the first position that t can reach
takes the place of t; it is computed from the masks, layer by layer.

Shapes: P pairs of equal length, S states (patches) per pair, T positions, L positions that are run again, D width.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from vlmtrace.models.hooks import attach_hooks, with_model_lock
from vlmtrace.models.layer_kinds import STATE
from vlmtrace.models.products import by_fast_products
from vlmtrace.models.sweep.chunking import in_chunks
from vlmtrace.models.sweep.layer_sweep import (
    concat_states,
    gather_rows,
    head_columns,
    restore_window_hooks,
    sweep_layers,
    with_heads,
)
from vlmtrace.models.sweep.replay import BLOCK, Replay
from vlmtrace.models.sweep.vision_patches import sweep_vision
from vlmtrace.models.types import AnswerIds, Inputs, Patches, Readout, Trace, positions_read
from vlmtrace.models.vlm import VLM

#: Floating-point operations that take about as long as it takes to call a layer, by kind of device.
OPERATIONS_WORTH_A_CALL = {"cpu": 2e7, "cuda": 2e11}


@with_model_lock
@torch.no_grad()
@by_fast_products
def sweep(
    model: VLM, clean: Trace, corrupt: Trace, inputs: Inputs, patches: Patches, answer_ids: AnswerIds, memory: int
) -> Readout:
    """Answer every patch of a batch of pairs; see `ModelInterface.sweep`."""
    if patches.block == "vision_encoder":
        return sweep_vision(model, clean, corrupt, inputs, patches, answer_ids, memory)
    replay = Replay(model, corrupt)
    readouts, order, n_read = [], [], positions_read(answer_ids)
    for first, chosen in groups(replay.first_reached(patches), rows_worth_a_call(model)):
        size = max(1, (memory - replay.nbytes) // (len(answer_ids) * replay.state_bytes(first, n_read)))
        run = SuffixSweep(model, replay, clean, corrupt, first)
        readouts.append(in_chunks(patches.subset(chosen), size, partial(run.answer, answer_ids=answer_ids)))
        order += chosen
    found = Readout.cat(readouts, dim=1)
    back = torch.tensor(order, device=found.correct.device).argsort()
    return Readout(found.correct[:, back], found.incorrect[:, back], found.log_normalizer[:, back])


def rows_worth_a_call(model: VLM) -> float:
    """How many rows of a layer take about as long as it takes to call the layer at all."""
    parameters = sum(one.numel() for one in model.layer_module(BLOCK, 0).parameters())
    return OPERATIONS_WORTH_A_CALL.get(model.device.type, OPERATIONS_WORTH_A_CALL["cpu"]) / (2 * parameters)


def groups(firsts: list[int], affordable: float) -> list[tuple[int, list[int]]]:
    """Patches that are run together: each from its own first position on, or from an earlier one where that is cheap.

    Args:
        firsts: for each patch, the first position that it can change
        affordable: how many rows may be run in vain to spare a pass through the layers

    Returns:
        the position that a group starts with, and the numbers of its patches

    >>> groups([7, 3, 4, 3, 30], affordable=2)
    [(3, [1, 3, 2]), (7, [0]), (30, [4])]
    """
    found: list[tuple[int, list[int]]] = []
    for first in sorted(set(firsts)):
        chosen = [i for i, at in enumerate(firsts) if at == first]
        if found and (first - found[-1][0]) * len(chosen) <= affordable:
            found[-1][1].extend(chosen)
        else:
            found.append((first, chosen))
    return found


class SuffixSweep:
    """The patches whose states differ from the corrupt run from position `first` on."""

    def __init__(self, model: VLM, replay: Replay, clean: Trace, corrupt: Trace, first: int):
        """Prepare to answer patches.

        Args:
            model: with visual tokens
            replay: of the corrupt runs
            clean: trace of the clean runs
            corrupt: trace of the corrupt runs
            first: the first position that is run again
        """
        self.model, self.replay, self.clean, self.corrupt, self.first = model, replay, clean, corrupt, first

    def answer(self, patches: Patches, answer_ids: AnswerIds) -> Readout:
        """Readout (P, S) of patches sorted by layer."""
        n_layers, n_read = len(self.replay.layers), positions_read(answer_ids)
        shared = self.replay.pass_from(self.first)

        def start(layer: int) -> int:
            # Above the last layer only the positions that are read out matter.
            return self.first if layer + 1 < n_layers else max(self.first, self.replay.length - n_read)

        def enter(layer: int, entering: Patches) -> Tensor:
            return self.enter(layer, entering, start(layer))

        def advance(layer: int, changed: Tensor | None, fresh: Tensor | None, _rows: Tensor) -> Tensor:
            states = concat_states(changed, fresh)
            self.replay.prepare(layer, self.first)
            restored = restore_window_hooks(self.model, self.clean, patches, layer, states.shape[1], self.first)
            if layer + 1 == n_layers and not restored:
                return self.replay.advance_read(layer, states, self.first, self.replay.length - start(layer), shared)
            with attach_hooks(restored):
                return self.replay.advance(layer, states, self.first, shared)[:, :, start(layer) - self.first :]

        states = sweep_layers(n_layers, patches, enter, advance)
        return Readout.of_last(self.model.read(states[:, :, -n_read:]), answer_ids)

    def enter(self, layer: int, patches: Patches, start: int) -> Tensor:
        """The corrupt layer output from `start` on, recomputed where each patch changes it: (P, S, rows, D)."""
        output = self.corrupt[BLOCK, "residual", layer][:, start:]  # (P, rows, D)
        states = output.unsqueeze(1).repeat(1, len(patches), 1, 1)
        # A patch that is not read out any more changes nothing.
        reached = list(range(len(patches)))
        if patches.position_masks is None:
            reached = [i for i, at in enumerate(patches.positions[0].tolist()) if at >= start]
        by_module: dict[str, list[int]] = {}
        for i in reached:
            by_module.setdefault(patches.modules[i], []).append(i)
        for module, chosen in by_module.items():
            some = patches.subset(chosen)
            if some.position_masks is not None:
                states[:, chosen] = self._masked(layer, module, some, start)
            else:
                at = some.positions[0].to(states.device) - start
                states[:, chosen, at] = self._single(layer, module, some)
        return states

    def _single(self, layer: int, module: str, patches: Patches) -> Tensor:
        """The layer's output (P, S, D) at the one position that each patch changes."""
        new = gather_rows(self.clean[BLOCK, module, layer], patches.positions)
        if module == "residual":
            return new
        block, context, mlp = self.model.blocks[BLOCK], None, None
        if block.has("self_attention", layer):
            context = gather_rows(self.corrupt[BLOCK, "self_attention", layer], patches.positions)
        if module == "mlp":
            mlp = new
        else:
            assert context is not None, "it is patched"
            context = with_heads(patches.heads, block.heads_at(layer), new, context)
        return self.replay.single_rows(layer, patches.positions[0], context, mlp)

    def _masked(self, layer: int, module: str, patches: Patches, start: int) -> Tensor:
        """The layer's output (P, S, rows, D) from `start` on, where each patch sets several positions."""
        rows = slice(start, None)
        assert patches.position_masks is not None
        # (P, S, rows, 1)
        chosen = patches.position_masks[:, :, rows, None].to(self.clean[BLOCK, module, layer].device)
        if any(head is not None for head in patches.heads):
            n_heads = self.model.blocks[BLOCK].heads_at(layer)
            width = self.clean[BLOCK, module, layer].shape[-1]
            chosen = chosen & head_columns(patches.heads, n_heads, width, chosen.device)[:, None]
        # (P, 1, rows, D) each
        clean, corrupt = (trace[BLOCK, module, layer][:, None, rows] for trace in (self.clean, self.corrupt))
        new = torch.where(chosen, clean, corrupt)
        if module == "residual":
            return new
        if module == "self_attention":
            return self.replay.rows(layer, rows, new, None)
        if not self.model.blocks[BLOCK].has("self_attention", layer):
            return self.replay.rows(layer, rows, None, new)
        context = self.corrupt[BLOCK, "self_attention", layer][:, None, rows].expand(-1, len(patches), -1, -1)
        return self.replay.rows(layer, rows, context, new)


# Whole sets of heads ------------------------------------------------------------


@with_model_lock
@torch.no_grad()
@by_fast_products
def run_with_fixed_heads(
    model: VLM, clean: Trace, corrupt: Trace, keep_clean: dict[str, Tensor], start: str, answer_ids: AnswerIds
) -> Readout:
    """Fix the output of every head of the language model; see `ModelInterface.run_with_fixed_heads`.

    Heads alone move anything between positions, so that the positions that are read out are all that has to be run.
    """
    run = clean if start == "clean" else corrupt
    block, keep, replay = model.blocks[BLOCK], keep_clean["self_attention"], Replay(model, run)
    n_read = positions_read(answer_ids)
    rows = slice(0 if STATE in replay.kinds else replay.length - n_read, None)
    stream = run.calls[0].hidden[:, rows].expand(len(keep), -1, -1)  # (set, rows, D)
    for layer, between in enumerate(replay.between):
        n_heads, context = block.heads_at(layer), None
        if n_heads:
            chosen, rest = (
                trace[BLOCK, "self_attention", layer][:, rows] for trace in (clean, corrupt)
            )  # (1, rows, D)
            width = chosen.shape[-1] // n_heads
            mask = keep[:, layer, :n_heads].repeat_interleave(width, dim=-1)[:, None].to(chosen.device)  # (set, 1, D)
            context = torch.where(mask, chosen, rest)
        stream = replay.past_heads(layer, rows, stream, context)
        if between is not None:
            stream = stream + between[:, rows]
    return Readout.of_last(model.read(stream[None, :, -n_read:]), answer_ids)
