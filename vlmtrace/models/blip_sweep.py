"""Exact patching sweeps for BLIP: the numbers of the hooked reference, for a fraction of its work.

A patch at layer l leaves everything below l as it was in the corrupt run, and at layer l it changes one position.
So the layers are climbed once: at each layer all states patched further down advance together, and the layer's own
patched states join them, each a copy of the corrupt layer output with one row recomputed. Keys and values of the
image are computed once a layer and shared by all states of a pair.

Shapes: P pairs of equal question length, S states (patches) a pair, T question positions, M image positions,
H heads, D width, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmtrace.models.chunks import in_chunks
from vlmtrace.models.records import Patches, Readout, Trace

if TYPE_CHECKING:
    from vlmtrace.models.blip import Blip


@torch.no_grad()
def sweep(model: Blip, clean: Trace, corrupt: Trace, patches: Patches, answer_ids: Tensor, memory: int) -> Readout:
    """Answer every patch of a group of pairs; see `VLM.sweep`."""
    size = max(1, memory // (len(answer_ids) * state_bytes(model, patches.block, corrupt)))
    run = {"text_encoder": _text_encoder, "text_decoder": _text_decoder, "vision_encoder": _vision_encoder}
    answer = run[patches.block]
    return in_chunks(patches, size, lambda chunk: answer(model, clean, corrupt, chunk, answer_ids))


#: The parts that the sweep computes with, by where they stand; anything else in their place is unknown to it.
PARTS = {
    "vision_model.encoder.layers.0": "BlipEncoderLayer",
    "vision_model.encoder.layers.0.self_attn": "BlipAttention",
    "text_encoder.encoder.layer.0": "BlipTextLayer",
    "text_encoder.encoder.layer.0.attention.self": "BlipTextSelfAttention",
    "text_encoder.encoder.layer.0.crossattention.self": "BlipTextSelfAttention",
    "text_decoder.bert.encoder.layer.0": "BlipTextLayer",
    "text_decoder.bert.encoder.layer.0.attention.self": "BlipTextSelfAttention",
    "text_decoder.bert.encoder.layer.0.crossattention.self": "BlipTextSelfAttention",
}

#: What those parts consist of, as far as it holds weights.
CHILDREN = {
    "BlipEncoderLayer": {"self_attn", "layer_norm1", "mlp", "layer_norm2"},
    "BlipAttention": {"qkv", "projection", "dropout"},
    "BlipTextLayer": {"attention", "crossattention", "intermediate", "output"},
    "BlipTextSelfAttention": {"query", "key", "value", "dropout"},
}


def unknown_part(hf: Any) -> str | None:
    """A submodule of the model that the sweep does not know, in words; None: it knows them all.

    Every layer is looked at: its class, and whether it has submodules beside those that the sweep runs.
    """
    for first, known in PARTS.items():
        stack, _, rest = first.partition(".0")
        for index, layer in enumerate(hf.get_submodule(stack)):
            part = layer.get_submodule(rest.lstrip(".")) if rest else layer
            where = f"{stack}.{index}{rest}"
            if type(part).__name__ != known:
                return f"the {type(part).__name__} at {where}"
            extra = sorted(name for name, _ in part.named_children() if name not in CHILDREN[known])
            if extra:
                return f"the submodule {where}.{extra[0]}"
    return None


def state_bytes(model: Blip, block: str, trace: Trace) -> int:
    """What one state of one pair occupies at the peak of a layer, counted generously (about ten live copies)."""
    text, vision = model.hf.config.text_config, model.hf.config.vision_config
    width = 8 * text.hidden_size + 2 * text.intermediate_size
    elements = trace.layer_inputs["text_encoder"].shape[1] * width + 2 * text.vocab_size
    if block == "vision_encoder":
        positions = trace.layer_inputs["vision_encoder"].shape[1]
        elements += positions * (8 * vision.hidden_size + 2 * vision.intermediate_size + 2 * text.hidden_size)
    return elements * next(model.hf.parameters()).element_size()


def climb(
    n_layers: int,
    patches: Patches,
    enter: Callable[[int, Patches], Tensor],
    advance: Callable[[int, Tensor], Tensor],
) -> Tensor:
    """Sweep the layers once, upward, with a growing batch.

    Args:
        patches: sorted by layer
        enter: layer and its patches -> the patched layer outputs (P, S, …)
        advance: layer and layer inputs -> layer outputs (P, S, …)
    """
    states: Tensor | None = None
    for layer in range(patches.layers[0], n_layers):
        if states is not None:
            states = advance(layer, states)
        chosen = [i for i, at in enumerate(patches.layers) if at == layer]
        if chosen:
            new = enter(layer, patches.subset(chosen))
            states = new if states is None else torch.cat([states, new], dim=1)
    assert states is not None
    return states


# The question encoder ------------------------------------------------------------


class QuestionLayers:
    """The layers of the question encoder, for many states of each image at once.

    Args:
        image: (P, M, D) image embeddings; keys and values are computed once a layer, when first needed
    """

    def __init__(self, model: Blip, image: Tensor):
        self.layers: Any = model.hf.text_encoder.encoder.layer
        self.image = image
        self.heads = model.blocks["text_encoder"].n_heads
        self._keys_values: dict[int, tuple[Tensor, Tensor]] = {}

    def cross(self, layer: int, rows: Tensor) -> Tensor:
        """Cross-attention contexts (P, N, D) of rows (P, N, D): each pair's rows share its image's keys and values."""
        attention = self.layers[layer].crossattention.self
        if layer not in self._keys_values:
            self._keys_values[layer] = (
                split_heads(attention.key(self.image), self.heads),
                split_heads(attention.value(self.image), self.heads),
            )
        return attend(split_heads(attention.query(rows), self.heads), *self._keys_values[layer])

    def after_self_attention(self, layer: int, context: Tensor, stream: Tensor) -> Tensor:
        return self.layers[layer].attention.output(context, stream)

    def after_cross_attention(self, layer: int, context: Tensor, stream: Tensor) -> Tensor:
        return self.layers[layer].crossattention.output(context, stream)

    def advance(self, layer: int, states: Tensor) -> Tensor:
        """One whole layer: (P, S, T, D) -> (P, S, T, D)."""
        pairs, n_states, length, width = states.shape
        flat = states.reshape(pairs * n_states, length, width)
        attention = self.layers[layer].attention.self
        parts = (attention.query, attention.key, attention.value)
        query, key, value = (split_heads(project(flat), self.heads) for project in parts)
        context = attend(query, key, value)
        stream = self.after_self_attention(layer, context, flat).view(pairs, n_states * length, width)
        stream = self.after_cross_attention(layer, self.cross(layer, stream), stream)
        return self.layers[layer].feed_forward_chunk(stream).view(states.shape)

    def enter(self, clean: Trace, corrupt: Trace, layer: int, patches: Patches) -> Tensor:
        """The corrupt layer output with one row recomputed for each patch: (P, S, T, D)."""
        output = corrupt["text_encoder", "residual", layer]
        states = output.unsqueeze(1).repeat(1, len(patches), 1, 1)
        rows = torch.empty_like(states[:, :, 0])
        for module in dict.fromkeys(patches.modules):
            chosen = [i for i, name in enumerate(patches.modules) if name == module]
            rows[:, chosen] = self.patched_rows(clean, corrupt, layer, module, patches.subset(chosen))
        return states.scatter_(2, row_index(patches.positions, states), rows.unsqueeze(2))

    def patched_rows(self, clean: Trace, corrupt: Trace, layer: int, module: str, patches: Patches) -> Tensor:
        """The layer's output at the patched position of each patch: (P, S, D)."""

        def at(stream: Tensor) -> Tensor:
            return stream.gather(1, patches.positions[:, :, None].expand(-1, -1, stream.shape[-1]))

        def corrupt_row(name: str) -> Tensor:
            return at(corrupt["text_encoder", name, layer])

        new = at(clean["text_encoder", module, layer])
        if module == "residual":
            return new
        if patches.heads[0] is not None:
            width = new.shape[-1] // self.heads
            owner = torch.arange(new.shape[-1], device=new.device) // width
            mine = owner == torch.tensor(patches.heads, device=new.device)[:, None]
            new = torch.where(mine, new, corrupt_row(module))
        stream = at(corrupt.layer_input("text_encoder", layer))
        context = new if module == "self_attention" else corrupt_row("self_attention")
        stream = self.after_self_attention(layer, context, stream)
        if module == "self_attention":
            context = self.cross(layer, stream)
        else:
            context = new if module == "cross_attention" else corrupt_row("cross_attention")
        stream = self.after_cross_attention(layer, context, stream)
        if module == "mlp":
            return self.layers[layer].output.LayerNorm(new + stream)
        return self.layers[layer].feed_forward_chunk(stream)


