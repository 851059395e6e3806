"""Where in the image a position lies: of the vision encoder, and of the image's tokens in the language model.

Processors crop, resize, pad, cut into tiles and reorder, each family in its own way. None of that is assumed here: an
image of two ramps is sent through the model's own processor, and what arrives in each patch tells where it came from.
How patches become tokens is known for each family (`FamilySpec.layout`, `square_side`, `pack`).

Boxes are (top, left, bottom, right) in fractions of the image as it was given; NaN where a position shows none of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from vlmtrace.core.types import Array
from vlmtrace.models.patch_layout import class_tokens
from vlmtrace.models.types import Inputs
from vlmtrace.models.vlm import VLM

#: A tile whose edges lie this close to the image's edges shows all of it.
WHOLE = 5e-3

#: Less than this from end to end of a ramp is the rounding of 8-bit pixels.
FLAT = 5e-3


def has_places(model: VLM) -> bool:
    """Whether any position of a model stands for a place in the image that is known."""
    return "vision_encoder" in model.blocks or model.family.square_side is not None


def vision_boxes(model: VLM, image: Image.Image, inputs: Inputs, patches: Array | None = None) -> Array:
    """The box of each of the vision encoder's positions: (position, 4); `patches` as from `patch_boxes`, if at hand."""
    positions = model.family.layout.positions(model.hf, inputs)  # (position, 3): tile, row, column
    boxes = _clipped(patch_boxes(model, image) if patches is None else patches)[tuple(positions.T)]
    boxes[positions[:, 0] < 0] = np.nan
    return boxes


def token_boxes(model: VLM, image: Image.Image, inputs: Inputs, patches: Array | None = None) -> Array:
    """The box of each image token of the language model: (image token, 4); `patches` as from `patch_boxes`."""
    n = int(model.is_image(inputs)[0].sum())
    side_of = model.family.square_side
    if side_of is None:
        return np.full((n, 4), np.nan)
    boxes = patch_boxes(model, image) if patches is None else patches  # (tile, row, column, 4)
    if model.family.pack is not None:
        found = model.family.pack(model.hf, boxes, inputs, newline=np.nan)
    elif model.family.pooled is not None:
        found = _around(boxes.reshape(-1, 4), model.family.pooled(inputs))
    else:
        found = _squares(boxes, side_of(model.hf.config))  # (tile, token, 4)
        if _has_class_tokens(model):
            found = np.concatenate([np.full_like(found[:, :1], np.nan), found], axis=1)
        found = found.reshape(-1, 4)
    return _clipped(found) if len(found) == n else np.full((n, 4), np.nan)


