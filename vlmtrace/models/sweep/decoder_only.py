"""Exact patching sweeps for decoder-only models: the numbers of the hooked reference, for a fraction of its work.

Attention is causal, so a patch at position t cannot change positions before t: keys and values of those come from the
corrupt run, and only positions from t on, in layers from the patched one on, are run again, by the model's own layers.
Where a mask lets earlier positions see t (the image's block in some families), the first position that t can reach
takes the place of t; it is computed from the masks, layer by layer.

Shapes: P pairs of equal length, S states (patches) per pair, T positions, L positions that are run again, M positions
of the vision encoder, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.sweep.chunking import in_chunks
from vlmtrace.models.sweep.layer_sweep import (
    concat_states,
    gather_rows,
    head_columns,
    repeat_with_row,
    restore_window_hooks,
    sweep_layers,
    with_heads,
)
from vlmtrace.models.sweep.replay import BLOCK, Replay
from vlmtrace.models.types import AnswerIds, BothAnswers, Inputs, Patches, Readout, Site, Trace, positions_read
from vlmtrace.models.vlm import VLM, inputs_of_pair, repeat_inputs


@torch.no_grad()
def sweep(
    model: VLM, clean: Trace, corrupt: Trace, inputs: Inputs, patches: Patches, answer_ids: AnswerIds, memory: int
) -> Readout:
    """Answer every patch of a batch of pairs; see `ModelInterface.sweep`."""
    if patches.block == "vision_encoder":
        return _vision_encoder(model, clean, corrupt, inputs, patches, answer_ids, memory)
    replay = Replay(model, corrupt)
    firsts = replay.first_reached(patches)
    readouts, order = [], []
    for first in sorted(set(firsts)):
        chosen = [i for i, at in enumerate(firsts) if at == first]
        size = max(1, (memory - replay.nbytes) // (len(answer_ids) * replay.state_bytes(first)))
        run = SuffixSweep(model, replay, clean, corrupt, first)
        readouts.append(in_chunks(patches.subset(chosen), size, partial(run.answer, answer_ids=answer_ids)))
        order += chosen
    found = Readout.cat(readouts, dim=1)
    back = torch.tensor(order, device=found.correct.device).argsort()
    return Readout(found.correct[:, back], found.incorrect[:, back], found.log_normalizer[:, back])


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

        def start(layer: int) -> int:
            # Above the last layer only the positions that are read out matter.
            return self.first if layer + 1 < n_layers else max(self.first, self.replay.length - n_read)

        def enter(layer: int, entering: Patches) -> Tensor:
            return self.enter(layer, entering, start(layer))

        def advance(layer: int, changed: Tensor | None, fresh: Tensor | None, _rows: Tensor) -> Tensor:
            states = concat_states(changed, fresh)
            restored = restore_window_hooks(self.model, self.clean, patches, layer, states.shape[1], self.first)
            if layer + 1 == n_layers and not restored:
                return self.replay.advance_read(layer, states, self.first, self.replay.length - start(layer))
            with attach_hooks(restored):
                return self.replay.advance(layer, states, self.first)[:, :, start(layer) - self.first :]

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
                states[:, chosen, some.positions[0] - start] = self._single(layer, module, some)
        return states

    def _single(self, layer: int, module: str, patches: Patches) -> Tensor:
        """The layer's output (P, S, D) at the one position that each patch changes."""
        new = gather_rows(self.clean[BLOCK, module, layer], patches.positions)
        if module == "residual":
            return new
        context, mlp = gather_rows(self.corrupt[BLOCK, "self_attention", layer], patches.positions), None
        if module == "mlp":
            mlp = new
        else:
            context = with_heads(patches.heads, self.model.blocks[BLOCK].n_heads, new, context)
        return self.replay.single_rows(layer, patches.positions[0], context, mlp)

    def _masked(self, layer: int, module: str, patches: Patches, start: int) -> Tensor:
        """The layer's output (P, S, rows, D) from `start` on, where each patch sets several positions."""
        rows = slice(start, None)
        assert patches.position_masks is not None
        chosen = patches.position_masks[:, :, rows, None]  # (P, S, rows, 1)
        if any(head is not None for head in patches.heads):
            n_heads = self.model.blocks[BLOCK].n_heads
            width = self.clean[BLOCK, module, layer].shape[-1]
            chosen = chosen & head_columns(patches.heads, n_heads, width, chosen.device)[:, None]
        # (P, 1, rows, D) each
        clean, corrupt = (trace[BLOCK, module, layer][:, None, rows] for trace in (self.clean, self.corrupt))
        new = torch.where(chosen, clean, corrupt)
        if module == "residual":
            return new
        if module == "self_attention":
            return self.replay.rows(layer, rows, new, None)
        context = self.corrupt[BLOCK, "self_attention", layer][:, None, rows].expand(-1, len(patches), -1, -1)
        return self.replay.rows(layer, rows, context, new)


# The vision encoder ------------------------------------------------------------


