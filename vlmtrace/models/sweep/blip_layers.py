"""BLIP's layers for many patched states at once.

Shapes: P pairs of equal question length, S states (patches) per pair, F of them fresh (see `sweep_layers`), N rows or
states laid in one dimension, T question positions, M image positions, U tokens of the answer decoder (the start token
and the answer so far), H heads, E width of a head, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmtrace.models.products import FastProducts, linear, linear_gelu
from vlmtrace.models.sweep.layer_sweep import (
    attend,
    attend_shared,
    attend_unprojected,
    gather_rows,
    repeat_with_row,
    split_heads,
    take_row,
    with_heads,
)
from vlmtrace.models.types import AnswerIds, BothAnswers, Patches, Readout, Trace, positions_read
from vlmtrace.models.vlm import VLM


class TextLayers:
    """What the layers of BLIP's two text stacks share: self-attention, cross-attention, feed-forward, each post-norm.

    Attributes:
        block: the stack's name
        layers: its transformers modules
        heads: attention heads of each
    """

    block: str
    layers: Any
    heads: int

    def cross(self, layer: int, rows: Tensor) -> Tensor:
        """Cross-attention contexts (P, N, D) of rows (P, N, D): each pair's rows attend to what is the pair's own."""
        raise NotImplementedError

    def after_self_attention(self, layer: int, context: Tensor, stream: Tensor) -> Tensor:
        """The stream (…, D) behind self-attention whose heads give `context` (…, D): projection, sum, norm."""
        return _added_and_normed(self.layers[layer].attention.output, context, stream)

    def after_cross_attention(self, layer: int, context: Tensor, stream: Tensor) -> Tensor:
        """The stream (…, D) behind cross-attention whose heads give `context` (…, D): projection, sum, norm."""
        return _added_and_normed(self.layers[layer].crossattention.output, context, stream)

    def feed_forward(self, layer: int, stream: Tensor) -> Tensor:
        """The stream (…, D) behind the feed-forward and its norm: the layer's output."""
        module = self.layers[layer]
        inner = linear_gelu(module.intermediate.dense, module.intermediate.intermediate_act_fn, stream)
        return _added_and_normed(module.output, inner, stream)

    def enter(self, clean: Trace, corrupt: Trace, layer: int, patches: Patches) -> Tensor:
        """The corrupt layer output with one row recomputed for each patch: (P, S, T, D)."""
        output = corrupt[self.block, "residual", layer]  # (P, T, D)
        rows = output.new_empty(len(output), len(patches), output.shape[-1])  # (P, S, D)
        for module in dict.fromkeys(patches.modules):
            chosen = [i for i, name in enumerate(patches.modules) if name == module]
            rows[:, chosen] = self.patched_rows(clean, corrupt, layer, module, patches.subset(chosen))
        return repeat_with_row(output, patches.positions, rows.unsqueeze(2))

    def patched_rows(self, clean: Trace, corrupt: Trace, layer: int, module: str, patches: Patches) -> Tensor:
        """The layer's output at the patched position of each patch: (P, S, D)."""

        def corrupt_row(name: str) -> Tensor:
            return gather_rows(corrupt[self.block, name, layer], patches.positions)

        new = gather_rows(clean[self.block, module, layer], patches.positions)  # (P, S, D)
        if module == "residual":
            return new
        if any(head is not None for head in patches.heads):
            new = with_heads(patches.heads, self.heads, new, corrupt_row(module))
        stream = gather_rows(corrupt.layer_input(self.block, layer), patches.positions)  # (P, S, D)
        context = new if module == "self_attention" else corrupt_row("self_attention")
        stream = self.after_self_attention(layer, context, stream)
        if module == "self_attention":
            context = self.cross(layer, stream)
        else:
            context = new if module == "cross_attention" else corrupt_row("cross_attention")
        stream = self.after_cross_attention(layer, context, stream)
        if module == "mlp":
            return self.layers[layer].output.LayerNorm(new + stream)
        return self.feed_forward(layer, stream)


def _added_and_normed(output: Any, inner: Tensor, stream: Tensor) -> Tensor:
    """A sublayer's last projection, added to the stream that entered it, and their norm."""
    return output.LayerNorm(linear(output.dense, inner) + stream)


