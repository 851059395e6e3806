"""Gemma 4: images of any shape, whose patches are followed by padding and taken together by averaging squares."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlmtrace.core.types import Array
from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import PatchLayout
from vlmtrace.models.types import Inputs


class Padded(PatchLayout):
    """Each patch brings its column and row with it; behind the last one stands padding."""

    elsewhere = "[PAD]"

    def grid(self, config: Any, inputs: Inputs) -> tuple[int, int, int]:
        """By the last patch."""
        columns, rows = (inputs["image_position_ids"][0].amax(0) + 1).tolist()
        return 1, rows, columns

    def positions(self, hf: Any, inputs: Inputs) -> Array:
        """As the processor says."""
        columns, rows = inputs["image_position_ids"][0].cpu().numpy().T
        return np.stack([np.where(columns < 0, -1, 0), rows, columns], axis=-1)

    def tiles(self, config: Any, inputs: Inputs) -> Array:
        """Put together from the patches, whose channels come last."""
        height, width = self.patch_size(config, inputs)
        _, rows, columns = self.grid(config, inputs)
        pixels = inputs["pixel_values"][0, : rows * columns].float().cpu().numpy()
        placed = pixels.reshape(rows, columns, height, width, -1)
        # (row, column, height, width, channel) -> (channel, row, height, column, width)
        return placed.transpose(4, 0, 2, 1, 3).reshape(1, -1, rows * height, columns * width)


class Merged(Padded):
    """The processor has already taken squares of patches together."""

    def patch_size(self, config: Any, inputs: Inputs) -> tuple[int, int]:
        """Of a square."""
        side = config.vision_config.model_patch_size
        return side, side


FAMILIES = [
    FamilySpec(
        "gemma4",
        "Gemma 4",
        "Gemma4ForConditionalGeneration",
        image_tokens="one per square of patches",
        handled="an image that sees itself in both directions, sliding windows, heads of two widths; in models with "
        "experts, mlp is the branch beside them; embeddings of their own for each layer, shared keys and values",
        vision_types=("gemma4_vision",),
        several_images=True,
        layers_read_embeddings=lambda config: bool(config.text_config.hidden_size_per_layer_input),
        layout=Padded(),
        square_side=lambda config: config.vision_config.pooling_kernel_size,
    ),
    FamilySpec(
        "gemma4_unified",
        "Gemma 4 without an encoder",
        "Gemma4UnifiedForConditionalGeneration",
        image_tokens="one per square of pixels, as they are",
        handled="no vision encoder, an image that sees itself in both directions, sliding windows, heads of two widths",
        vision="model.embed_vision",
        vision_types=(),
        several_images=True,
        layout=Merged(),
    ),
]
