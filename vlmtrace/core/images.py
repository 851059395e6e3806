"""Images and masks from files: upright, opaque and in 8 bits, as a viewer shows them.

A file holds more than the pixels that people see: a note that it was taken with the camera turned, colors hidden under
full transparency, 16 bits a channel. Whoever reads an image here gets what a viewer shows and what transformers makes
of the same file: turned upright by its EXIF orientation, composited on white, scaled by its depth. Of an animation it
is the first frame. Color profiles are not applied; transformers does not apply them either. Nothing is decoded before
the file's header has said how many pixels there are.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from vlmtrace.core.arguments.kinds import is_array
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import find
from vlmtrace.core.pixels import Fault, marked, of_array, rgb, upright
from vlmtrace.core.unreadable import remedy_of

#: An image as functions take it: an image, an array of its pixels (see `vlmtrace.core.pixels.of_array`), or its path.
Picture = Image.Image | np.ndarray | str | Path

#: What `open_image` takes: also a binary file that is open for reading.
ImageSource = Image.Image | np.ndarray | str | Path | IO[bytes]

#: Larger images are refused before they are decoded. Telephones take up to 108 million pixels in one piece.
MOST_PIXELS = 120_000_000

#: Characters of a path that a sentence tells.
LONGEST_PATH = 300

#: No side may be longer: it is the most that JPEG can hold, and a strip of one pixel takes processors very long.
LONGEST_SIDE = 65_535

#: Formats that are read, by Pillow's names, the commonest first; pages and drawings (PDF, EPS, WMF) are not among them.
FORMATS = tuple("JPEG PNG GIF BMP WEBP TIFF PPM AVIF JPEG2000 MPO DIB ICO PCX PSD QOI SGI SUN TGA".split())

#: Endings of HEIC, which the package pillow-heif reads, and the kinds of file that it is.
HEIC = frozenset(".heic .heics .heif .heifs .hif".split())
_HEIC_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
NEEDS_HEIF = "it is HEIC, which needs the package pillow-heif: pip install pillow-heif"

# Pillow warns where our bound allows more than it does. What is beyond the bound gets a sentence.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageError(VlmtraceError):
    """An image or a mask that cannot be used.

    Args:
        message: the sentence
        reason: what is wrong without the name of the file, so that the same fault reads the same everywhere
    """

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


def open_image(image: ImageSource) -> Image.Image:
    """Read an image whole, so that a truncated file fails here and not later.

    It is turned upright by its EXIF orientation, what is transparent becomes white, and 16 bits a channel become 8. An
    image that was read here stays as it is if it is read again.

    Args:
        image: an image, an array of its pixels, its path (see `vlmtrace.core.paths.find`), or an open binary file

    Returns:
        the image in RGB, without metadata

    Raises:
        VlmtraceError: the file is missing, truncated, not an image or has more than `MOST_PIXELS`; or its numbers do
            not say what is white (32-bit integers, floating point beyond 0 to 1)
    """
    with _decoded(image, "image", "replace it or remove its row from the pairs table") as decoded:
        return upright(rgb(decoded), decoded)


def open_mask(mask: ImageSource, size: tuple[int, int] | None = None, owner: str = "") -> Image.Image:
    """Read a mask whole, turned upright as its image is.

    Where its transparency varies, the object is what is opaque. Otherwise the object is, of a mask in gray, what is
    brighter than middle gray, or what is not black where there is one gray beside black (masks of 0 and 1); of a mask
    in color, what is not black.

    Args:
        mask: an image, an array of its pixels, its path (see `vlmtrace.core.paths.find`), or an open binary file
        size: width and height of the upright image that the mask is of; None: that is not checked
        owner: what the mask belongs to, for the sentence, such as "pair 'a'"

    Returns:
        the mask in mode L: 255 where the object is, 0 elsewhere

    Raises:
        VlmtraceError: the file cannot be read, as for `open_image`; it holds several grays and all are dark; it is
            wholly transparent; or it is not of the given size
    """
    noun = "mask"
    with _decoded(mask, noun, "correct its path or empty its cell in the table", owner) as decoded:
        found = upright(Image.fromarray(np.where(marked(decoded), 255, 0).astype(np.uint8)), decoded)
    if size is not None and found.size != size:
        lies = " (it fits the image as it lies in its file: turn it as the EXIF orientation turns the image)"
        raise VlmtraceError(
            f"{_subject(mask, noun, owner)} is {found.width} × {found.height} pixels and its image "
            f"{size[0]} × {size[1]}: both must be of the same size{lies if found.size == size[::-1] else ''}."
        )
    return found


@cache
def heic_is_read() -> bool:
    """Whether the package pillow-heif is there, without which HEIC cannot be read."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


# From a file to pixels ----------------------------------------------------------------------------------------------


