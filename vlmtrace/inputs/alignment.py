"""Whether two images are aligned: whether every position of a model stands for the same place in both.

A run is patched position by position, so position i must mean the same thing in the clean and in the corrupt run. Equal
shapes do not say so: under Qwen2-VL an image of 56 × 28 pixels and one of 28 × 56 both become two image tokens, side by
side in the one and one below the other in the other.

Two images are **aligned** for a model if all of this holds:

1. *The same sequence*: all inputs have equal shapes, and the processor writes the same tokens around the image.
2. *The same grid*: equally many tiles, and rows and columns of patches in each; each position of the vision encoder is
   the same tile, row and column.
3. *The same places*: a position that shows a part of the one image shows a part of the other (none is padding here and
   picture there), and the middle of its box in the one lies within its box in the other, in the vision encoder and
   among the image tokens. Boxes are measured **relative to what the model sees** of each image: where it is cropped at
   its center (LLaVA-1.5) or stretched (BLIP, Gemma 3), images of any shape are aligned. Where no place is known, the
   inputs must say the same of the images' form: sizes, numbers of tiles, masks of padding.

All of this depends on the images' sizes alone, so it is found once for each size, from an empty image; images of one
size are aligned without a look, and so are all images of a model whose processor makes one size of them (BLIP's).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.types import Array
from vlmtrace.models import VLM
from vlmtrace.models.image_geometry import has_places, patch_boxes, token_boxes, vision_boxes
from vlmtrace.models.image_shares import image_shares
from vlmtrace.models.types import Inputs

#: Width and height in pixels.
Size = tuple[int, int]

#: Sizes of images whose places are kept for each model.
SIZES_KEPT = 256

#: What brings the images of a pair to one size, for sentences.
REMEDY = "bring both to one size, with SAME_SIZE=yes of make or vt.same_size"


@dataclass(frozen=True)
class Places:
    """What a model makes of every image of one size.

    Attributes:
        shapes: of its inputs, by name
        ids: of the tokens, with a prompt that does not matter
        grid: tiles, and rows and columns of patches in each
        order: tile, row and column of each position of the vision encoder
        boxes: by block, where its image positions lie: (position, 4), relative to all that the model sees
        form: where no position has a known place, all that its inputs say in whole numbers, by name
    """

    shapes: Mapping[str, tuple[int, ...]]
    ids: tuple[int, ...]
    grid: tuple[int, int, int]
    order: Array
    boxes: Mapping[str, Array]
    form: Mapping[str, list]

    @property
    def n_tokens(self) -> int:
        """Positions of the text sequence, the image's tokens included."""
        return len(self.ids)


_KEPT: WeakKeyDictionary[VLM, OrderedDict[tuple[Size, int], Places]] = WeakKeyDictionary()


def places_of(model: VLM, size: Size, n_images: int = 1) -> Places:
    """What a model makes of every image of a size; found once, and kept.

    Args:
        model: its processor is asked
        size: width and height in pixels
        n_images: how many images the prompt has; of several, all that is found is of one of them

    Returns:
        the sequence, the grid and the places

    Raises:
        VlmtraceError: the processor does not take images of this size
    """
    kept = _KEPT.setdefault(model, OrderedDict())
    if (size, n_images) not in kept:
        kept[size, n_images] = _find_places(model, size) if n_images == 1 else _places_among(model, size, n_images)
        while len(kept) > SIZES_KEPT:
            kept.popitem(last=False)
    return kept[size, n_images]


def _find_places(model: VLM, size: Size) -> Places:
    image = Image.new("RGB", size)
    inputs = model.encode_image(image)
    patches = patch_boxes(model, image, black=inputs) if has_places(model) else None
    boxes = {}
    if "vision_encoder" in model.blocks:
        boxes["vision_encoder"] = vision_boxes(model, image, inputs, patches)
    if model.has_visual_tokens:
        boxes[model.head_block.name] = token_boxes(model, image, inputs, patches)
    return _places(model, inputs, boxes)


def _places_among(model: VLM, size: Size, n_images: int) -> Places:
    share = image_shares(model, [size] * n_images)[0]
    boxes = {model.head_block.name: share.token_boxes}
    if "vision_encoder" in model.blocks:
        boxes["vision_encoder"] = share.vision_boxes
    return _places(model, share.inputs, boxes)


def _places(model: VLM, inputs: Inputs, boxes: Mapping[str, Array]) -> Places:
    layout = model.family.layout
    return Places(
        {name: tuple(value.shape) for name, value in inputs.items()},
        tuple(inputs["input_ids"][0].tolist()),
        layout.grid(model.hf.config, inputs),
        layout.positions(model.hf, inputs),
        {block: relative_to_seen(found) for block, found in boxes.items()},
        {}
        if has_places(model)
        else {name: value.tolist() for name, value in inputs.items() if not value.is_floating_point()},
    )


