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

from vlmtrace.models.hooks import HookPoint, attach_hooks
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
from vlmtrace.models.sweep.shared_prefix import Prefix, Recorder, shared_prefixes
from vlmtrace.models.types import AnswerIds, BothAnswers, Call, Inputs, Patches, Readout, Site, Trace, positions_read
from vlmtrace.models.vlm import VLM, inputs_of_pair, repeat_inputs

BLOCK = "language_model"


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


class Replay:
    """The corrupt run of the language model, ready to be taken up at any layer and position.

    Attributes:
        masks: by layer, what each position sees: (1 or P, 1, T, T), bool or added to the scores; None: everything
        recorded: by layer, keys and values of all positions
        between: by layer, what the model adds between this layer's output and the next one's input, None: nothing
    """

    def __init__(self, model: VLM, corrupt: Trace):
        """Run every layer once on what entered it, to record its keys and values.

        Args:
            model: with visual tokens
            corrupt: trace of the corrupt runs, with `calls`
        """
        self.model, self.calls = model, corrupt.calls
        self.layers = [model.layer_module(BLOCK, i) for i in range(model.blocks[BLOCK].n_layers)]
        self.length = corrupt.calls[0].hidden.shape[1]
        self.masks = [spelled_out(layer, call) for layer, call in zip(self.layers, corrupt.calls, strict=True)]
        self.recorded: list[Recorder] = []
        self.between: list[Tensor | None] = []
        for i, (layer, call) in enumerate(zip(self.layers, self.calls, strict=True)):
            recorder = Recorder()
            out = layer(call.hidden, **{**call.options, "attention_mask": self.masks[i], "past_key_values": recorder})
            self.recorded.append(recorder)
            adds = model.adds_image_features_after(i) and i + 1 < len(self.layers)
            self.between.append(self.calls[i + 1].hidden - out if adds else None)

    @property
    def nbytes(self) -> int:
        """Bytes of what is recorded."""
        return sum(part.nbytes for recorder in self.recorded for part in (recorder.key, recorder.value))

    def first_reached(self, patches: Patches) -> list[int]:
        """For each patch, the first position whose state it can change in any layer above."""
        device = self.calls[0].hidden.device
        if patches.position_masks is None:
            reached = torch.zeros(len(patches), self.length, dtype=torch.bool, device=device)  # (S, T)
            reached[torch.arange(len(patches)), patches.positions[0]] = True
        else:
            reached = patches.position_masks.any(0).to(device)
        starts = reached.unique(dim=0)
        for mask in self.masks[1:]:
            if mask is None:
                return [0] * len(patches)
        known = {tuple(start.nonzero()[:, 0].tolist()): self._first_reached(start) for start in starts}
        return [known[tuple(row.nonzero()[:, 0].tolist())] for row in reached]

    def _first_reached(self, reached: Tensor) -> int:
        for mask in self.masks[1:]:
            assert mask is not None
            reached = reached | (seen(mask) & reached).any(-1).any(0)[0]
        return int(reached.nonzero()[0])

    def state_bytes(self, first: int) -> int:
        """What one state of one pair occupies at the peak of a layer."""
        text = self.model.hf.config.get_text_config()
        inner = getattr(text, "intermediate_size", None) or text.ffn_dim
        key = self.recorded[0].key
        rows = self.length - first
        elements = rows * (8 * text.hidden_size + 3 * inner) + 2 * text.vocab_size
        # Scores and their softmax in float32, and in the model's own precision.
        elements += 3 * rows * self.length * text.num_attention_heads
        return elements * max(4, key.element_size())

    def options(self, layer: int, rows: slice, repeats: int) -> dict[str, Any]:
        """What a layer is called with for some query rows of `repeats` states per pair; masks stay one per pair."""

        def chosen(value: Tensor, dim: int) -> Tensor:
            value = value[(slice(None),) * dim + (rows,)]
            return value.repeat_interleave(repeats, dim=0) if len(value) > 1 else value

        options = dict(self.calls[layer].options)
        mask = self.masks[layer]
        options["attention_mask"] = None if mask is None else mask[:, :, rows]
        if options.get("position_embeddings") is not None:
            options["position_embeddings"] = tuple(chosen(part, 1) for part in options["position_embeddings"])
        if options.get("position_ids") is not None:
            options["position_ids"] = chosen(options["position_ids"], 1)
        return options

    def advance(self, layer: int, states: Tensor, first: int) -> Tensor:
        """One whole layer for positions from `first` on: outputs of the layer below (P, S, L, D) -> (P, S, L, D)."""
        added = self.between[layer - 1]
        if added is not None:
            states = states + added[:, None, first:]
        options = self.options(layer, slice(first, None), states.shape[1])
        prefix = Prefix(self.recorded[layer], first)
        with shared_prefixes(self.model.hf, prefix):
            # (P·S, L, D): a layer takes all states as one batch.
            out = self.layers[layer](states.flatten(0, 1), **{**options, "past_key_values": prefix})
        return out.view(states.shape)

    def rows(self, layer: int, rows: slice, context: Tensor, mlp: Tensor | None) -> Tensor:
        """A layer's output at some rows, given the heads' outputs and maybe the feed-forward's: (P, S, rows, D) each.

        The layer itself runs, on those rows; what its attention computes is overwritten by `context`.
        """
        n_states = context.shape[1]
        points: list[tuple[HookPoint, Any]] = [
            (self.model.hook_point(Site(BLOCK, "self_attention", layer)), lambda _: context.flatten(0, 1))
        ]
        if mlp is not None:
            points.append((self.model.hook_point(Site(BLOCK, "mlp", layer)), lambda _: mlp.flatten(0, 1)))
        options = {**self.options(layer, rows, n_states), "attention_mask": None}
        hidden = self.calls[layer].hidden[:, rows].repeat_interleave(n_states, dim=0)  # (P·S, rows, D)
        with attach_hooks(points):
            return self.layers[layer](hidden, **options).unflatten(0, (-1, n_states))


