"""The images of a pair: one, or several that its prompt asks about together.

A pairs table names one image a run in `clean_image` and `corrupt_image`. Where a prompt asks about several,
`clean_images` and `corrupt_images` list all of them in order, and `clean_image` and `corrupt_image` name the first that
differs between the runs. All other images may be the same: then one image of several is corrupted.

Maps of several images are drawn on a picture that shows them side by side, each as high as the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from vlmtrace.core.images import open_image, open_mask
from vlmtrace.core.schema import IMAGE_LISTS, MASK_LISTS, changed_place, listed
from vlmtrace.core.types import Array
from vlmtrace.models import VLM
from vlmtrace.models.several_images import sizes_of

#: How the seam between images is marked in a picture that shows them side by side.
SEAM = (255, 255, 255)


def images_of(pair: Mapping[str, Any], column: str = "clean_image") -> list[Any]:
    """The images of one run of a pair, in order.

    Args:
        pair: a row of a pairs table
        column: "clean_image" or "corrupt_image"

    Returns:
        those that `clean_images` (or `corrupt_images`) lists; where it lists none, the one of the column

    >>> images_of({"clean_image": "b.png", "clean_images": ["a.png", "b.png"]})
    ['a.png', 'b.png']
    """
    return listed(pair.get(IMAGE_LISTS[column])) or [pair[column]]


def given_images(pair: Mapping[str, Any], column: str = "clean_image") -> Any:
    """The images of one run as a model takes them: the image, or a list of several."""
    images = images_of(pair, column)
    return images[0] if len(images) == 1 else images


def n_images(pair: Mapping[str, Any]) -> int:
    """How many images a pair's prompt asks about."""
    return len(images_of(pair))


def are_same(first: Sequence[Image.Image], second: Sequence[Image.Image]) -> bool:
    """Whether two runs see the same pictures, whatever files they come from.

    Args:
        first: opened images of one run, in order
        second: those of the other

    >>> are_same([Image.new("RGB", (2, 2))], [Image.new("RGB", (2, 2), "red")])
    False
    """
    return len(first) == len(second) and all(
        a.size == b.size and np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(first, second, strict=True)
    )


def prompt_of(model: VLM, prompt: str, images: Any) -> str:
    """The exact text of a prompt about some images.

    Args:
        model: its chat template writes it
        prompt: what is asked
        images: an image, or a list of several
    """
    n = len(images) if isinstance(images, list | tuple) else 1
    return model.prompt_text(prompt) if n == 1 else model.prompt_text(prompt, n)


