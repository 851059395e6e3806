"""What each of several images of a prompt becomes: its tokens, its patches, and where in it they lie.

Processors may treat an image differently where it has company (LLaVA-OneVision cuts a single image into tiles, and none
of several), so nothing is taken over from prompts of one image. A prompt that shows one picture n times is sent through
the model's own processor: one n-th of what arrives is what an image of this size becomes among n. All of it depends on
the image's size and on n alone, so it is found once for each and kept. Only where images are padded to the largest of
their prompt (`FamilySpec.pads_images`) the others' sizes count, too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.types import Array
from vlmtrace.models.image_geometry import as_tiles, has_places, patch_boxes, token_boxes, token_patches, vision_boxes
from vlmtrace.models.sequence_tokens import image_names, vision_tokens
from vlmtrace.models.several_images import Images, as_list, sizes_of
from vlmtrace.models.types import Inputs, Token
from vlmtrace.models.vlm import VLM

#: Width and height in pixels.
Size = tuple[int, int]

#: Sizes of images whose shares are kept for each model.
SIZES_KEPT = 256


@dataclass(frozen=True)
class ImageShare:
    """What one image of a prompt becomes.

    Attributes:
        inputs: this image's part of the prompt's inputs, with the text up to its last token
        vision: what stands at its positions in the vision encoder
        vision_boxes: (position, 4), where in the image they lie
        names: of its image tokens in the language model
        token_boxes: (image token, 4), where in the image they lie
        patches: (image token, position), see `ModelInterface.token_patches`
    """

    inputs: Inputs
    vision: list[Token]
    vision_boxes: Array
    names: list[str]
    token_boxes: Array
    patches: Array | None


#: The size of an image and how many its prompt has; or the sizes of all, and which of them it is.
_Key = tuple[tuple[Size, ...], int] | tuple[Size, int]
_KEPT: WeakKeyDictionary[VLM, OrderedDict[_Key, ImageShare]] = WeakKeyDictionary()


def image_shares(model: VLM, sizes: Sequence[Size]) -> list[ImageShare]:
    """What each image of a prompt becomes.

    Args:
        model: with visual tokens; its processor is asked
        sizes: width and height of the prompt's images in pixels, in order

    Returns:
        one entry per image

    Raises:
        VlmtraceError: the model takes fewer images, or its processor refuses images of one of the sizes
    """
    found = [_kept(model, (size, len(sizes)), partial(_of_equals, model, size, len(sizes))) for size in sizes]
    if not model.family.pads_images or len(set(sizes)) == 1:
        return found
    return [_kept(model, (tuple(sizes), i), partial(_among, model, sizes, i, found)) for i in range(len(sizes))]


def _kept(model: VLM, key: _Key, find: Callable[[], ImageShare]) -> ImageShare:
    kept = _KEPT.setdefault(model, OrderedDict())
    if key not in kept:
        kept[key] = find()
        while len(kept) > SIZES_KEPT:
            kept.popitem(last=False)
    return kept[key]


def _of_equals(model: VLM, size: Size, n: int) -> ImageShare:
    """Of an image among n of its size."""
    prompt, alone = model.prompt_text("?", n), model.encode_image(Image.new("RGB", size))
    return _measured(model, size, lambda image: first_of(model, model.encode([[image] * n], [prompt]), n, alone))


def _among(model: VLM, sizes: Sequence[Size], index: int, shares: Sequence[ImageShare]) -> ImageShare:
    """Of an image among others, to whose size it is padded; `shares` are those among images of its own size."""
    prompt, blank = model.prompt_text("?", len(sizes)), [Image.new("RGB", size) for size in sizes]

    def encode(image: Image.Image) -> Inputs:
        inputs = model.encode([[*blank[:index], image, *blank[index + 1 :]]], [prompt])
        return inputs_of_images(inputs, shares, with_padding=True)[index]

    return _measured(model, sizes[index], encode)


def _measured(model: VLM, size: Size, encode: Callable[[Image.Image], Inputs]) -> ImageShare:
    """Of an image of that size, whose part of a prompt's inputs `encode` gives."""
    blank = Image.new("RGB", size)
    inputs = encode(blank)
    known = "vision_encoder" in model.blocks  # its positions are known to be patches
    patches = patch_boxes(model, blank, inputs, encode) if has_places(model) else None
    return ImageShare(
        inputs,
        vision_tokens(model, inputs) if known else [],
        vision_boxes(model, blank, inputs, patches) if known else np.empty((0, 4)),
        image_names(model, inputs, int(model.is_image(inputs)[0].sum())),
        token_boxes(model, blank, inputs, patches),
        token_patches(model, inputs) if known else None,
    )