#: What is said of a video, and what can be done with one: frames are images like others.
VIDEO = "it is a video"
#: How videos begin: Matroska and WebM, MPEG (two), Flash, Windows Media, Ogg.
_VIDEO_STARTS = (
    b"\x1aE\xdf\xa3",
    b"\x00\x00\x01\xba",
    b"\x00\x00\x01\xb3",
    b"FLV\x01",
    b"0&\xb2u\x8ef\xcf\x11",
    b"OggS",
)
#: Behind its length, the name of the first part of MP4 and QuickTime.
_QUICKTIME = (b"ftyp", b"moov", b"mdat", b"wide")
_FRAMES = "save frames of it as images, and list them in clean_images and corrupt_images"


class _Unreadable(Exception):
    """Why a file is none that can be decoded."""


@contextmanager
def _decoded(source: ImageSource, noun: str, remedy: str, owner: str = "") -> Iterator[Image.Image]:
    """An image with its pixels; whatever goes wrong until they are used becomes one sentence."""
    try:
        given = of_array(source) if is_array(source) else source
        if isinstance(given, Image.Image):
            _check_size(given)
            given.load()
            yield given
        else:
            with _identified(given) as opened:
                _check_size(opened)
                opened.load()
                yield opened
    except (Fault, Image.DecompressionBombError) as error:
        fault = str(error) if isinstance(error, Fault) else _too_large(error)
        message = f"{_subject(source, noun, owner)} {fault}."
        raise ImageError(message, f"the {noun} {fault.split(': ')[0]}") from error
    except Exception as error:  # on broken files decoders raise whatever comes up: struct.error, KeyError, zlib.error
        why = _in_a_line(error)
        remedy = remedy_of(error) or (_FRAMES if why == VIDEO and noun == "image" else remedy)
        message = f"{_subject(source, noun, owner)} cannot be read ({why}): {remedy}."
        raise ImageError(message, f"the {noun} cannot be read: {why}") from error


def _subject(source: ImageSource, noun: str, owner: str) -> str:
    named = f" {_short(str(find(source)))}" if isinstance(source, str | Path) else ""
    return f"The {noun}{named}{f' of {owner}' if owner else ''}"


def _short(path: str) -> str:
    """A path as a sentence can tell it, also where a table holds something else by mistake."""
    shown = path if len(path) <= LONGEST_PATH else f"{path[:LONGEST_PATH]}…"
    return shown if shown.isprintable() else ascii(shown)


def _identified(source: Any) -> Image.Image:
    """The image that a file's content says it is, whatever its name ends in; only its header has been read."""
    file: Path | IO[bytes]
    if isinstance(source, str | Path):
        file = find(source)
        if not file.is_file():
            raise Fault("does not exist: correct its path in the pairs table")
    elif hasattr(source, "read"):
        file = source
    else:
        raise Fault(f"is given as {type(source).__name__}: give an image, an array of its pixels, or its path")
    try:
        return Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        beginning = _beginning(file)
    if beginning[4:8] == b"ftyp" and beginning[8:12] in _HEIC_BRANDS:
        if not heic_is_read():
            raise _Unreadable(NEEDS_HEIF)
        return Image.open(file, formats=["HEIF"])
    raise _Unreadable(_kind(beginning))


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _beginning(file: Path | IO[bytes]) -> bytes:
    if isinstance(file, Path):
        with open(file, "rb") as opened:
            return opened.read(64)
    file.seek(0)
    beginning = file.read(64)
    file.seek(0)
    return beginning


def _kind(beginning: bytes) -> str:
    """What a file is that is no image, by how it begins."""
    if not beginning:
        return "the file is empty"
    if beginning.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS: run git lfs pull"
    if beginning.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        return "it is a page, not an image"
    if beginning.startswith(_VIDEO_STARTS) or beginning[4:8] in _QUICKTIME or beginning[8:12] == b"AVI ":
        return VIDEO
    return "it is in no format of images that is known"


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if not width * height:
        raise Fault("has no pixels: give another")
    if width * height > MOST_PIXELS:
        raise Fault(f"has {width} × {height} pixels, more than {MOST_PIXELS:,}: save it smaller")
    if max(width, height) > LONGEST_SIDE:
        raise Fault(f"has {width} × {height} pixels, more than {LONGEST_SIDE:,} on a side: save it smaller")


def _too_large(error: Image.DecompressionBombError) -> str:
    """What Pillow says of an image that is far too large, in the words of `_check_size`."""
    pixels, most = (int(number) for number in re.findall(r"\d+", str(error))[:2])
    return f"has {pixels:,} pixels, more than {min(most, MOST_PIXELS):,}: save it smaller"


def _in_a_line(error: BaseException) -> str:
    """An error's first line without the file's path."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.strip().splitlines() or [type(error).__name__]
    return lines[0].split(" '/")[0]