def by_image(pair: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pair as if each of its images stood alone: what regions and masks of each image are found by.

    Args:
        pair: a row of a pairs table

    Returns:
        one row per image, each with clean_image, corrupt_image (if the pair has corrupt images) and its masks: those of
        `clean_object_masks` and the like, or else those of the columns of single masks, which are `clean_image`'s and
        `corrupt_image`'s
    """
    images = images_of(pair)
    if len(images) == 1:
        return [dict(pair)]
    corrupt = images_of(pair, "corrupt_image") if pair.get("corrupt_image") is not None else None
    own = changed_place(pair)
    lists = {*IMAGE_LISTS.values(), *MASK_LISTS.values()}
    rows = []
    for i, image in enumerate(images):
        row = {name: value for name, value in pair.items() if name not in lists} | {"clean_image": image}
        if i != own:
            row |= {name: None for name in row if str(name).endswith("_mask")}
        if corrupt is not None:
            row["corrupt_image"] = corrupt[i]
        for column, name in MASK_LISTS.items():
            masks = listed(pair.get(name))
            # Empty text stands for no mask, as in a CSV.
            row[column] = (masks[i] or None) if masks else row.get(column)
        rows.append(row)
    return rows


def picture_of(pair: Mapping[str, Any], column: str = "clean_image") -> Any:
    """What figures show as the image of a run: the image, or several side by side.

    Args:
        pair: a row of a pairs table
        column: "clean_image" or "corrupt_image"

    Returns:
        an image or its path

    Raises:
        VlmtraceError: one of several images cannot be read
    """
    images = images_of(pair, column)
    return images[0] if len(images) == 1 else side_by_side([open_image(image) for image in images])


def picture_height(pairs: pd.DataFrame) -> float:
    """The room that figures give to a picture, as its height over its width.

    Args:
        pairs: a pairs table

    Returns:
        of the highest picture that shows several images side by side; 1 where each pair has one image, of any shape

    Raises:
        VlmtraceError: one of several images cannot be read
    """
    heights = [1.0]
    if len(pairs) and all(n_images(pair) > 1 for _, pair in pairs.iterrows()):
        sides = [_widths(sizes_of(images_of(pair, "clean_image"))) for _, pair in pairs.iterrows()]
        heights = [height / sum(widths) for widths, height in sides]
    return min(1.0, max(heights))


def masks_side_by_side(pair: Mapping[str, Any], column: str) -> Image.Image | None:
    """A mask of the picture that `picture_of` gives of several clean images; None: no image has one.

    Args:
        pair: a row of a pairs table with several images
        column: of single masks, such as "clean_object_mask"

    Raises:
        VlmtraceError: a mask or an image cannot be read, or a mask is not of its image's size
    """
    rows = by_image(pair)
    if not any(isinstance(row.get(column), str) for row in rows):
        return None
    shown = []
    for row in rows:
        size = open_image(row["clean_image"]).size
        path, owner = row.get(column), f"pair {pair.get('sample_id')!r}"
        shown.append(open_mask(path, size, owner) if isinstance(path, str) else Image.new("L", size))
    return side_by_side(shown, seam=None)


def side_by_side(images: Sequence[Image.Image], seam: tuple[int, int, int] | None = SEAM) -> Image.Image:
    """One picture that shows several, from left to right, each scaled to the height of the highest.

    Args:
        images: of one mode
        seam: color of the line between them, two pixels wide; None: there is no line

    >>> side_by_side([Image.new("L", (4, 4)), Image.new("L", (2, 2))], None).size
    (8, 4)
    """
    widths, height = _widths([image.size for image in images])
    mode = images[0].mode
    resample = Image.Resampling.NEAREST if mode == "L" else Image.Resampling.BICUBIC
    found, left = Image.new(mode, (sum(widths), height)), 0
    for image, width in zip(images, widths, strict=True):
        found.paste(image if image.size == (width, height) else image.resize((width, height), resample), (left, 0))
        if seam is not None and left:
            found.paste(seam, (left - 1, 0, left + 1, height))
        left += width
    return found


def _widths(sizes: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """The width of each image in the picture that shows them side by side, and its height."""
    height = max(size[1] for size in sizes)
    return [max(1, round(width * height / own)) for width, own in sizes], height


def boxes_side_by_side(boxes: Array, numbers: Array, sizes: Sequence[tuple[int, int]]) -> Array:
    """Boxes in images as boxes in the picture that shows them side by side.

    Args:
        boxes: (n, 4): top, left, bottom, right in fractions of the image that each is in
        numbers: (n,), of which image each is, counted from 0
        sizes: width and height of the images

    Returns:
        (n, 4), in fractions of the picture

    >>> boxes_side_by_side(np.array([[0, 0, 1, 0.5], [0, 0, 1, 1]]), np.array([0, 1]), [(4, 4), (4, 4)]).tolist()
    [[0.0, 0.0, 1.0, 0.25], [0.0, 0.5, 1.0, 1.0]]
    """
    if len(sizes) == 1:
        return boxes
    widths, _ = _widths(sizes)
    ends = np.cumsum([0, *widths]) / sum(widths)
    first, last = ends[numbers], ends[np.asarray(numbers) + 1]
    found = np.asarray(boxes, dtype=float).copy()
    for side in (1, 3):
        found[:, side] = first + found[:, side] * (last - first)
    return found


def cells(model: VLM, pair: Mapping[str, Any], inputs: Any, block: str) -> Array:
    """Where the image positions of a block lie in the picture of a pair's clean run.

    Args:
        model: tells where they lie
        pair: a row of a pairs table
        inputs: of its clean run (batch 1)
        block: the vision encoder, or the block that holds image tokens

    Returns:
        (image position, 4): top, left, bottom, right in fractions of the picture that `picture_of` gives
    """
    given = given_images(pair)
    boxes = model.image_cells(given, inputs, block)
    if not isinstance(given, list):
        return boxes
    sizes = [open_image(image).size for image in given]
    return boxes_side_by_side(boxes, model.image_numbers(given, inputs, block), sizes)
