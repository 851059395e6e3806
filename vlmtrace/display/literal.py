"""Texts of figures as they are: prompts, tokens, answers and names are data, not markup, and in any script.

matplotlib reads "$x$" as a formula and fails where it is none, draws an empty box and prints a warning for each letter
that its font lacks, and gives a text all the room that it asks for. Here each text of a figure is drawn character by
character: dollar signs, backslashes and carets as such, control characters escaped, letters in the first installed font
that has them, and long texts shortened. It happens when a figure is drawn, in this one place, whoever made it.
"""

from __future__ import annotations

import logging
import textwrap
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import FigureBase
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter

#: Fonts with the letters that matplotlib's own lacks, as far as they are installed; the first ones go first.
_FALLBACKS = (
    "DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei", "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans",
    "Yu Gothic", "Malgun Gothic", "Apple SD Gothic Neo", "Noto Sans Thai", "Leelawadee UI", "Tahoma",
    "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Arial Unicode MS", "Noto Emoji", "Symbola",
    "Segoe UI Symbol",
)  # fmt: skip

#: What stands for a letter that no installed font has.
BOX = "□"
#: So many such letters in a text are written by their number; more of them are boxes.
NUMBERED = 3


class Room(NamedTuple):
    """Characters of a line, and lines, that texts may have.

    Attributes:
        short: of ticks and legends
        title: of a panel's titles
        long: of all else
    """

    short: tuple[int, int]
    title: tuple[int, int]
    long: tuple[int, int]


ROOM = Room((40, 2), (60, 3), (100, 4))
#: Where a figure has no room for these.
LITTLE_ROOM = Room((8, 1), (40, 1), (40, 1))


@lru_cache(maxsize=1)
def font_families() -> list[str]:
    """What a text is drawn in: matplotlib's own font, and after it those installed that have what it lacks."""
    installed = {font.name for font in fontManager.ttflist}
    return ["sans-serif", *(name for name in _FALLBACKS if name in installed)]


@lru_cache(maxsize=64)
def _glyphs(families: tuple[str, ...]) -> frozenset[int]:
    """All characters that some font of these families has."""
    found: set[int] = set()
    for family in families:
        found.update(get_font(findfont(FontProperties(family=[family]))).get_charmap())
    return frozenset(found)


def literal(text: str, families: Sequence[str] | None = None) -> str:
    r"""A text as it can be drawn: control characters escaped, letters without a glyph named or boxed.

    Args:
        text: any text; line breaks stay
        families: the fonts that it is drawn in; None: `font_families`

    Returns:
        the text to draw; of a text that can be drawn, the same

    >>> print(literal("is it $5 or \\x?"), literal("a\tb\0"))
    is it $5 or \x? a\tb\x00
    """
    if text.isascii() and text.isprintable():
        return text
    known = _glyphs(tuple(font_families() if families is None else families))
    shown = [_escaped(character) for character in text]
    missing = {c for c in shown if len(c) == 1 and c != "\n" and ord(c) not in known}
    if missing:
        _say_that_glyphs_are_missing()
    few = len(missing) <= NUMBERED
    return "".join((f"[U+{ord(c):04X}]" if few else BOX) if c in missing else c for c in shown)


def _escaped(character: str) -> str:
    if character == "\n":
        return character
    category = unicodedata.category(character)
    if category in ("Cc", "Cs") or character in "\u2028\u2029":
        return character.encode("unicode_escape").decode()
    # Variation selectors and marks of direction say how letters are drawn, which is beyond matplotlib.
    return "" if category == "Cf" or "\ufe00" <= character <= "\ufe0f" else character


@lru_cache(maxsize=1)
def _say_that_glyphs_are_missing() -> None:
    """Once in a process, however many figures there are."""
    logging.getLogger("vlmtrace").warning(
        "Some letters are in no installed font: figures show their numbers, or %s. Install a font that has them, such "
        "as Noto Sans CJK.", BOX,
    )  # fmt: skip


def shortened(text: str, width: int, lines: int) -> str:
    r"""A text within a width and a number of lines, by wrapping it and leaving its end out.

    Args:
        text: any text
        width: characters of a line
        lines: at most

    Returns:
        the text; where it is short enough, the same

    >>> shortened("one two three", 7, 2), shortened("one two three four", 7, 2)
    ('one two\nthree', 'one two\nthree …')
    """
    given = text.split("\n")
    if len(given) <= lines and max(map(len, given)) <= width:
        return text
    wrapped = [part for line in given for part in (textwrap.wrap(line, width) if len(line) > width else [line])]
    if len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], f"{wrapped[lines - 1][: width - 2].rstrip()} …"]
    return "\n".join(wrapped)


def make_literal(figure: FigureBase, room: Room | None = None) -> None:
    """Let a figure show all its texts as they are; to be called before it is drawn, and as often as one likes.

    Args:
        figure: any figure
        room: that its texts may take; None: as before, at first `ROOM`
    """
    families = font_families()
    axes = figure.findobj(Axis)
    for formatter in {
        id(found): found for axis in axes for found in (axis.major.formatter, axis.minor.formatter)
    }.values():
        if not isinstance(formatter, LogFormatter):
            _format_literally(formatter, room)
    formulas = {
        id(text) for axis in axes if isinstance(axis.major.formatter, LogFormatter) for text in axis.findobj(Text)
    }
    chosen = room or ROOM
    rooms = {id(text): chosen.short for legend in figure.findobj(Legend) for text in legend.get_texts()}
    for panel in figure.findobj(Axes):
        # A panel's titles are at its middle, left and right.
        titles = (getattr(panel, name, None) for name in ("title", "_left_title", "_right_title"))
        rooms |= {id(text): chosen.title for text in titles}
    for text in figure.findobj(Text):
        if id(text) in formulas:
            continue
        text.set_parse_math(False)
        said = text.get_text()
        family = text.get_fontfamily()
        own = [family] if isinstance(family, str) else list(family)
        more = [name for name in families if name not in own]
        if more and not said.isascii():
            text.set_fontfamily([*own, *more])
        shown = shortened(literal(said, [*own, *more]), *rooms.get(id(text), chosen.long))
        if shown != said:
            text.set_text(shown)


def _format_literally(formatter: Any, room: Room | None) -> None:
    """Labels of ticks are made anew whenever a figure is drawn, so their maker has to know."""
    plain = formatter.format_ticks
    if getattr(plain, "room", None) is not None:
        plain.room = room or plain.room
        return

    def format_ticks(values: Sequence[float]) -> list[str]:
        return [shortened(literal(label), *format_ticks.room.short) for label in plain(values)]  # type: ignore[attr-defined]

    format_ticks.room = room or ROOM  # type: ignore[attr-defined]
    formatter.format_ticks = format_ticks