def first_of(model: VLM, inputs: Inputs, n: int, alone: Inputs) -> Inputs:
    """The first image's part of the inputs of a prompt whose n images are of one size.

    Args:
        model: tells where image tokens stand
        inputs: of one prompt
        n: how many images it has
        alone: of a prompt with one such image: along the dimension that has another length there, images follow each
            other

    Returns:
        inputs as of one image: of the text what stands up to its last token, of everything else the n-th part

    Raises:
        VlmtraceError: the image tokens cannot be shared evenly
    """
    at = model.is_image(inputs)[0].nonzero()[:, 0].tolist()
    if not at or len(at) % n:
        raise VlmtraceError(
            f"{model.name} makes {len(at)} image tokens of {n} equal images, so that no image has its own: ask about "
            "one image at a time."
        )
    length = at[len(at) // n - 1] + 1
    text = inputs["input_ids"].shape
    found = {}
    for name, value in inputs.items():
        axis = _axis_of_images(value.shape, n, alone[name].shape if name in alone else ())
        if value.shape == text:
            found[name] = value[:, :length]
        else:
            found[name] = value if axis is None else value.narrow(axis, 0, value.shape[axis] // n)
    return found


def _axis_of_images(shape: Sequence[int], n: int, alone: Sequence[int]) -> int | None:
    """The dimension along which n equal images follow each other; None: the input is of all of them."""
    shared = [axis for axis, length in enumerate(shape) if length % n == 0]
    longer = [axis for axis in shared if len(alone) == len(shape) and shape[axis] != alone[axis]]
    # Of n images together with as many tiles as one has alone nothing is longer.
    return next(iter([*longer, *(axis for axis in shared if axis < 2)]), None)


def tiles_of_images(model: VLM, images: Images, inputs: Inputs) -> Array:
    """Pixel values as the vision encoder is given them, one image after the other.

    Args:
        model: its processor made the inputs
        images: the image, or list of images, of which they were made
        inputs: of one pair

    Returns:
        (tile, channel, height, width)

    Raises:
        VlmtraceError: tiles of the images are of unlike size, so that they form no picture
    """
    several = as_list(images)
    if len(several) == 1:
        return as_tiles(model, inputs)
    shares = image_shares(model, sizes_of(several))
    found = [as_tiles(model, part) for part in inputs_of_images(inputs, shares)]
    if len({tiles.shape[1:] for tiles in found}) > 1:
        raise VlmtraceError(
            f"{model.name} sees these {len(found)} images at unlike sizes, so that they cannot be shown one below the "
            "other: bring them to one size."
        )
    return np.concatenate(found)


def inputs_of_images(inputs: Inputs, shares: Sequence[ImageShare], with_padding: bool = False) -> list[Inputs]:
    """The part that each image has of a prompt's pixels, and of what says their form; of the text, as in its share.

    Args:
        inputs: of one pair
        shares: of the prompt's images, from `image_shares`
        with_padding: whether what the processor has padded an image with is kept
    """
    found: list[Inputs] = [{} for _ in shares]
    for name, value in inputs.items():
        shapes = [share.inputs[name].shape for share in shares]
        axes = range(value.ndim)
        axis = next((axis for axis in axes if sum(shape[axis] for shape in shapes) == value.shape[axis]), None)
        start = 0
        for part, share, shape in zip(found, shares, shapes, strict=True):
            if name == "input_ids" or axis is None:
                part[name] = share.inputs[name]
                continue
            own = value.narrow(axis, start, shape[axis])
            # What is longer than the image alone would make it is padding.
            part[name] = own if with_padding else own[tuple(slice(length) for length in shape)]
            start += shape[axis]
    return found


def tokens_of_images(shares: Sequence[ImageShare], block: str) -> list[Token]:
    """What stands at the image positions of a block, one image after the other.

    Args:
        shares: of the prompt's images, from `image_shares`
        block: "vision_encoder", or that of the language model

    Returns:
        tokens whose role says the image, counted from 1: "image 1", "image 2", …; class tokens keep their own
    """
    if block == "vision_encoder":
        return [
            token._replace(role=image_role(i)) if token.role == "image" else token
            for i, share in enumerate(shares)
            for token in share.vision
        ]
    return [Token(name, role=image_role(i)) for i, share in enumerate(shares) for name in share.names]


def image_role(index: int) -> str:
    """The role of tokens of one image of several; `index` counts from 0."""
    return f"image {index + 1}"


def cells_of_images(shares: Sequence[ImageShare], block: str) -> Array:
    """Where the image positions of a block lie, each in its own image: (position, 4), one image after the other."""
    parts = [share.vision_boxes if block == "vision_encoder" else share.token_boxes for share in shares]
    return np.concatenate(parts)


def patches_of_images(shares: Sequence[ImageShare]) -> Array | None:
    """Of which vision positions each image token is made, over all images; None: they stand for no patches."""
    parts = [share.patches for share in shares]
    if any(part is None for part in parts):
        return None
    found = np.zeros([sum(part.shape[axis] for part in parts) for axis in (0, 1)], dtype=np.float32)  # type: ignore[union-attr]
    row = column = 0
    for part in parts:
        assert part is not None
        found[row : row + part.shape[0], column : column + part.shape[1]] = part
        row, column = row + part.shape[0], column + part.shape[1]
    return found