def _image_embeddings(model: Blip, trace: Trace) -> Tensor:
    last = model.blocks["vision_encoder"].n_layers - 1
    return model.hf.vision_model.post_layernorm(trace["vision_encoder", "residual", last])


def _text_encoder(model: Blip, clean: Trace, corrupt: Trace, patches: Patches, answer_ids: Tensor) -> Readout:
    layers = QuestionLayers(model, _image_embeddings(model, corrupt))
    states = climb(
        model.blocks["text_encoder"].n_layers,
        patches,
        lambda layer, chosen: layers.enter(clean, corrupt, layer, chosen),
        layers.advance,
    )
    return read_answer(model, states, answer_ids)


# The vision encoder ------------------------------------------------------------


def _vision_encoder(model: Blip, clean: Trace, corrupt: Trace, patches: Patches, answer_ids: Tensor) -> Readout:
    vision: Any = model.hf.vision_model

    def enter(layer: int, chosen: Patches) -> Tensor:
        output = corrupt["vision_encoder", "residual", layer]
        states = output.unsqueeze(1).repeat(1, len(chosen), 1, 1)
        index = chosen.positions[:, :, None].expand(-1, -1, states.shape[-1])
        new = clean["vision_encoder", "residual", layer].gather(1, index).unsqueeze(2)
        return states.scatter_(2, row_index(chosen.positions, states), new)

    def advance(layer: int, states: Tensor) -> Tensor:
        return vision_layer(vision.encoder.layers[layer], states.flatten(0, 1)).view(states.shape)

    states = climb(model.blocks["vision_encoder"].n_layers, patches, enter, advance)
    pairs, n_states = states.shape[:2]
    layers = QuestionLayers(model, vision.post_layernorm(states).flatten(0, 1))
    # Every state has an image of its own, so each counts as a pair with one state.
    question = corrupt.layer_inputs["text_encoder"].repeat_interleave(n_states, dim=0).unsqueeze(1)
    for layer in range(model.blocks["text_encoder"].n_layers):
        question = layers.advance(layer, question)
    return read_answer(model, question.view(pairs, n_states, *question.shape[2:]), answer_ids)


