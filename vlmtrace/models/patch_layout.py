"""How pixel values hold the patches of an image, and in which order the vision encoder sees them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.types import Array
from vlmtrace.models.types import Inputs


class PatchLayout:
    """Tiles of patches, row by row, each tile after its class tokens: what most processors and encoders have.

    A family whose processor or vision encoder orders patches in another way overrides these methods.

    Attributes:
        pixels: the input that holds the image
        elsewhere: what stands at positions of the vision encoder that are no patches
    """

    pixels = "pixel_values"
    elsewhere = "[CLS]"

    def grid(self, config: Any, inputs: Inputs) -> tuple[int, int, int]:
        """Tiles of one pair's image, and rows and columns of patches in each."""
        shape = inputs[self.pixels].shape
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
        pixels = inputs[self.pixels].float().cpu().numpy()
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


class PatchList(PatchLayout):
    """All patches of an image of any size lie in one list, row by row, each as a small picture of its own."""

    def grid(self, config: Any, inputs: Inputs) -> tuple[int, int, int]:
        """As the processor says."""
        tiles, rows, columns = inputs["image_grid_thw"][0].tolist()
        return tiles, rows, columns

    def positions(self, hf: Any, inputs: Inputs) -> Array:
        """There is no class token."""
        return all_patches(*self.grid(hf.config, inputs)).reshape(-1, 3)

    def tiles(self, config: Any, inputs: Inputs) -> Array:
        """Put together from the patches; of the frames that a patch may repeat, the first."""
        pixels = inputs["pixel_values"].float().cpu().numpy()
        tiles, rows, columns = self.grid(config, inputs)
        height, width = patch_size(config)
        patches = pixels.reshape(tiles, rows, columns, -1, 3, height, width)[:, :, :, 0]
        # (tile, row, column, channel, height, width) -> (tile, channel, row, height, column, width)
        return patches.transpose(0, 3, 1, 4, 2, 5).reshape(tiles, 3, rows * height, columns * width)


class TokenGrid(PatchLayout):
    """Each tile is a square grid of image tokens, and what a token stands for counts as a patch.

    So it is where an encoder gives fewer positions than it cuts patches, as those that shrink the image layer by layer.
    """

    def grid(self, config: Any, inputs: Inputs) -> tuple[int, int, int]:
        """As many rows as columns."""
        tiles = int(np.prod(inputs["pixel_values"].shape[:-3]))
        side = math.isqrt(int((inputs["input_ids"][0] == config.image_token_id).sum()) // tiles)
        return tiles, side, side

    def patch_size(self, config: Any, inputs: Inputs) -> tuple[int, int]:
        """Pixels per token."""
        _, rows, columns = self.grid(config, inputs)
        height, width = inputs["pixel_values"].shape[-2:]
        return height // rows, width // columns


class TokenRow(PatchLayout):
    """Image tokens that lie in no grid count as one row."""

    def __init__(self, is_image: Callable[[Any, Inputs], Tensor]):
        """Take what says where image tokens stand, as `FamilySpec.is_image` does."""
        self.is_image = is_image

    def grid(self, config: Any, inputs: Inputs) -> tuple[int, int, int]:
        """One tile, one row, as many columns as tokens."""
        return 1, 1, int(self.is_image(config, inputs)[0].sum())


def squares_of(patches: Array, side: int, boxes: bool) -> Array:
    """Squares of side × side patches taken together.

    Args:
        patches: (tile, row, column, …)
        side: patches along each side of a square
        boxes: whether the patches are boxes, around which one is put; otherwise what they have is averaged

    Returns:
        (tile, row of squares, column of squares, …)
    """
    tiles, rows, columns, *more = patches.shape
    squares = patches.reshape(tiles, rows // side, side, columns // side, side, *more)
    if not boxes:
        return squares.mean(axis=(2, 4))
    edges = [squares[..., :2].min(axis=(2, 4)), squares[..., 2:].max(axis=(2, 4))]
    return np.concatenate(edges, axis=-1)


def patch_size(config: Any) -> tuple[int, int]:
    """Height and width of a patch in pixels."""
    size = config.vision_config.patch_size
    return (size, size) if isinstance(size, int) else tuple(size)


def class_tokens(hf: Any) -> int:
    """How many positions that are no patches the vision encoder puts before those of each tile."""
    return sum(name.endswith(("class_embedding", "cls_token")) for name, _ in hf.named_parameters())