def spelled_out(layer: Any, call: Call) -> Tensor | None:
    """A layer's mask; None means causal to a causal layer, but only while queries and keys are the same positions."""
    mask = call.options.get("attention_mask")
    if mask is None and getattr(layer.self_attn, "is_causal", True):
        n = call.hidden.shape[1]
        return torch.ones(n, n, dtype=torch.bool, device=call.hidden.device).tril()[None, None]
    return mask


def seen(mask: Tensor) -> Tensor:
    """Which keys a query sees, bool, from a mask that is bool or added to the scores."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


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

        def advance(layer: int, changed: Tensor | None, fresh: Tensor | None, _rows: Tensor) -> Tensor:
            states = concat_states(changed, fresh)
            with attach_hooks(
                restore_window_hooks(self.model, self.clean, patches, layer, states.shape[1], self.first)
            ):
                return self.replay.advance(layer, states, self.first)

        states = sweep_layers(len(self.replay.layers), patches, self.enter, advance)
        return Readout.of_last(self.model.read(states[:, :, -positions_read(answer_ids) :]), answer_ids)

    def enter(self, layer: int, patches: Patches) -> Tensor:
        """The corrupt layer output from `first` on, recomputed where each patch changes it: (P, S, L, D)."""
        output = self.corrupt[BLOCK, "residual", layer][:, self.first :]  # (P, L, D)
        states = output.new_empty(len(output), len(patches), *output.shape[1:])  # (P, S, L, D)
        if patches.position_masks is not None:
            for module in dict.fromkeys(patches.modules):
                chosen = [i for i, name in enumerate(patches.modules) if name == module]
                states[:, chosen] = self._masked(layer, module, patches.subset(chosen))
            return states
        kinds = list(zip(patches.modules, patches.positions[0].tolist(), strict=True))
        for module, position in dict.fromkeys(kinds):
            chosen = [i for i, kind in enumerate(kinds) if kind == (module, position)]
            one = patches.subset(chosen)
            row = self._row(layer, module, position, one).unsqueeze(2)
            states[:, chosen] = repeat_with_row(output, one.positions - self.first, row)
        return states

    def _row(self, layer: int, module: str, position: int, patches: Patches) -> Tensor:
        """The layer's output (P, S, D) at the one position that all these patches change."""
        new = gather_rows(self.clean[BLOCK, module, layer], patches.positions)
        if module == "residual":
            return new
        context = gather_rows(self.corrupt[BLOCK, "self_attention", layer], patches.positions)
        rows = slice(position, position + 1)
        if module == "mlp":
            return self.replay.rows(layer, rows, context[:, :, None], new[:, :, None])[:, :, 0]
        context = with_heads(patches.heads, self.model.blocks[BLOCK].n_heads, new, context)
        return self.replay.rows(layer, rows, context[:, :, None], None)[:, :, 0]

    def _masked(self, layer: int, module: str, patches: Patches) -> Tensor:
        """The layer's output (P, S, L, D) where each patch sets several positions."""
        rows = slice(self.first, None)
        assert patches.position_masks is not None
        chosen = patches.position_masks[:, :, rows, None]  # (P, S, L, 1)
        if any(head is not None for head in patches.heads):
            n_heads = self.model.blocks[BLOCK].n_heads
            width = self.clean[BLOCK, module, layer].shape[-1]
            chosen = chosen & head_columns(patches.heads, n_heads, width, chosen.device)[:, None]
        # (P, 1, L, D) each
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
