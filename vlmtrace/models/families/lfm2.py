"""LFM2-VL: most layers of the language model are short convolutions instead of attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlmtrace.core.types import Array
from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import PatchLayout, all_patches, patch_size, squares_of
from vlmtrace.models.types import Inputs


class PaddedTiles(PatchLayout):
    """Each tile is a row of patches, row by row, with padding behind them; tiles may differ in size."""

    elsewhere = "[PAD]"

    def grid(self, config: Any, inputs: Inputs) -> tuple[int, int, int]:
        """Tiles, and the rows and columns of the largest of them."""
        sizes = inputs["spatial_shapes"]
        rows, columns = sizes.amax(dim=0).tolist()
        return len(sizes), rows, columns

    def positions(self, hf: Any, inputs: Inputs) -> Array:
        """As many patches as a tile has, then padding."""
        found = np.full((*inputs[self.pixels].shape[:2], 3), -1)
        for tile, (rows, columns) in enumerate(inputs["spatial_shapes"].tolist()):
            patches = all_patches(1, rows, columns).reshape(-1, 3)
            found[tile, : len(patches)] = patches + np.array([tile, 0, 0])
        return found.reshape(-1, 3)

    def tiles(self, config: Any, inputs: Inputs) -> Array:
        """Put together from the patches; a tile smaller than the largest lies at the top left, and the rest is 0."""
        n, rows, columns = self.grid(config, inputs)
        height, width = patch_size(config)
        pixels = inputs[self.pixels].float().cpu().numpy()
        channels = pixels.shape[-1] // (height * width)
        found = np.zeros((n, channels, rows * height, columns * width), dtype=pixels.dtype)
        for tile, patches, (high, wide) in zip(found, pixels, inputs["spatial_shapes"].tolist(), strict=True):
            placed = patches[: high * wide].reshape(high, wide, height, width, channels)
            # (row, column, height, width, channel) -> (channel, row, height, column, width)
            placed = placed.transpose(4, 0, 2, 1, 3).reshape(channels, high * height, wide * width)
            tile[:, : high * height, : wide * width] = placed
        return found


def pack_tiles(hf: Any, patches: Array, inputs: Inputs, newline: float) -> Array:
    """Squares of each tile's own patches, row by row; see `FamilySpec.pack`."""
    side, boxes = hf.config.downsample_factor, bool(np.isnan(newline))
    found = []
    for tile, (rows, columns) in zip(patches, inputs["spatial_shapes"].tolist(), strict=True):
        squares = squares_of(tile[None, :rows, :columns], side, boxes=boxes)[0]
        found.append(squares.reshape(-1, *patches.shape[3:]))
    return np.concatenate(found)


FAMILIES = [
    FamilySpec(
        "lfm2_vl",
        "LFM2-VL",
        "Lfm2VlForConditionalGeneration",
        image_tokens="one per square of patches, tile by tile",
        handled="layers of short convolutions, whose self_attention is what they gather, with one head and no "
        "attention weights; tiles of unlike size; its processor needs torchvision",
        norm="embedding_norm",
        attention_output=("self_attn.out_proj", "conv.out_proj"),
        mlp="feed_forward",
        vision_types=("siglip2_vision_model",),
        several_images=True,
        layout=PaddedTiles(),
        square_side=lambda config: config.downsample_factor,
        pack=pack_tiles,
    )
]
