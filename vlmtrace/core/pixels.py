"""From decoded pixels to what they show: upright, opaque, 8 bits deep; and from a mask's pixels to its object."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import ExifTags, Image

from vlmtrace.core.types import Array

#: EXIF orientation → how the pixels are turned upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: A mask is in color if the channels of a pixel differ by more than this, and its object is what is brighter: less may
#: come of lossy compression.
_NOISE = 31


#: Numbers of channels that an array of pixels may have: gray, RGB, RGBA.
CHANNELS = (1, 3, 4)


class Fault(Exception):
    """What is wrong with an image and what to do, as the rest of a sentence that begins with the image."""


def of_array(values: Any) -> Image.Image:
    """An image of an array of pixels.

    Args:
        values: (row, column), (row, column, channel) or (channel, row, column), of 1, 3 (RGB) or 4 (RGBA) channels;
            whole numbers from 0 to 255, numbers from 0 to 1, or true and false. Where the first and the last axis could
            both be the channels, it is the last

    Returns:
        the image, in 8 bits

    Raises:
        Fault: the array has other axes, or its numbers do not say what is white

    >>> of_array(np.zeros((2, 3, 3), dtype=np.uint8)).size, of_array(np.ones((3, 4, 5))).getpixel((0, 0))
    ((3, 2), (255, 255, 255))
    """
    try:
        pixels = np.asarray(values)
    except Exception as error:  # a tensor on a GPU, or one that needs a gradient
        raise Fault(f"is an array whose numbers cannot be read ({error}): give one of NumPy") from error
    if pixels.ndim == 3 and pixels.shape[2] not in CHANNELS and pixels.shape[0] in CHANNELS:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in CHANNELS):
        shape = " × ".join(map(str, pixels.shape)) or "one number"
        remedy = "reshape it" if pixels.ndim < 4 else "give its images one by one, in a list"
        raise Fault(f"is an array of {shape}, not of rows × columns (× 1, 3 or 4 channels): {remedy}")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if not pixels.size:
        raise Fault("has no pixels: give another")
    kind = pixels.dtype.kind
    least, most = (pixels.min(), pixels.max()) if kind in "iuf" else (0, 0)
    if kind == "b":
        pixels = pixels * 255
    elif kind == "f" and least >= 0 and most <= 1:  # NaN, too, is not in between
        pixels = np.rint(pixels.astype(np.float64) * 255)
    elif not (kind in "iu" and least >= 0 and most <= 255):
        said = f"from {least:.4g} to {most:.4g}" if kind in "iuf" else f"of the type {pixels.dtype}"
        raise Fault(
            f"holds numbers {said}, where whole numbers from 0 to 255 or others from 0 to 1 say what is white: give "
            "the pixels as they were before a processor normalized them"
        )
    return Image.fromarray(np.ascontiguousarray(pixels.astype(np.uint8)))


def upright(pixels: Image.Image, decoded: Image.Image) -> Image.Image:
    """Turn pixels as an image's EXIF orientation says.

    Args:
        pixels: made of the image; they are not used again
        decoded: the image

    Returns:
        the pixels, without the metadata that would turn them once more
    """
    try:
        turn = _UPRIGHT.get(decoded.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken metadata do not turn an image: viewers show it as it lies
        turn = None
    turned = pixels if turn is None else pixels.transpose(turn)
    turned.info = {}
    return turned


def rgb(image: Image.Image) -> Image.Image:
    """A new image in RGB: what is transparent is white, and more than 8 bits become 8.

    Args:
        image: any, decoded

    Raises:
        Fault: its numbers do not say what is white
    """
    deep = _deep(image)
    if deep is not None:
        return deep.convert("RGB")
    if not _has_alpha(image):
        return image.convert("RGB")
    image = _rgba(image)
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _has_alpha(image: Image.Image) -> bool:
    return image.getbands()[-1] in ("A", "a") or image.info.get("transparency") is not None


def _rgba(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # premultiplied gray becomes nothing else
        image = image.convert("LA")
    return image.convert("RGBA")


def _deep(image: Image.Image) -> Image.Image | None:
    """A gray image with more than 8 bits in 8 bits, on white; None: it has no more."""
    if image.mode not in ("F", "I") and not image.mode.startswith("I;16"):
        return None
    values = np.asarray(image)
    if image.mode == "F":
        if not (values.min() >= 0 and values.max() <= 1):  # NaN, too, is not in between
            said = f"holds floating-point numbers from {values.min():.4g} to {values.max():.4g} (mode F)"
            raise Fault(f"{said}, of which only 0 to 1 say what is white: scale them, or save it with 8 bits")
        scaled = np.rint(values * 255)
    elif image.mode == "I" and image.format not in ("PNG", "PPM"):  # of which Pillow makes I of 16 bits
        raise Fault("holds 32-bit integers (mode I), which do not say what is white: save it with 8 or 16 bits")
    else:
        scaled = np.rint(values / np.float32(257))  # 65535 → 255
        if getattr(image, "tag_v2", {}).get(262) == 0:  # TIFF whose 0 is white
            scaled = 255 - scaled
        if isinstance(image.info.get("transparency"), int):
            scaled[values == image.info["transparency"]] = 255
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))


def marked(mask: Image.Image) -> Array:
    """Where a mask shows its object.

    Args:
        mask: any, decoded

    Returns:
        (row, column), bool: what is opaque, where that varies; otherwise of a gray mask what is brighter than middle
        gray, or than black if there is one gray beside it; of a colored mask what is not black

    Raises:
        Fault: the mask is wholly transparent, or has several grays that are all dark
    """
    if _has_alpha(mask):
        alpha = np.asarray(_rgba(mask))[..., 3]
        if alpha.min() != alpha.max():
            return alpha > 127
        if not alpha.max():
            raise Fault("is wholly transparent: save it with the object in white")
    if mask.mode in ("1", "L", "F", "I") or mask.mode.startswith("I;16"):
        gray = np.asarray(mask)
        middle = 0.5 if gray.max() <= 1 else 32767.5 if mask.mode.startswith("I") else 127.5
    else:
        color = np.asarray(mask.convert("RGB"))
        brightest = color.max(axis=2)
        if (brightest - color.min(axis=2)).max() > _NOISE:
            return brightest > _NOISE
        gray, middle = np.asarray(mask.convert("L")), 127.5
    bright = gray > middle
    if not bright.any() and gray.any():
        levels = np.unique(gray)
        if len(levels) > 2 or levels[0] != 0:
            some = ", ".join(f"{level:g}" for level in levels[:4]) + (", …" if len(levels) > 4 else "")
            raise Fault(f"holds the grays {some}, none of them bright: save it with the object in white on black")
        return gray > 0
    return bright
