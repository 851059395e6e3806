"""Which image tokens show the object that a question asks about, which the distractor, and which differ in the pair.

Where scenes come with masks, positions can be patched, ablated and scored by what they show: all tokens of the object
at once, or all of the background. Masks are of the clean image: they do not say where the corrupt image differs (an
object that moves leaves the clean mask). `changed` says that, from the pixels of both images and without masks.

Shapes: n image positions; a box is (top, left, bottom, right) in fractions of the image, NaN where a position shows no
place in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlmtrace.core.arguments import checked
from vlmtrace.core.arguments.kinds import is_array
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.images import open_image, open_mask
from vlmtrace.core.types import Array
from vlmtrace.inputs.pictures import by_image, given_images
from vlmtrace.models import VLM, Inputs
from vlmtrace.models.image_shares import image_role

#: Region → the column of a pairs table that holds the path of its mask.
MASKS = {"object": "clean_object_mask", "distractor": "clean_distractor_mask"}

#: Named groups of image tokens. By the clean image's masks: `object`, `distractor`, and `background`, which shows
#: neither. By the pixels of both images: `changed` and `unchanged`. `image` is all of them.
IMAGE_REGIONS = ("object", "distractor", "background", "changed", "unchanged", "image")

#: Share of a position's pixels that have to differ between clean and corrupt image for it to be `changed`. One pixel
#: of a patch of 16 × 16 is .004; what is below .001 comes of boxes that end within a pixel.
CHANGED_SHARE = 0.001

#: Rows of pixels of a mask that are in memory as floating point at a time.
PIXEL_ROWS = 512

#: Cells along each side of the picture that is drawn of positions that form no grid.
RASTER = 48


@checked
def coverage(mask: Image.Image, boxes: Array) -> Array:
    """Share of each box that a mask covers, by exact area averaging.

    Args:
        mask: white where the object is; or an array of its pixels
        boxes: (n, 4)

    Returns:
        (n,), 0 to 1; 0 where the place is unknown

    >>> mask = Image.new("L", (4, 4), 0)
    >>> mask.paste(255, (0, 0, 2, 4))
    >>> coverage(mask, np.array([[0, 0, 1, 0.5], [0, 0.25, 1, 0.75]])).tolist()
    [1.0, 0.5]
    """
    mask = open_mask(mask) if is_array(mask) else mask
    inside = np.asarray(mask.convert("L")) > 127  # (height, width)
    height, width = inside.shape
    known = ~np.isnan(boxes).any(axis=1)
    top, left, bottom, right = np.clip(boxes[known], 0, 1).T
    rows, columns = _overlap(top * height, bottom * height, height), _overlap(left * width, right * width, width)
    # rows (n, height), columns (n, width): each holds the box's share of every row and column of pixels
    covered = np.zeros(len(boxes))
    across = np.zeros_like(columns)
    for first in range(0, height, PIXEL_ROWS):  # products of matrices; a photograph in floating point takes much room
        part = slice(first, first + PIXEL_ROWS)
        across += rows[:, part] @ inside[part].astype(rows.dtype)
    # Rounded, so that half is half in whatever order pixels are added up.
    covered[known] = (across * columns).sum(axis=1).round(12)
    return covered


def _overlap(start: Array, stop: Array, size: int) -> Array:
    """Share of each interval start … stop that each of `size` pixels takes up: (interval, pixel), rows sum to 1."""
    pixels = np.arange(size)
    inside = np.minimum(stop[:, None], pixels + 1) - np.maximum(start[:, None], pixels)
    return np.clip(inside, 0, None) / np.maximum(stop - start, 1e-12)[:, None]


@checked
def on_image(values: Array, boxes: Array) -> Array:
    """Amounts at image positions (of attention, say) as a picture that covers the image from edge to edge.

    Args:
        values: (…, n), one for each box
        boxes: (n, 4), from `VLM.image_cells`

    Returns:
        (…, row, column): one cell per box where they form a grid that covers the image; otherwise `RASTER` cells along
        each side, over which each box's amount is spread by area. What has no place in the image is left out

    Raises:
        VlmtraceError: no position has a place in the image

    >>> boxes = np.array([[0, 0, 1, 0.5], [0, 0.5, 1, 1]])
    >>> on_image(np.array([0.25, 0.75]), boxes).tolist()
    [[0.25, 0.75]]
    """
    placed = ~np.isnan(boxes).any(axis=1)
    if not placed.any():
        raise VlmtraceError("No image token stands for a place in the image, so nothing can be drawn on it.")
    values, boxes = values[..., placed], boxes[placed]
    # Of images side by side, positions do not come row by row of the picture.
    order = np.lexsort((boxes[:, 1].round(4), boxes[:, 0].round(4)))
    values, boxes = values[..., order], boxes[order]
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
    """Share of each box that one of a pair's masks covers.

    Args:
        pair: a row of a pairs table
        column: the one that holds the mask's path
        boxes: (n, 4)

    Returns:
        (n,), 0 to 1; 0 everywhere where the pair has no such mask

    Raises:
        VlmtraceError: the mask cannot be read, or is not of its upright image's size
    """
    path = pair.get(column)
    if not isinstance(path, str):
        return np.zeros(len(boxes))
    size = open_image(pair["clean_image"]).size
    return coverage(open_mask(path, size, f"pair {pair['sample_id']!r}"), boxes)


def changed_share(clean: Image.Image, corrupt: Image.Image, boxes: Array) -> Array:
    """Share of each box whose pixels differ between two images, in any channel and by however little.

    Args:
        clean: the image that the boxes are of
        corrupt: the other; one of another size is scaled to the first, as a model's processor scales both
        boxes: (n, 4)

    Returns:
        (n,), 0 to 1; 0 where the place is unknown

    >>> clean = Image.new("RGB", (4, 4))
    >>> corrupt = clean.copy()
    >>> corrupt.paste((0, 0, 1), (0, 0, 1, 4))
    >>> changed_share(clean, corrupt, np.array([[0, 0, 1, 0.5], [0, 0.5, 1, 1]])).tolist()
    [0.5, 0.0]
    """
    first, second = clean.convert("RGB"), corrupt.convert("RGB")
    if second.size != first.size:
        second = second.resize(first.size, Image.Resampling.BICUBIC)
    differs = (np.asarray(first) != np.asarray(second)).any(axis=-1)  # (height, width)
    return coverage(Image.fromarray((255 * differs).astype(np.uint8)), boxes)


#: A region, of all images or of one of several: "object", "image 2 object", "image 2".
_REGION = re.compile(rf"(?:image [1-9][0-9]* )?(?:{'|'.join(IMAGE_REGIONS)})|image [1-9][0-9]*")


def is_region(name: str) -> bool:
    """Whether a name is that of a region of the image, or of one image of several.

    Args:
        name: such as "object", or of one image of several "image 2 object"; "image 2" is all of it

    >>> is_region("object"), is_region("image 2 object"), is_region("image 2"), is_region("noun")
    (True, True, True, False)
    """
    return _REGION.fullmatch(name) is not None


def check_region(name: str) -> str:
    """Return the name of a region.

    Args:
        name: see `is_region`

    Returns:
        the same

    Raises:
        VlmtraceError: there is no such region
    """
    return name if is_region(name) else one_of(name, IMAGE_REGIONS, "region")


@checked
def image_regions(model: VLM, pair: Mapping[str, Any], inputs: Inputs, block: str | None = None) -> dict[str, Array]:
    """Which image positions belong to each of `IMAGE_REGIONS`, for one pair's clean image.

    A position belongs to the object or the distractor that covers at least half of it. Where one of them covers half of
    no position, the position that it covers most belongs to it. A position is changed where at least `CHANGED_SHARE` of
    its pixels differ between the pair's clean and corrupt image, and unchanged otherwise. Positions that show no place
    in the image (a class token) are part of `image` alone.

    Where the prompt asks about several images, a region is that of all of them, and each image has its own beside it:
    "image 1" for all of its positions, and "image 1 object", "image 1 changed" and so on. An image that is the same in
    both runs has no changed position. Masks are those of `clean_object_masks` and `clean_distractor_masks`, or of the
    columns of single masks for `clean_image`.

    Args:
        model: tells where image positions lie
        pair: a row of a pairs table
        inputs: the pair's inputs (batch 1)
        block: whose image positions; None: those of the image embeddings, as the language side receives them

    Returns:
        by region, bool (n,), those that have a position: without masks no object, distractor and background, without a
        corrupt image neither changed nor unchanged

    Raises:
        VlmtraceError: an image or a mask cannot be read, or a mask is not of its image's size
    """
    block = block or model.image_block
    images = given_images(pair)
    boxes = model.image_cells(images, inputs, block)
    if not isinstance(images, list):
        return _regions_of_one(pair, boxes)
    numbers = model.image_numbers(images, inputs, block)
    regions: dict[str, Array] = {"image": np.ones(len(boxes), dtype=bool)}
    for i, one in enumerate(by_image(pair)):
        mine = numbers == i
        for name, chosen in _regions_of_one(one, boxes[mine]).items():
            of_image = np.zeros(len(boxes), dtype=bool)
            of_image[mine] = chosen
            regions[name] = regions.get(name, np.zeros(len(boxes), dtype=bool)) | of_image
            regions[image_role(i) if name == "image" else f"{image_role(i)} {name}"] = of_image
    return regions


def _regions_of_one(pair: Mapping[str, Any], boxes: Array) -> dict[str, Array]:
    """The regions of one image, by where its positions lie."""
    regions = {"image": np.ones(len(boxes), dtype=bool)}
    corrupt = pair.get("corrupt_image")
    shown = ~np.isnan(boxes).any(axis=1)
    if corrupt is not None and (isinstance(corrupt, (str, Path, Image.Image)) or is_array(corrupt)):
        share = changed_share(open_image(pair["clean_image"]), open_image(corrupt), boxes)
        regions["changed"] = share >= CHANGED_SHARE
        regions["unchanged"] = shown & ~regions["changed"]
        regions = {name: chosen for name, chosen in regions.items() if chosen.any()}
    if not isinstance(pair.get(MASKS["object"]), str):
        return regions
    covered = {name: mask_coverage(pair, column, boxes) for name, column in MASKS.items()}
    taken = np.zeros(len(boxes), dtype=bool)  # (n,)
    for name, share in covered.items():
        if share.any():
            regions[name] = (share >= min(0.5, share.max())) & ~taken
            taken |= regions[name]
    regions["background"] = shown & ~taken & (np.sum(list(covered.values()), axis=0) < 0.5)
    return {name: chosen for name, chosen in regions.items() if chosen.any()}