def _vision_encoder(
    model: VLM, clean: Trace, corrupt: Trace, inputs: Inputs, patches: Patches, answer_ids: AnswerIds, memory: int
) -> Readout:
    """Patched states of the vision encoder, batch by batch; vision layers up to the patched one do not run."""
    readouts = []
    assert not isinstance(answer_ids, BothAnswers), "the answer follows the prompt in one block"
    for pair in range(len(answer_ids)):
        mine = inputs_of_pair(inputs, pair, len(answer_ids))
        one = slice(pair, pair + 1)

        def answer(chunk: Patches, mine: Inputs = mine, one: slice = one) -> Readout:
            found = []
            for layer in dict.fromkeys(chunk.layers):
                same = chunk.subset([i for i, at in enumerate(chunk.layers) if at == layer])
                site = Site("vision_encoder", "residual", layer)
                states = _patched_stream(clean[site][one], corrupt[site][one], same)  # (1, S, M, D)
                below = [corrupt["vision_encoder", "residual", i][one] for i in range(layer)]
                with _resumed(model, below, states):
                    logits = model.last_logits(repeat_inputs(mine, len(same)), positions_read(answer_ids))
                found.append(Readout.of_last(logits[None], answer_ids[one]))
            return Readout.cat(found, dim=1)

        size = max(1, memory // _whole_bytes(model, corrupt))
        readouts.append(in_chunks(patches.of_pair(pair), size, answer))
    return Readout.cat(readouts, dim=0)


def _patched_stream(clean: Tensor, corrupt: Tensor, patches: Patches) -> Tensor:
    """The corrupt residual stream (1, M, D) once for each patch, with its position or positions clean: (1, S, M, D)."""
    if patches.position_masks is not None:
        return torch.where(patches.position_masks[..., None], clean[:, None], corrupt[:, None])
    return repeat_with_row(corrupt, patches.positions, gather_rows(clean, patches.positions).unsqueeze(2))


def _whole_bytes(model: VLM, corrupt: Trace) -> int:
    """What one state occupies while the whole model runs on it."""
    text = model.hf.config.get_text_config()
    vision = corrupt["vision_encoder", "residual", 0]
    length = corrupt.calls[0].hidden.shape[1]
    inner = getattr(text, "intermediate_size", None) or text.ffn_dim
    reading = length * (12 * text.hidden_size + 3 * inner) + model.blocks[BLOCK].n_heads * length**2
    seeing = vision.shape[1] * 24 * vision.shape[2] + model.blocks["vision_encoder"].n_heads * vision.shape[1] ** 2
    return max(reading, seeing) * vision.element_size()


@contextlib.contextmanager
def _resumed(model: VLM, below: list[Tensor], states: Tensor) -> Iterator[None]:
    """While this is entered, the first vision layers only give `below` (1, M, D), the next one `states` (1, S, M, D).

    What the layers below give matters where the projector reads several layers.
    """

    def stub(module: nn.Module, gives: Tensor) -> None:
        def forward(hidden_states: Tensor, *_args: Any, **_options: Any) -> Tensor:
            return gives.reshape(hidden_states.shape)

        module.forward = forward

    stubbed = [model.layer_module("vision_encoder", i) for i in range(len(below) + 1)]
    given = [*(stream.expand(states.shape[1], -1, -1) for stream in below), states]
    try:
        for module, gives in zip(stubbed, given, strict=True):
            stub(module, gives)
        yield
    finally:
        for module in stubbed:
            module.__dict__.pop("forward", None)


# Whole sets of heads ------------------------------------------------------------


def _given(fixed: Tensor, _value: Tensor) -> Tensor:
    return fixed


@torch.no_grad()
def run_with_fixed_heads(
    model: VLM, clean: Trace, corrupt: Trace, keep_clean: dict[str, Tensor], start: str, answer_ids: AnswerIds
) -> Readout:
    """Fix the output of every head of the language model; see `ModelInterface.run_with_fixed_heads`."""
    run = clean if start == "clean" else corrupt
    keep = keep_clean["self_attention"]
    stream = run.calls[0].hidden.expand(len(keep), -1, -1)  # (set, T, D)
    for layer, call in enumerate(run.calls):
        site = Site(BLOCK, "self_attention", layer)
        chosen, rest = clean[site], corrupt[site]  # (1, T, D)
        width = chosen.shape[-1] // model.blocks[BLOCK].n_heads
        mask = keep[:, layer].repeat_interleave(width, dim=-1)[:, None].to(chosen.device)  # (set, 1, D)
        fixed = torch.where(mask, chosen, rest)
        with attach_hooks([(model.hook_point(site), partial(_given, fixed))]):
            out = model.layer_module(BLOCK, layer)(stream, **call.options)
        if model.adds_image_features_after(layer) and layer + 1 < len(run.calls):
            out = out + run.calls[layer + 1].hidden - model.layer_module(BLOCK, layer)(call.hidden, **call.options)
        stream = out
    return Readout.of_last(model.read(stream[None, :, -positions_read(answer_ids) :]), answer_ids)