class QuestionLayers(TextLayers):
    """The layers of the question encoder."""

    block = "text_encoder"

    def __init__(self, model: VLM, image: Tensor, keep: bool = True, unprojected: bool = False):
        """Prepare to run the layers.

        Args:
            model: BLIP
            image: (P, M, D) image embeddings, shared by all states of a pair
            keep: remember each layer's keys and values of the image, for a second sweep through the layers
            unprojected: attend to the image without projecting it (see `attend_unprojected`)
        """
        self.layers = model.hf.text_encoder.encoder.layer
        self.image = image
        self.heads = model.blocks[self.block].n_heads
        self.keep = keep
        self.unprojected = unprojected
        self._keys_values: dict[int, tuple[Tensor, Tensor]] = {}

    def cross(self, layer: int, rows: Tensor) -> Tensor:
        """Cross-attention contexts (P, N, D) of rows (P, N, D): each pair's rows attend to its image."""
        attention = self.layers[layer].crossattention.self
        if self.unprojected:
            return attend_unprojected(attention, rows, self.image, self.heads)
        return attend_shared(split_heads(linear(attention.query, rows), self.heads), *self.keys_values(layer))

    def keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values (P, H, M, E) of a layer's cross-attention to the image."""
        attention = self.layers[layer].crossattention.self
        if layer not in self._keys_values:
            if not self.keep:
                self._keys_values.clear()
            self._keys_values[layer] = (
                split_heads(linear(attention.key, self.image), self.heads),
                split_heads(linear(attention.value, self.image), self.heads),
            )
        return self._keys_values[layer]

    def advance(
        self, layer: int, changed: Tensor | None, fresh: Tensor | None, rows: Tensor, corrupt: Tensor
    ) -> Tensor:
        """One whole layer.

        Args:
            layer: which
            changed: (P, S, T, D), states of which any row may differ from the corrupt run; None: there is none
            fresh: (P, F, T, D), states of which one row does; None: there is none
            rows: (P, F), the row in which each fresh state differs
            corrupt: (P, T, D), what enters this layer in the corrupt run: fresh states equal it but for `rows`

        Returns:
            (P, S + F, T, D)
        """
        streams = []
        if changed is not None:
            streams.append(self.self_attended(layer, changed))
        if fresh is not None:
            attention = self.layers[layer].attention.self
            row = take_row(fresh, rows)  # (P, F, 1, D)
            projected = [
                split_heads(
                    repeat_with_row(linear(project, corrupt), rows, linear(project, row)).flatten(0, 1), self.heads
                )
                for project in (attention.query, attention.key, attention.value)
            ]
            streams.append(self._attended(layer, projected, fresh))
        return self.behind_self_attention(layer, streams[0] if len(streams) == 1 else torch.cat(streams, dim=1))

    def self_attended(self, layer: int, states: Tensor) -> Tensor:
        """States (P, S, T, D) behind a layer's self-attention, its sum and norm."""
        attention = self.layers[layer].attention.self
        flat = states.flatten(0, 1)  # (P·S, T, D)
        # (P·S, H, T, E) each
        projected = [
            split_heads(linear(project, flat), self.heads)
            for project in (attention.query, attention.key, attention.value)
        ]
        return self._attended(layer, projected, states)

    def behind_self_attention(self, layer: int, states: Tensor) -> Tensor:
        """The rest of a layer: cross-attention and feed-forward of states (P, S, T, D)."""
        stream = states.flatten(1, 2)  # all states' rows of a pair attend to its image
        stream = self.after_cross_attention(layer, self.cross(layer, stream), stream)
        return self.feed_forward(layer, stream).view(states.shape)

    def _attended(self, layer: int, query_key_value: list[Tensor], states: Tensor) -> Tensor:
        query, key, value = query_key_value
        context = attend(query, key, value).view(states.shape)
        return self.after_self_attention(layer, context, states)


def vision_layer(layer: Any, changed: Tensor | None, fresh: Tensor | None, rows: Tensor, corrupt: Tensor) -> Tensor:
    """One pre-norm layer of the vision encoder.

    Args:
        layer: its torch module
        changed: (P, S, M, D), states of which any row may differ from the corrupt run; None: there is none
        fresh: (P, F, M, D), states of which one row does; None: there is none
        rows: (P, F), the row in which each fresh state differs
        corrupt: (P, M, D), what enters this layer in the corrupt run: fresh states equal it but for `rows`

    Returns:
        (P, S + F, M, D)
    """
    attention = layer.self_attn

    def attended(projected: Tensor, states: Tensor) -> Tensor:
        query_key_value = projected.flatten(0, 1).chunk(3, dim=-1)  # (P·S, M, D) each
        query, key, value = (split_heads(one, attention.num_heads) for one in query_key_value)
        context = attend(query, key, value, attention.scale)
        return linear(attention.projection, context).view(states.shape) + states

    streams = []
    if changed is not None:
        streams.append(attended(linear(attention.qkv, layer.layer_norm1(changed)), changed))
    if fresh is not None:
        row = linear(attention.qkv, layer.layer_norm1(take_row(fresh, rows)))  # (P, F, 1, 3·D)
        shared = linear(attention.qkv, layer.layer_norm1(corrupt))
        streams.append(attended(repeat_with_row(shared, rows, row), fresh))
    stream = torch.cat(streams, dim=1)
    inner = linear_gelu(layer.mlp.fc1, layer.mlp.activation_fn, layer.layer_norm2(stream))
    return linear(layer.mlp.fc2, inner) + stream


