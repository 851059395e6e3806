"""Molmo 2: a view of the whole image and overlapping crops of it, of whose patches attention makes image tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vlmtrace.core.types import Array
from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import PatchLayout
from vlmtrace.models.types import Inputs


class Crops(PatchLayout):
    """Each crop is a tile of patches, row by row, with their channels last."""

    def grid(self, config: Any, inputs: Inputs) -> tuple[int, int, int]:
        """All crops are squares of one size."""
        height, width = self.patch_size(config, inputs)
        rows, columns = (
            size // side for size, side in zip(config.vision_config.image_size, (height, width), strict=True)
        )
        return len(inputs["pixel_values"]), rows, columns

    def tiles(self, config: Any, inputs: Inputs) -> Array:
        """Put together from the patches."""
        pixels = inputs["pixel_values"].float().cpu().numpy()
        tiles, rows, columns = self.grid(config, inputs)
        height, width = self.patch_size(config, inputs)
        placed = pixels.reshape(tiles, rows, columns, height, width, -1)
        # (tile, row, column, height, width, channel) -> (tile, channel, row, height, column, width)
        return placed.transpose(0, 5, 1, 3, 2, 4).reshape(tiles, -1, rows * height, columns * width)


def _pooled(inputs: Inputs) -> Array:
    return np.asarray(inputs["image_token_pooling"].cpu())


def _as_batch(inputs: Inputs) -> Inputs:
    """Patches are numbered through all images of a batch."""
    pooled = inputs.get("image_token_pooling")
    if pooled is None or len(inputs["input_ids"]) == 1:
        return inputs
    n_pairs = len(inputs["input_ids"])
    n_patches = inputs["pixel_values"].shape[0] * inputs["pixel_values"].shape[1] // n_pairs
    before = torch.arange(n_pairs, device=pooled.device).repeat_interleave(len(pooled) // n_pairs) * n_patches
    return {
        **inputs,
        "image_token_pooling": torch.where(pooled >= 0, pooled + before[:, None].to(pooled.dtype), pooled),
    }


FAMILIES = [
    FamilySpec(
        "molmo2",
        "Molmo 2",
        "Molmo2ForConditionalGeneration",
        image_tokens="one per square of patches of the whole image and of its crops",
        handled="crops that overlap, features of several layers side by side, an image that sees itself in both "
        "directions",
        vision_types=("molmo2_vision",),
        prompt_start="{image}",
        several_images=True,
        layout=Crops(),
        pooled=_pooled,
        as_batch=_as_batch,
    )
]
