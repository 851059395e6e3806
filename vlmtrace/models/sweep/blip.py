"""Exact patching sweeps for BLIP: the numbers of the hooked reference, for a fraction of its work.

A patch at layer l leaves everything below l as it was in the corrupt run, and at layer l it changes one position.
So the sweep goes through the layers once: at each layer all states patched further down advance together, and the
layer's own patched states join them, each a copy of the corrupt layer output with one row recomputed. Keys and values
of the image are computed once per layer and shared by all states of a pair.

Shapes: P pairs of equal question length, S states (patches) per pair, T question positions, M image positions, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlmtrace.models.hooks import attach_hooks, with_model_lock
from vlmtrace.models.sweep.blip_layers import AnswerLayers, QuestionLayers, read_answer
from vlmtrace.models.sweep.blip_vision import question_states
from vlmtrace.models.sweep.chunking import in_chunks
from vlmtrace.models.sweep.layer_sweep import concat_states, restore_window_hooks, sweep_layers
from vlmtrace.models.types import AnswerIds, BothAnswers, Patches, Readout, Trace, positions_read
from vlmtrace.models.vlm import VLM

#: Bytes of the states that a CPU computes with at once: with larger chunks every tensor would leave its cache.
CACHE = 2**26


@with_model_lock
@torch.no_grad()
def sweep(model: VLM, clean: Trace, corrupt: Trace, patches: Patches, answer_ids: AnswerIds, memory: int) -> Readout:
    """Answer every patch of a batch of pairs; see `ModelInterface.sweep`."""
    pairs = len(answer_ids)
    if model.device.type == "cpu":
        memory_of_states = len(patches) * _BLOCKS[patches.block].state_size(model, corrupt)
        pairs = max(1, min(pairs, CACHE // memory_of_states))
    parts = [slice(first, first + pairs) for first in range(0, len(answer_ids), pairs)]
    return Readout.cat(
        [
            _sweep_pairs(model, clean.rows(rows), corrupt.rows(rows), patches.of_pairs(rows), answer_ids[rows], memory)
            for rows in parts
        ],
        dim=0,
    )


def _sweep_pairs(
    model: VLM, clean: Trace, corrupt: Trace, patches: Patches, answer_ids: AnswerIds, memory: int
) -> Readout:
    run = _BLOCKS[patches.block](model, clean, corrupt, memory)
    if isinstance(answer_ids, BothAnswers):
        n_read = max(answer_ids.correct.n_positions, answer_ids.contrast.n_positions)
    else:
        n_read = positions_read(answer_ids)
    state_bytes = max(run.state_bytes, n_read * run.token_bytes)
    room = memory - run.shared_bytes
    if model.device.type == "cpu":
        room = min(room, CACHE)
    size = max(1, room // (len(answer_ids) * state_bytes))
    return in_chunks(patches, size, lambda chunk: run.answer(chunk, answer_ids))


#: The classes of the submodules that the sweep computes with; anything else in their place is unknown to it.
KNOWN_CLASSES = {
    "vision_model.encoder.layers.0": "BlipEncoderLayer",
    "vision_model.encoder.layers.0.self_attn": "BlipAttention",
    "text_encoder.encoder.layer.0": "BlipTextLayer",
    "text_encoder.encoder.layer.0.attention.self": "BlipTextSelfAttention",
    "text_encoder.encoder.layer.0.crossattention.self": "BlipTextSelfAttention",
    "text_decoder.bert.encoder.layer.0": "BlipTextLayer",
    "text_decoder.bert.encoder.layer.0.attention.self": "BlipTextSelfAttention",
    "text_decoder.bert.encoder.layer.0.crossattention.self": "BlipTextSelfAttention",
}

#: What submodules of those classes consist of, as far as it has weights.
KNOWN_CHILDREN = {
    "BlipEncoderLayer": {"self_attn", "layer_norm1", "mlp", "layer_norm2"},
    "BlipAttention": {"qkv", "projection", "dropout"},
    "BlipTextLayer": {"attention", "crossattention", "intermediate", "output"},
    "BlipTextSelfAttention": {"query", "key", "value", "dropout"},
}


def unknown_submodule(hf: Any) -> str | None:
    """A submodule of the model that the sweep does not know, in words; None: it knows them all.

    Every layer is looked at: its class, and whether it has submodules beside those that the sweep runs.
    """
    for first, known in KNOWN_CLASSES.items():
        stack, _, rest = first.partition(".0")
        for index, layer in enumerate(hf.get_submodule(stack)):
            module = layer.get_submodule(rest.lstrip(".")) if rest else layer
            path = f"{stack}.{index}{rest}"
            if type(module).__name__ != known:
                return f"the {type(module).__name__} at {path}"
            extra = sorted(name for name, _ in module.named_children() if name not in KNOWN_CHILDREN[known])
            if extra:
                return f"the submodule {path}.{extra[0]}"
    return None


class _Sweep:
    """What the chunks of one sweep share.

    Attributes:
        state_bytes: what one state of one pair occupies at the peak of a layer
        token_bytes: what one token that is read out of a state occupies
        shared_bytes: what is kept for all states
    """

    state_bytes: int
    token_bytes: int
    shared_bytes: int = 0

    def __init__(self, model: VLM, clean: Trace, corrupt: Trace, memory: int):
        self.model, self.clean, self.corrupt = model, clean, corrupt
        self.state_bytes = self.state_size(model, corrupt)
        # Logits, and their log-softmax in float32.
        self.token_bytes = model.hf.config.text_config.vocab_size * (
            corrupt.layer_inputs["text_encoder"].element_size() + 4
        )

    @classmethod
    def state_size(cls, model: VLM, corrupt: Trace) -> int:
        """What one state of one pair occupies at the peak of a layer, in bytes."""
        text = model.hf.config.text_config
        stream = corrupt.layer_inputs["text_encoder"]
        length = stream.shape[1]
        # The peak is either in the feed-forward, whose inner layer lives before and after its gate, or at the readout.
        layer = length * (8 * text.hidden_size + 2 * text.intermediate_size)
        readout = length * text.hidden_size + 2 * text.vocab_size
        return max(layer, readout) * stream.element_size()

    def answer(self, patches: Patches, answer_ids: AnswerIds) -> Readout:
        """Readout (P, S) of patches sorted by layer."""
        raise NotImplementedError


class _TextEncoder(_Sweep):
    def __init__(self, model: VLM, clean: Trace, corrupt: Trace, memory: int):
        super().__init__(model, clean, corrupt, memory)
        image = image_embeddings(model, corrupt)
        n_layers = model.blocks["text_encoder"].n_layers
        one_layer = 2 * image.nbytes * model.hf.config.text_config.hidden_size // image.shape[-1]
        # Keys and values are worth keeping for the next chunk unless they crowd the states out.
        keep = one_layer * n_layers <= memory // 2
        self.shared_bytes = image.nbytes + one_layer * (n_layers if keep else 1)
        self.layers = QuestionLayers(model, image, keep)

    def answer(self, patches: Patches, answer_ids: AnswerIds) -> Readout:
        def enter(layer: int, chosen: Patches) -> Tensor:
            return self.layers.enter(self.clean, self.corrupt, layer, chosen)

        def advance(layer: int, changed: Tensor | None, fresh: Tensor | None, rows: Tensor) -> Tensor:
            corrupt = self.corrupt.layer_input("text_encoder", layer)
            if patches.windows is None:
                return self.layers.advance(layer, changed, fresh, rows, corrupt)
            states = concat_states(changed, fresh)  # (P, S + F, T, D)
            with attach_hooks(restore_window_hooks(self.model, self.clean, patches, layer, states.shape[1])):
                return self.layers.advance(layer, states, None, rows, corrupt)

        states = sweep_layers(self.model.blocks["text_encoder"].n_layers, patches, enter, advance)
        return read_answer(self.model, states, self.corrupt.layer_inputs["text_decoder"], answer_ids)


class _VisionEncoder(_Sweep):
    @classmethod
    def state_size(cls, model: VLM, corrupt: Trace) -> int:
        """The image of each state comes on top of its question."""
        text, vision = model.hf.config.text_config, model.hf.config.vision_config
        stream = corrupt.layer_inputs["vision_encoder"]
        width = 8 * vision.hidden_size + 2 * vision.intermediate_size + 2 * text.hidden_size
        return super().state_size(model, corrupt) + stream.shape[1] * width * stream.element_size()

    def answer(self, patches: Patches, answer_ids: AnswerIds) -> Readout:
        states = question_states(self.model, self.clean, self.corrupt, patches)  # (P, S, T, D)
        return read_answer(self.model, states, self.corrupt.layer_inputs["text_decoder"], answer_ids)


class _TextDecoder(_Sweep):
    def answer(self, patches: Patches, answer_ids: AnswerIds) -> Readout:
        last = self.model.blocks["text_encoder"].n_layers - 1
        layers = AnswerLayers(self.model, self.corrupt["text_encoder", "residual", last])

        def enter(layer: int, chosen: Patches) -> Tensor:
            return layers.enter(self.clean, self.corrupt, layer, chosen)

        def advance(layer: int, changed: Tensor | None, fresh: Tensor | None, _rows: Tensor) -> Tensor:
            states = concat_states(changed, fresh)
            with attach_hooks(restore_window_hooks(self.model, self.clean, patches, layer, states.shape[1])):
                return layers.advance(layer, states)

        return layers.read(
            sweep_layers(self.model.blocks["text_decoder"].n_layers, patches, enter, advance), answer_ids
        )


_BLOCKS: dict[str, type[_Sweep]] = {
    "text_encoder": _TextEncoder,
    "text_decoder": _TextDecoder,
    "vision_encoder": _VisionEncoder,
}


def image_embeddings(model: VLM, trace: Trace) -> Tensor:
    """What the language side received of each image in a traced run: (P, M, D)."""
    if trace.image is not None:
        return trace.image
    last = model.blocks["vision_encoder"].n_layers - 1
    return model.hf.vision_model.post_layernorm(trace["vision_encoder", "residual", last])


# Whole sets of heads ------------------------------------------------------------


@with_model_lock
@torch.no_grad()
def run_with_fixed_heads(
    model: VLM, clean: Trace, corrupt: Trace, keep_clean: dict[str, Tensor], start: str, answer_ids: AnswerIds
) -> Readout:
    """Fix the output of every head of the question encoder; see `ModelInterface.run_with_fixed_heads`.

    Since every head's output is given, no attention is computed: only what stands between the heads.
    """
    layers = QuestionLayers(model, image_embeddings(model, corrupt))
    embedding = (clean if start == "clean" else corrupt).layer_inputs["text_encoder"]
    n_sets = len(next(iter(keep_clean.values())))
    stream = embedding.expand(n_sets, -1, -1)  # (set, T, D)

    def contexts(module: str, layer: int) -> Tensor:
        chosen, rest = clean["text_encoder", module, layer], corrupt["text_encoder", module, layer]  # (1, T, D)
        width = chosen.shape[-1] // layers.heads
        mask = keep_clean[module][:, layer].repeat_interleave(width, dim=-1)[:, None]  # (set, 1, D)
        return torch.where(mask.to(chosen.device), chosen, rest)

    for layer in range(model.blocks["text_encoder"].n_layers):
        stream = layers.after_self_attention(layer, contexts("self_attention", layer), stream)
        stream = layers.after_cross_attention(layer, contexts("cross_attention", layer), stream)
        stream = layers.feed_forward(layer, stream)
    return read_answer(model, stream.unsqueeze(0), corrupt.layer_inputs["text_decoder"], answer_ids)
