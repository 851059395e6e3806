"""The header that Pix2Struct's processor draws above an image: the question, and where each of its letters lies.

Lee et al. 2023, Pix2Struct (https://arxiv.org/abs/2210.03347): a question about an image is drawn above it, and the
model reads it there. transformers draws it in Arial, which it fetches from the hub for every image. Here the font is
looked for once: in the hub's cache, and where it is not, DejaVu Sans takes its place, with a warning.
"""

from __future__ import annotations

import io
import re
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import huggingface_hub
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from transformers import Pix2StructImageProcessorPil
from transformers.models.pix2struct.image_processing_pil_pix2struct import DEFAULT_FONT_PATH, render_text

from vlmtrace.core.caller import warn
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.images import MOST_PIXELS
from vlmtrace.core.types import Array
from vlmtrace.models.input_limits import quoted

#: What transformers draws in: a file of the repository `DEFAULT_FONT_PATH`.
ARIAL = "Arial.TTF"

#: How transformers draws: characters of a line, size of letters, and pixels around the text.
LINE, SIZE, PADDING = 80, 36, 5


@dataclass(frozen=True)
class Font:
    """A font.

    Attributes:
        name: for sentences and records
        data: the bytes of its file
    """

    name: str
    data: bytes

    @property
    def letters(self) -> ImageFont.FreeTypeFont:
        """The font in the size that headers are drawn in."""
        return ImageFont.truetype(io.BytesIO(self.data), encoding="UTF-8", size=SIZE)


def find_font(name: str) -> Font:
    """Arial where the hub's cache holds it, otherwise DejaVu Sans, with a warning.

    Args:
        name: of the model, for the warning
    """
    cached = huggingface_hub.try_to_load_from_cache(DEFAULT_FONT_PATH, ARIAL)
    if isinstance(cached, str):
        return Font("Arial", Path(cached).read_bytes())
    warn(
        f"{name} reads its question as an image of letters, and Arial, in which transformers draws them, is not in the "
        f"hub's cache: DejaVu Sans is used. For the letters that the model was trained on, run: hf download "
        f"{DEFAULT_FONT_PATH} {ARIAL}."
    )
    return _dejavu()


@cache
def _dejavu() -> Font:
    import matplotlib  # for its font alone

    return Font("DejaVu Sans", (Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf").read_bytes())


def with_header(image: Image.Image, text: str, font: Font) -> tuple[Image.Image, float]:
    """An image below a text, as the processor of Pix2Struct draws it.

    The narrower one of text and image is made as wide as the other.

    Args:
        image: in RGB
        text: the question
        font: what it is drawn in

    Returns:
        both in one image; the share of its height that the text takes

    Raises:
        VlmtraceError: the font lacks a letter of the text, or the image would become too large
    """
    missing = sorted({letter for letter in text if not letter.isspace() and not _has(font, letter)})
    if missing:
        raise VlmtraceError(
            f"The prompt {quoted(text)} cannot be drawn above the image: {font.name} has no {missing[0]!r}. Use other "
            "words."
        )
    header = render_text(text, font_bytes=font.data)
    width = max(header.width, image.width)
    height, above = (int(part.height * (width / part.width)) for part in (image, header))
    if width * (height + above) > MOST_PIXELS:
        raise VlmtraceError(
            f"An image of {image.width} × {image.height} pixels would have {width} × {height} below the prompt "
            f"{quoted(text)}, as wide as its letters, which is more than {MOST_PIXELS:,}: use a less narrow one."
        )
    pixels = np.asarray(image).transpose(2, 0, 1)  # (3, H, W)
    drawn = Pix2StructImageProcessorPil().render_header(pixels, text, font_bytes=font.data)
    return Image.fromarray(drawn.transpose(1, 2, 0)), above / (above + height)


@cache
def _has(font: Font, letter: str) -> bool:
    """Whether a font has a letter: another drawing than that of what no font has."""
    letters = font.letters
    return bytes(letters.getmask(letter)) != bytes(letters.getmask("\U000fffff")) or letter == "\U000fffff"


def letter_boxes(text: str, font: Font) -> Array:
    """Where each character of a text lies in its header.

    Args:
        text: as it is drawn
        font: what it is drawn in

    Returns:
        (character, 4): top, left, bottom, right in fractions of the header; NaN for blanks
    """
    found = np.full((len(text), 4), np.nan)
    lines, letters = textwrap.TextWrapper(width=LINE).wrap(text=text), font.letters
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    _, _, width, height = draw.textbbox((0, 0), "\n".join(lines), font=letters)
    # Wrapping changes blanks alone, so that the other characters come in the text's own order.
    places = iter([i for i, letter in enumerate(text) if not letter.isspace()])
    line_height = draw.textbbox((0, 0), "A\nA", font=letters)[3] - draw.textbbox((0, 0), "A", font=letters)[3]
    for number, line in enumerate(lines):
        _, top, _, bottom = draw.textbbox((0, number * line_height), line, font=letters)
        for i, letter in enumerate(line):
            if not letter.isspace():
                left, right = (draw.textlength(line[:end], font=letters) for end in (i, i + 1))
                found[next(places)] = top, left, bottom, right
    size = np.array([height, width]) + 2 * PADDING
    return (found + PADDING) / np.tile(size, 2)


def spans_of(text: str, boxes: Array, cells: Array) -> list[tuple[int, int]]:
    """Which characters of one word each of some places shows: those of the word that it shows most of.

    Args:
        text: the question
        boxes: (character, 4): where its characters lie, NaN for blanks
        cells: (place, 4): top, left, bottom, right in the same fractions

    Returns:
        first and last-plus-one character for each place; (0, 0) where it shows none

    >>> halves = np.array([[0, 0, 1, 0.5], [0, 0.5, 1, 1]])
    >>> spans_of("a b", np.array([[0, 0, 1, 0.4], [np.nan] * 4, [0, 0.45, 1, 1]]), halves)
    [(0, 1), (2, 3)]
    """
    lower = np.minimum(cells[:, None, 2:], boxes[None, :, 2:])  # (place, character, 2)
    shared = np.clip(lower - np.maximum(cells[:, None, :2], boxes[None, :, :2]), 0, None).prod(-1)
    shared = np.nan_to_num(shared)  # (place, character)
    words = [match.span() for match in re.finditer(r"\S+", text)]
    found = []
    for row in shared:
        start, end = max(words, key=lambda span: row[span[0] : span[1]].sum(), default=(0, 0))
        shown = np.flatnonzero(row[start:end] > 0)
        found.append((start + int(shown[0]), start + int(shown[-1]) + 1) if len(shown) else (0, 0))
    return found