def token_patches(model: VLM, inputs: Inputs) -> Array | None:
    """Of which vision positions each image token is made; see `ModelInterface.token_patches`.

    What the model does to patches is linear in them (it takes squares together, drops, rearranges), so it is done here
    to the identity: each patch is the unit vector of its position.

    Args:
        model: with visual tokens
        inputs: of one pair

    Returns:
        (image token, vision position); None where an image token stands for no particular patches
    """
    side_of = model.family.square_side
    if side_of is None or model.family.mixes_squares:
        return None
    positions = model.family.layout.positions(model.hf, inputs)  # (position, 3): tile, row, column
    n = len(positions)
    unit = np.eye(n, dtype=np.float32)
    tiles, rows, columns = model.family.layout.grid(model.hf.config, inputs)
    is_class = positions[:, 0] < 0
    patches = np.zeros((tiles, rows, columns, n), dtype=np.float32)
    patches[tuple(positions[~is_class].T)] = unit[~is_class]
    if model.family.pack is not None:
        found = model.family.pack(model.hf, patches, inputs, newline=0.0)
    elif model.family.pooled is not None:
        pooled = model.family.pooled(inputs)
        shares = (pooled >= 0)[..., None] / (pooled >= 0).sum(1)[:, None, None]  # (image token, patch of it, 1)
        found = (patches.reshape(-1, n)[pooled] * shares).sum(1).astype(np.float32)
    else:
        side = side_of(model.hf.config)
        squares = patches.reshape(tiles, rows // side, side, columns // side, side, n)
        found = squares.mean(axis=(2, 4)).reshape(tiles, -1, n)  # (tile, token, position)
        if _has_class_tokens(model):
            found = np.concatenate([unit[is_class].reshape(tiles, -1, n), found], axis=1)
        found = found.reshape(-1, n)
    return found if len(found) == int(model.is_image(inputs)[0].sum()) else None


def _has_class_tokens(model: VLM) -> bool:
    """Whether the class tokens of the vision encoder are among the image tokens (GIT, LLaVA's setting "full")."""
    return model.family.reads_class_token(model.hf.config) and class_tokens(model.hf) > 0


def patch_boxes(
    model: VLM,
    image: Image.Image,
    black: Inputs | None = None,
    encode: Callable[[Image.Image], Inputs] | None = None,
) -> Array:
    """The box of each patch: (tile, row, column, 4); where the processor has padded, it reaches beyond the image.

    Every tile shows some rectangle of the image, so its columns lie on a straight line from left to right: the line is
    fitted to all pixels of a ramp that runs from black to white, between those of an image all black (its inputs may be
    given) and all white. `encode` makes the inputs of an image; None: as the only one of its prompt.
    """
    encode = model.encode_image if encode is None else encode
    width, height = image.size
    across, down = (np.rint((np.arange(n) + 0.5) / n * 255).astype(np.uint8) for n in (width, height))
    ramps = np.zeros((height, width, 3), dtype=np.uint8)
    ramps[..., 0], ramps[..., 1] = across[None], down[:, None]
    if black is None:
        black = encode(Image.new("RGB", image.size))
    shown = [encode(Image.fromarray(picture)) for picture in (np.full_like(ramps, 255), ramps)]
    # (tile, channel, height, width) each
    dark, white, ramp = (as_tiles(model, inputs) for inputs in (black, *shown))
    span = white - dark
    seen = np.abs(span) > 0.5 * np.abs(span).max()
    fraction = (ramp - dark) / np.where(seen, span, 1)
    tiles, _, n_rows, n_columns = fraction.shape
    side = model.family.layout.patch_size(model.hf.config, black)
    boxes = np.full((tiles, n_rows // side[0], n_columns // side[1], 4), np.nan)
    for tile in range(tiles):
        both = seen[tile, :2].all(axis=0)
        if min(both.any(axis=0).sum(), both.any(axis=1).sum()) < 2:
            continue  # at most a line of the image, which gives no scale
        left = _edges(fraction[tile, 0], seen[tile, 0], 1, side[1])
        top = _edges(fraction[tile, 1], seen[tile, 1], 0, side[0])
        boxes[tile] = np.stack(np.broadcast_arrays(top[:-1, None], left[None, :-1], top[1:, None], left[None, 1:]), -1)
    return boxes


def _edges(fraction: Array, seen: Array, axis: int, side: int) -> Array:
    """Where the edges of patches along an axis of a tile lie in the image, from pixels that show a ramp along it."""
    pixel = np.broadcast_to(np.expand_dims(np.arange(fraction.shape[axis]) + 0.5, 1 - axis), fraction.shape)
    if np.ptp(fraction[seen]) < FLAT:
        # One line of pixels, which shows no ramp: it fills what is seen of it.
        first, last = pixel[seen].min() - 0.5, pixel[seen].max() + 0.5
        return (np.arange(0, fraction.shape[axis] + 1, side) - first) / (last - first)
    # At the image's borders resampling bends the ramp.
    straight = seen & (fraction > 0.15) & (fraction < 0.85)
    chosen = straight if len(np.unique(pixel[straight])) > 2 else seen
    slope, start = np.polyfit(pixel[chosen], fraction[chosen], 1)
    edges = start + slope * np.arange(0, fraction.shape[axis] + 1, side)
    whole = np.linspace(0, 1, len(edges))
    # A tile that shows the whole image does so exactly; what is left is the rounding of 8-bit pixels.
    return whole if np.abs(edges - whole).max() < WHOLE else edges


def as_tiles(model: VLM, inputs: Inputs) -> Array:
    """Pixel values of one pair's image: (tile, channel, height, width)."""
    return model.family.layout.tiles(model.hf.config, inputs)


def _squares(boxes: Array, side: int) -> Array:
    """(tile, token, 4): boxes around squares of side × side patches, row by row."""
    tiles, rows, columns, _ = boxes.shape
    squares = boxes.reshape(tiles, rows // side, side, columns // side, side, 4)
    edges: list[Callable] = [np.min, np.min, np.max, np.max]
    around = [edge(squares[..., i], axis=(2, 4)) for i, edge in enumerate(edges)]
    return np.stack(around, -1).reshape(tiles, -1, 4)


def _around(boxes: Array, pooled: Array) -> Array:
    """(token, 4): boxes around the patches of each token, by their numbers (token, patch of it), -1 for none."""
    chosen = np.where((pooled >= 0)[..., None], boxes[pooled], np.nan)
    return np.concatenate([np.nanmin(chosen[..., :2], axis=1), np.nanmax(chosen[..., 2:], axis=1)], axis=1)


def _clipped(boxes: Array) -> Array:
    """Boxes within the image; NaN for those outside of it."""
    inside = np.clip(boxes, 0, 1)
    inside[(inside[..., 2] - inside[..., 0] <= 0) | (inside[..., 3] - inside[..., 1] <= 0)] = np.nan
    return inside