class AnswerLayers(TextLayers):
    """The answer decoder over its start token and the answer so far, for N question states.

    Its cross-attention has as few queries as there are tokens, so the question is never projected. While there is only
    the start token, its self-attention is the value projection.
    """

    block = "text_decoder"

    def __init__(self, model: VLM, question: Tensor):
        """Prepare to run the layers.

        Args:
            model: BLIP
            question: (N, T, D) final question states
        """
        self.decoder: Any = model.hf.text_decoder
        self.layers = self.decoder.bert.encoder.layer
        self.question = question
        self.heads = model.blocks[self.block].n_heads

    def cross(self, layer: int, rows: Tensor) -> Tensor:
        """Cross-attention contexts (N, U, D) of rows (N, U, D): each state's tokens attend to its question."""
        return attend_unprojected(self.layers[layer].crossattention.self, rows, self.question, self.heads)

    def advance(self, layer: int, states: Tensor) -> Tensor:
        """One layer: (N, S, U, D), or (1, 1, U, D) where all questions' states still agree -> (N, S, U, D)."""
        module = self.layers[layer]
        attention = module.attention.self
        flat = states.flatten(0, 1)  # (N·S, U, D)
        if states.shape[2] == 1:
            context = linear(attention.value, flat)
        else:
            query, key, value = (
                split_heads(linear(project, flat), self.heads)
                for project in (attention.query, attention.key, attention.value)
            )
            context = F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
        stream = self.after_self_attention(layer, context.view(states.shape), states).flatten(1, 2)
        stream = self.after_cross_attention(layer, self.cross(layer, stream), stream)
        return self.feed_forward(layer, stream).unflatten(1, states.shape[1:3])

    def logits(self, states: Tensor, n: int) -> Tensor:
        """Logits (P, S, n, vocabulary) at the last n positions of final states (P, S, U, D)."""
        with FastProducts():
            return self.decoder.cls(states[:, :, -n:])

    def read(self, states: Tensor, answer_ids: AnswerIds) -> Readout:
        """Readout (P, S) of final states (P, S, U, D): of the token that follows the last one, or of a whole answer."""
        return Readout.of_last(self.logits(states, positions_read(answer_ids)), answer_ids)


def read_answer(model: VLM, states: Tensor, embedding: Tensor, answer_ids: AnswerIds) -> Readout:
    """Run the answer decoder over final question states.

    Args:
        model: BLIP
        states: (P, S, T, D)
        embedding: (P, U, D), what enters the decoder's layer 0
        answer_ids: first tokens of two answers, a whole answer, or two of them (then `embedding` plays no part)

    Returns:
        Readout (P, S)
    """
    if isinstance(answer_ids, BothAnswers):
        answers = zip(answer_ids.starts, (answer_ids.correct, answer_ids.contrast), strict=True)
        return Readout.of_two(*(read_answer(model, states, start, answer) for start, answer in answers))
    layers, stream = decoded(model, states, embedding)
    return layers.read(stream, answer_ids)


def decoded(model: VLM, states: Tensor, embedding: Tensor) -> tuple[AnswerLayers, Tensor]:
    """Run the answer decoder's layers over final question states.

    Args:
        model: BLIP
        states: (P, S, T, D)
        embedding: (P, U, D), what enters the decoder's layer 0

    Returns:
        the layers, and their final states (P, S, U, D)
    """
    layers = AnswerLayers(model, states.flatten(0, 1))
    if embedding.shape[1] == 1:
        stream = embedding[None, :1]  # (1, 1, U, D): before the first answer token, all states still agree
    else:
        stream = embedding.repeat_interleave(states.shape[1], dim=0).unsqueeze(1)  # (P·S, 1, U, D)
    for layer in range(model.blocks["text_decoder"].n_layers):
        stream = layers.advance(layer, stream)
    return layers, stream.view(*states.shape[:2], *stream.shape[2:])