def vision_layer(layer: Any, stream: Tensor) -> Tensor:
    """One pre-norm layer of the vision encoder: (N, M, D) -> (N, M, D)."""
    attention = layer.self_attn
    query, key, value = attention.qkv(layer.layer_norm1(stream)).chunk(3, dim=-1)
    query, key, value = (split_heads(part, attention.num_heads) for part in (query, key, value))
    stream = stream + attention.projection(attend(query, key, value, attention.scale))
    return stream + layer.mlp(layer.layer_norm2(stream))


# The answer decoder ------------------------------------------------------------


class AnswerLayers:
    """The answer decoder at its start token, for N question states.

    Its self-attention sees one token, so the context is the value projection. Its cross-attention has one query, so
    the key projection is moved to the query's side, q·(W h) = (q W)·h, and the value projection behind the average,
    Σ p (W h) = W (Σ p h): T times less work than projecting every question token (the key bias drops out of the
    softmax).

    Args:
        question: (N, T, D) final question states
    """

    def __init__(self, model: Blip, question: Tensor):
        self.decoder: Any = model.hf.text_decoder
        self.question = question
        self.heads = model.blocks["text_decoder"].n_heads

    def embedding(self, model: Blip) -> Tensor:
        return self.decoder.bert.embeddings(input_ids=model._start_ids(1))[:, 0]

    def advance(self, layer: int, stream: Tensor) -> Tensor:
        """One layer: (N, D) or (1, D) -> (N, D)."""
        module = self.decoder.bert.encoder.layer[layer]
        stream = module.attention.output(module.attention.self.value(stream), stream)
        stream = module.crossattention.output(self._cross(module.crossattention.self, stream), stream)
        return module.feed_forward_chunk(stream)

    def _cross(self, attention: Any, stream: Tensor) -> Tensor:
        n, _, width = self.question.shape
        size = attention.query.out_features // self.heads
        query = attention.query(stream).view(-1, self.heads, size)
        key_weight = attention.key.weight.view(self.heads, size, width)
        value_weight = attention.value.weight.view(self.heads, size, width)
        query = torch.einsum("nhe,hed->nhd", query, key_weight) / size**0.5
        scores = query.expand(n, -1, -1) @ self.question.transpose(1, 2)
        average = scores.float().softmax(-1).to(scores.dtype) @ self.question
        return torch.einsum("nhd,hed->nhe", average, value_weight).reshape(n, -1) + attention.value.bias


