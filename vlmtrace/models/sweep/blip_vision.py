"""What patches of BLIP's vision encoder make of the question.

A patch below the last layer gives each state an image of its own, and with it keys and values of its own in every layer
of the question encoder. A patch of the last layer changes one row of the image: all states of a pair share the others'
keys and values.

Shapes: P pairs of equal question length, S states (patches) per pair, T question positions, M image positions, H heads,
E width of a head, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlmtrace.models.products import linear
from vlmtrace.models.sweep.blip_layers import QuestionLayers, vision_layer
from vlmtrace.models.sweep.layer_sweep import gather_rows, repeat_with_row, split_heads, sweep_layers
from vlmtrace.models.types import Patches, Trace
from vlmtrace.models.vlm import VLM

#: How many operations of a projection take as long as one of attention to images that no two states share, on a CPU.
CHEAPER_PROJECTION = 3


def question_states(model: VLM, clean: Trace, corrupt: Trace, patches: Patches) -> Tensor:
    """Final question states (P, S, T, D) of patches of the vision encoder that are sorted by layer.

    Args:
        model: BLIP
        clean: trace of the clean runs
        corrupt: trace of the corrupt runs
        patches: of the residual stream
    """
    last = model.blocks["vision_encoder"].n_layers - 1
    below = sum(layer < last for layer in patches.layers)
    parts = []
    if below:
        parts.append(_with_own_images(model, clean, corrupt, patches.subset(range(below))))
    if below < len(patches):
        parts.append(_with_one_row(model, clean, corrupt, patches.subset(range(below, len(patches)))))
    return torch.cat(parts, dim=1)


def _with_own_images(model: VLM, clean: Trace, corrupt: Trace, patches: Patches) -> Tensor:
    vision: Any = model.hf.vision_model

    def enter(layer: int, chosen: Patches) -> Tensor:
        new = gather_rows(clean["vision_encoder", "residual", layer], chosen.positions)  # (P, S, D)
        return repeat_with_row(corrupt["vision_encoder", "residual", layer], chosen.positions, new.unsqueeze(2))

    def advance(layer: int, changed: Tensor | None, fresh: Tensor | None, rows: Tensor) -> Tensor:
        corrupt_input = corrupt.layer_input("vision_encoder", layer)
        return vision_layer(vision.encoder.layers[layer], changed, fresh, rows, corrupt_input)

    states = sweep_layers(model.blocks["vision_encoder"].n_layers, patches, enter, advance)
    pairs, n_states = states.shape[:2]
    length, width = corrupt.layer_inputs["text_encoder"].shape[1:]
    cheaper = CHEAPER_PROJECTION if states.device.type == "cpu" else 1
    unprojected = cheaper * length * model.blocks["text_encoder"].n_heads < width
    images = vision.post_layernorm(states).flatten(0, 1)  # (P·S, M, D)
    # Every state has an image of its own, so each counts as a pair with one state.
    layers = QuestionLayers(model, images, keep=False, unprojected=unprojected)
    stream = _first_attended(layers, corrupt).expand(-1, n_states, -1, -1).reshape(pairs * n_states, 1, length, width)
    return _through(layers, stream).view(pairs, n_states, length, width)


def _with_one_row(model: VLM, clean: Trace, corrupt: Trace, patches: Patches) -> Tensor:
    norm = model.hf.vision_model.post_layernorm
    site = ("vision_encoder", "residual", patches.layers[0])
    new = gather_rows(clean[site], patches.positions)  # (P, S, D)
    layers = OneRowLayers(model, norm(corrupt[site]), norm(new), patches.positions)
    return _through(layers, _first_attended(layers, corrupt).expand(-1, len(patches), -1, -1))


def _first_attended(layers: QuestionLayers, corrupt: Trace) -> Tensor:
    """The question behind the first layer's self-attention, which is in front of the image: (P, 1, T, D)."""
    return layers.self_attended(0, corrupt.layer_inputs["text_encoder"].unsqueeze(1))


def _through(layers: QuestionLayers, stream: Tensor) -> Tensor:
    """From behind the first layer's self-attention through all layers: (P, S, T, D)."""
    for layer in range(len(layers.layers)):
        stream = layers.behind_self_attention(layer, layers.self_attended(layer, stream) if layer else stream)
    return stream


class OneRowLayers(QuestionLayers):
    """The layers of the question encoder for states whose images differ from their pair's in one row each."""

    def __init__(self, model: VLM, image: Tensor, new: Tensor, positions: Tensor):
        """Prepare to run the layers.

        Args:
            model: BLIP
            image: (P, M, D) image embeddings of each pair
            new: (P, S, D), the row that each state has instead
            positions: (P, S), where it has that row
        """
        super().__init__(model, image, keep=False)
        self.new = new
        self.positions = positions

    def cross(self, layer: int, rows: Tensor) -> Tensor:
        """Cross-attention contexts (P, S·T, D) of rows (P, S·T, D), state by state."""
        attention = self.layers[layer].crossattention.self
        key, value = self.keys_values(layer)  # (P, H, M, E)
        query = split_heads(linear(attention.query, rows), self.heads)  # (P, H, S·T, E)
        own_key, own_value = (
            split_heads(linear(project, self.new), self.heads).unsqueeze(3)  # (P, H, S, 1, E)
            for project in (attention.key, attention.value)
        )
        pairs, states = self.positions.shape
        by_state = (states, rows.shape[1] // states)
        own_score = (query.unflatten(2, by_state) * own_key).sum(-1, keepdim=True)  # (P, H, S, T, 1)
        column = self.positions[:, None, :, None, None].expand(pairs, self.heads, *by_state, 1)
        scores = (query @ key.transpose(2, 3)).unflatten(2, by_state).scatter(-1, column, own_score)  # (P, H, S, T, M)
        weights = (scores.float() / query.shape[-1] ** 0.5).softmax(-1).to(value.dtype)
        replaced = self.positions[:, None, :, None].expand(pairs, self.heads, -1, value.shape[-1])
        difference = own_value - value.gather(2, replaced).unsqueeze(3)  # (P, H, S, 1, E)
        contexts = (weights.flatten(2, 3) @ value).unflatten(2, by_state) + weights.gather(-1, column) * difference
        return contexts.flatten(2, 3).transpose(1, 2).flatten(2)
