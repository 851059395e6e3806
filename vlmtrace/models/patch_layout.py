"""How pixel values hold the patches of an image, and in which order the vision encoder sees them."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.types import Array
from vlmtrace.models.types import Inputs


class PatchLayout:
    """Tiles of patches, row by row, each tile after its class tokens: what most processors and encoders have.

    A family whose processor or vision encoder orders patches in another way overrides these methods.

    Attributes:
        elsewhere: what stands at positions of the vision encoder that are no patches
    """

    elsewhere = "[CLS]"

    def grid(self, config: Any, inputs: Inputs) -> tuple[int, int, int]:
        """Tiles of one pair's image, and rows and columns of patches in each."""
        shape = inputs["pixel_values"].shape
        rows, columns = (size // side for size, side in zip(shape[-2:], self.patch_size(config, inputs), strict=True))
        return int(np.prod(shape[:-3])), rows, columns

    def patch_size(self, config: Any, inputs: Inputs) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return patch_size(config)

    def positions(self, hf: Any, inputs: Inputs) -> Array:
        """Tile, row and column of each position of the vision encoder: (position, 3); tile -1 where none is."""
        tiles, rows, columns = self.grid(hf.config, inputs)
        patches = all_patches(tiles, rows, columns).reshape(tiles, -1, 3)
        return np.concatenate([np.full((tiles, class_tokens(hf), 3), -1), patches], axis=1).reshape(-1, 3)

    def tiles(self, config: Any, inputs: Inputs) -> Array:
        """Pixel values of one pair's image as (tile, channel, height, width)."""
        pixels = inputs["pixel_values"].float().cpu().numpy()
        return pixels.reshape(-1, *pixels.shape[-3:])


class UnknownLayout(PatchLayout):
    """Of a model of which it is not known how its pixel values hold an image."""

    def grid(self, config: Any, inputs: Inputs) -> tuple[int, int, int]:
        """See `PatchLayout.grid`.

        Raises:
            VlmtraceError: always
        """
        raise VlmtraceError(
            f"How a model of type {config.model_type} cuts images into patches is not known, so that nothing can be "
            "placed in the image: use images of one size, and positions by their roles."
        )

    def positions(self, hf: Any, inputs: Inputs) -> Array:
        """See `PatchLayout.positions`; raises as `grid` does."""
        self.grid(hf.config, inputs)
        raise AssertionError("grid raises")

    def tiles(self, config: Any, inputs: Inputs) -> Array:
        """See `PatchLayout.tiles`; raises as `grid` does."""
        self.grid(config, inputs)
        raise AssertionError("grid raises")


def all_patches(tiles: int, rows: int, columns: int) -> Array:
    """Tile, row and column of every patch: (tile, row, column, 3)."""
    return np.stack(np.meshgrid(*map(np.arange, (tiles, rows, columns)), indexing="ij"), -1)


def patch_size(config: Any) -> tuple[int, int]:
    """Height and width of a patch in pixels."""
    size = config.vision_config.patch_size
    return (size, size) if isinstance(size, int) else tuple(size)


def class_tokens(hf: Any) -> int:
    """How many positions that are no patches the vision encoder puts before those of each tile."""
    return sum(name.endswith(("class_embedding", "cls_token")) for name, _ in hf.named_parameters())
