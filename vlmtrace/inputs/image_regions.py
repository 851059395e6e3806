"""Which image tokens show the object that a question asks about, which the distractor, and which neither.

Where scenes come with masks, positions can be patched, silenced and scored by what they show: all tokens of the object
at once, or all of the background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.paths import resolve
from vlmtrace.core.types import Array
from vlmtrace.inputs.token_roles import token_table
from vlmtrace.models import VLM, Inputs

MASKS = {"object": "clean_object_mask", "distractor": "clean_distractor_mask"}

#: Named groups of image tokens; `image` is all of them, `background` those that show neither object nor distractor.
IMAGE_REGIONS = ("object", "distractor", "background", "image")

#: Cells along each side of a picture of positions that form no grid.
RASTER = 48


def coverage(mask: Image.Image, boxes: Array) -> Array:
    """Share of each box that a mask covers, by exact area averaging.

    Args:
        mask: white where the object is
        boxes: (n, 4): top, left, bottom, right in fractions of the image; NaN where a token shows no place
    Returns:
        (n,); 0 where the place is unknown
    """
    inside = np.asarray(mask.convert("L")) > 127
    height, width = inside.shape
    known = ~np.isnan(boxes).any(axis=1)
    top, left, bottom, right = np.clip(boxes[known], 0, 1).T
    rows, columns = _overlap(top * height, bottom * height, height), _overlap(left * width, right * width, width)
    covered = np.zeros(len(boxes))
    covered[known] = np.einsum("nh,hw,nw->n", rows, inside, columns)
    return covered


def _overlap(start: Array, stop: Array, size: int) -> Array:
    """Share of each stretch start … stop that each of `size` pixels takes up: (stretch, pixel), rows sum to 1."""
    pixels = np.arange(size)
    inside = np.minimum(stop[:, None], pixels + 1) - np.maximum(start[:, None], pixels)
    return np.clip(inside, 0, None) / np.maximum(stop - start, 1e-12)[:, None]


def on_image(values: Array, boxes: Array) -> Array:
    """Amounts at image positions (of attention, say) as a picture that covers the image from edge to edge.

    Args:
        values: (…, n), one for each box
        boxes: (n, 4), as of `VLM.image_cells`
    Returns:
        (…, row, column): one cell a box where they form a grid that covers the image; otherwise `RASTER` cells along
        each side, over which each box's amount is spread by area. What has no place in the image is left out
    Raises:
        VlmtraceError: no position has a place in the image
    """
    placed = ~np.isnan(boxes).any(axis=1)
    if not placed.any():
        raise VlmtraceError("No image token stands for a place in the image, so nothing can be drawn on it.")
    values, boxes = values[..., placed], boxes[placed]
    grid = _grid(boxes)
    if grid:
        return values.reshape(*values.shape[:-1], *grid)
    top, left, bottom, right = boxes.T * RASTER
    return np.einsum("...n,nr,nc->...rc", values, _overlap(top, bottom, RASTER), _overlap(left, right, RASTER))


def _grid(boxes: Array) -> tuple[int, int] | None:
    """Rows and columns of boxes that cover the image row by row, each as large as the others; None: they do not."""
    rows, columns = (len(np.unique(boxes[:, side].round(4))) for side in (0, 1))
    row, column = (index.ravel() for index in np.indices((rows, columns)))
    expected = np.stack([row / rows, column / columns, (row + 1) / rows, (column + 1) / columns], axis=1)
    return (rows, columns) if boxes.shape == expected.shape and np.allclose(boxes, expected, atol=2e-3) else None


def mask_coverage(pair: Mapping[str, Any], column: str, boxes: Array) -> Array:
    """Share of each box that one of a pair's masks covers; 0 everywhere where the pair has no such mask.

    Raises:
        VlmtraceError: the mask cannot be read, or is not of its image's size
    """
    path = pair.get(column)
    if not isinstance(path, str):
        return np.zeros(len(boxes))
    try:
        with Image.open(resolve(path)) as mask, Image.open(resolve(pair["clean_image"])) as image:
            if mask.size != image.size:
                raise VlmtraceError(
                    f"The mask {path} of pair {pair['sample_id']!r} is {mask.width} × {mask.height} pixels and its "
                    f"image {image.width} × {image.height}: both must be of the same size."
                )
            return coverage(mask, boxes)
    except (OSError, SyntaxError) as error:
        raise VlmtraceError(
            f"The mask {path} of pair {pair['sample_id']!r} cannot be read ({error}): correct {column} or empty it."
        ) from error


def image_regions(model: VLM, pair: Mapping[str, Any], inputs: Inputs, block: str | None = None) -> dict[str, Array]:
    """Which image positions belong to each of `IMAGE_REGIONS`, for one pair's clean image.

    A position belongs to the object or the distractor that covers at least half of it; where something covers none by
    half, to it belongs the position that it covers most.

    Args:
        inputs: the pair's inputs (batch 1)
        block: whose image positions; None: those of the image embeddings, as the language side receives them
    Returns:
        by region, bool (image position); where a pair has no mask, only the whole image
    """
    boxes = model.image_cells(pair["clean_image"], inputs, block or model.image_block)
    regions = {"image": np.ones(len(boxes), dtype=bool)}
    if not isinstance(pair.get(MASKS["object"]), str):
        return regions
    covered = {name: mask_coverage(pair, column, boxes) for name, column in MASKS.items()}
    taken = np.zeros(len(boxes), dtype=bool)
    for name, share in covered.items():
        if share.any():
            regions[name] = (share >= min(0.5, share.max())) & ~taken
            taken |= regions[name]
    shown = ~np.isnan(boxes).any(axis=1)
    regions["background"] = shown & ~taken & (np.sum(list(covered.values()), axis=0) < 0.5)
    return {name: chosen for name, chosen in regions.items() if chosen.any()}


def named_positions(
    model: VLM, pair: Mapping[str, Any], block: str, inputs: Inputs, names: Sequence[str]
) -> dict[str, Array]:
    """Positions of a block under their names: regions of the image, "options", "all", or token roles.

    Args:
        inputs: the pair's inputs (batch 1)
    Returns:
        by name, bool (position); a name that this pair's prompt or image has nothing of is left out
    Raises:
        VlmtraceError: no position of the block could have that name
    """
    roles = token_table(model, pair, block, inputs)["token_role"].to_numpy()
    found = {str(role): roles == role for role in dict.fromkeys(roles)}
    found["options"] = np.isin(roles, ["correct", "incorrect"])
    found["all"] = np.ones(len(roles), dtype=bool)
    at_image = model.image_positions(inputs, block)
    regions: tuple[str, ...] = ()
    if at_image.any():
        regions = IMAGE_REGIONS
        for name, chosen in image_regions(model, pair, inputs, block).items():
            found[name] = np.zeros(len(roles), dtype=bool)
            found[name][at_image] = chosen
    for name in names:
        if name not in regions:
            one_of(name, [*found, *regions], f"position of {block}")
    return {name: found[name] for name in names if name in found and found[name].any()}