def read_answer(model: Blip, states: Tensor, answer_ids: Tensor) -> Readout:
    """Run the answer decoder over final question states (P, S, T, D): Readout (P, S)."""
    layers = AnswerLayers(model, states.flatten(0, 1))
    stream = layers.embedding(model)
    for layer in range(model.blocks["text_decoder"].n_layers):
        stream = layers.advance(layer, stream)
    logits = layers.decoder.cls(stream)
    return Readout.of(logits.view(*states.shape[:2], -1), answer_ids)


def _text_decoder(model: Blip, clean: Trace, corrupt: Trace, patches: Patches, answer_ids: Tensor) -> Readout:
    last = model.blocks["text_encoder"].n_layers - 1
    question = corrupt["text_encoder", "residual", last]

    def enter(layer: int, chosen: Patches) -> Tensor:
        # One position only: the whole layer output is replaced.
        return clean["text_decoder", "residual", layer].repeat(1, len(chosen), 1)

    def advance(layer: int, states: Tensor) -> Tensor:
        n_states = states.shape[1]
        layers = AnswerLayers(model, question.repeat_interleave(n_states, dim=0))
        return layers.advance(layer, states.flatten(0, 1)).view(states.shape)

    states = climb(model.blocks["text_decoder"].n_layers, patches, enter, advance)
    return Readout.of(model.hf.text_decoder.cls(states), answer_ids)


# Whole sets of heads ------------------------------------------------------------


@torch.no_grad()
def run_with_heads(
    model: Blip, clean: Trace, corrupt: Trace, keep_clean: dict[str, Tensor], start: str, answer_ids: Tensor
) -> Readout:
    """Fix the output of every head of the question encoder; see `VLM.run_with_heads`.

    Since every head's output is given, no attention is computed: only what stands between the heads.
    """
    layers = QuestionLayers(model, _image_embeddings(model, corrupt))
    embedding = (clean if start == "clean" else corrupt).layer_inputs["text_encoder"]
    n_sets = len(next(iter(keep_clean.values())))
    stream = embedding.expand(n_sets, -1, -1)

    def contexts(module: str, layer: int) -> Tensor:
        chosen, rest = clean["text_encoder", module, layer], corrupt["text_encoder", module, layer]
        width = chosen.shape[-1] // layers.heads
        mask = keep_clean[module][:, layer].repeat_interleave(width, dim=-1)[:, None]
        return torch.where(mask.to(chosen.device), chosen, rest)

    for layer in range(model.blocks["text_encoder"].n_layers):
        stream = layers.after_self_attention(layer, contexts("self_attention", layer), stream)
        stream = layers.after_cross_attention(layer, contexts("cross_attention", layer), stream)
        stream = layers.layers[layer].feed_forward_chunk(stream)
    return read_answer(model, stream.unsqueeze(0), answer_ids)


# Small pieces ------------------------------------------------------------


def split_heads(stream: Tensor, heads: int) -> Tensor:
    """(N, T, D) -> (N, H, T, E)."""
    return stream.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """Softmax attention without a mask: heads (N, H, T, E) -> contexts (N, T, D)."""
    return F.scaled_dot_product_attention(query, key, value, scale=scale).transpose(1, 2).flatten(2)


def row_index(positions: Tensor, states: Tensor) -> Tensor:
    """Positions (P, S) as the index (P, S, 1, D) of one row of each of states (P, S, T, D)."""
    return positions[:, :, None, None].expand(-1, -1, 1, states.shape[-1])