def relative_to_seen(boxes: Array) -> Array:
    """Boxes in fractions of the part of the image that they cover together.

    Args:
        boxes: (n, 4): top, left, bottom, right in fractions of the image; NaN where a position has no place in it

    Returns:
        (n, 4), 0 to 1

    >>> relative_to_seen(np.array([[0, 0.25, 1, 0.5], [0, 0.5, 1, 0.75]])).tolist()
    [[0.0, 0.0, 1.0, 0.5], [0.0, 0.5, 1.0, 1.0]]
    """
    if np.isnan(boxes).all():
        return boxes
    start, end = np.nanmin(boxes[:, :2], axis=0), np.nanmax(boxes[:, 2:], axis=0)
    return (boxes - np.tile(start, 2)) / np.tile(end - start, 2)


def same_places(first: Array, second: Array) -> bool:
    """Whether the middle of each box lies in the other's box of the same position, and neither has one alone.

    Args:
        first: (n, 4)
        second: (n, 4)

    >>> halves = np.array([[0, 0, 1, 0.5], [0, 0.5, 1, 1]])
    >>> same_places(halves, halves + 0.01), same_places(halves, halves[:, [1, 0, 3, 2]])
    (True, False)
    """
    known = ~np.isnan(first).any(axis=1)
    if first.shape != second.shape or (known != ~np.isnan(second).any(axis=1)).any():
        return False
    first, second = first[known], second[known]
    apart = np.abs((first[:, :2] + first[:, 2:]) - (second[:, :2] + second[:, 2:])) / 2  # (n, 2): down, across
    sides = np.minimum(first[:, 2:] - first[:, :2], second[:, 2:] - second[:, :2])
    return bool((apart < sides / 2 * (1 - 1e-6)).all())


def size_mismatch(model: VLM, clean: Size, corrupt: Size) -> str | None:
    """Whether images of two sizes are aligned for a model, see the module's docstring.

    Args:
        model: its processor is asked
        clean: width and height of the clean image in pixels
        corrupt: of the corrupt image

    Returns:
        None if they are; otherwise a sentence that names both sizes and says what does not agree

    Raises:
        VlmtraceError: the processor does not take images of one of the sizes
    """
    if clean == corrupt or not model.image_size_matters:
        return None
    first, second = places_of(model, clean), places_of(model, corrupt)
    differs = _difference(first, second)
    return None if differs is None else _sentence(model, clean, corrupt, differs)


def _sentence(model: VLM, clean: Size, corrupt: Size, differs: str) -> str:
    return (
        f"The clean image of {clean[0]} × {clean[1]} pixels and the corrupt image of {corrupt[0]} × {corrupt[1]} are "
        f"not aligned for {model.name} ({differs}): {REMEDY}."
    )


def sizes_mismatch(model: VLM, clean: Sequence[Size], corrupt: Sequence[Size]) -> str | None:
    """As `size_mismatch`, for prompts of several images: each must be aligned with the one that takes its place.

    Args:
        model: its processor is asked
        clean: width and height in pixels of the images of the clean run
        corrupt: of as many images of the corrupt run

    Returns:
        None if all are; otherwise a sentence that says which image is not, and why

    Raises:
        VlmtraceError: the processor does not take images of one of the sizes, or not so many in a prompt
    """
    if len(clean) == 1:
        return size_mismatch(model, clean[0], corrupt[0])
    for i, (before, after) in enumerate(zip(clean, corrupt, strict=True)):
        if before == after or not model.image_size_matters:
            continue
        differs = _difference(*(places_of(model, size, len(clean)) for size in (before, after)))
        if differs is not None:
            return f"Of image {i + 1}: {_sentence(model, before, after, differs)}"
    return None


def _difference(first: Places, second: Places) -> str | None:
    if first.grid != second.grid:
        return f"{_grid(first)} against {_grid(second)}"
    if first.n_tokens != second.n_tokens:
        return f"{first.n_tokens} against {second.n_tokens} positions with the same prompt"
    alike = first.shapes == second.shapes and first.ids == second.ids and first.form == second.form
    if not alike or not np.array_equal(first.order, second.order):
        return "their inputs differ in form"
    if not all(same_places(first.boxes[block], second.boxes[block]) for block in first.boxes):
        return "equally many positions, which show other places in the image"
    return None


def _grid(places: Places) -> str:
    tiles, rows, columns = places.grid
    return f"{rows} × {columns} patches" if tiles == 1 else f"{tiles} tiles of {rows} × {columns} patches"


def is_aligned(model: VLM, clean: Size, corrupt: Size, n_images: int = 1) -> bool:
    """Whether images of two sizes are aligned for a model; False where its processor does not take one of them.

    Args:
        model: its processor is asked
        clean: width and height in pixels
        corrupt: of the other image
        n_images: how many images their prompts have
    """
    try:
        return sizes_mismatch(model, [clean] * n_images, [corrupt] * n_images) is None
    except VlmtraceError:
        return False
