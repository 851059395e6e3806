"""Kinds of single values: what an argument must be, and what a sentence says about one that is not.

NumPy's integers are whole numbers, True is not, and "5" is no number.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from PIL import Image


class Problem(NamedTuple):
    """What is wrong with a value.

    Attributes:
        expected: what it must be, as the object of a sentence
        found: what it is
        remedy: what to do about it, if that is known
        place: where inside the argument, such as "[2]"; empty: the argument itself
        depth: (index, …) of that place, to tell which alternative of a union got furthest
    """

    expected: str
    found: str
    remedy: str | None = None
    place: str = ""
    depth: tuple[int, ...] = ()


class Kind(Protocol):
    """What a value must be."""

    @property
    def says(self) -> str:
        """What it must be, in words."""

    def problem(self, value: Any) -> Problem | None:
        """What is wrong with a value; None: nothing."""


def shown(value: Any, limit: int = 40) -> str:
    """A value as a sentence names it, never longer than a few words.

    >>> shown(None), shown(2.5), shown([1]), shown(PurePath("a/b.csv")), shown("x")
    ('None', '2.5', 'a list', 'the path a/b.csv', "the text 'x'")
    """
    if value is None or isinstance(value, (bool, np.bool_)):
        return str(value)
    if isinstance(value, int):  # Python refuses to write very large ones
        return str(value) if abs(value) < 10**limit else f"a number of {value.bit_length() * 3 // 10} digits"
    if isinstance(value, (float, np.number)):
        return str(value)
    if isinstance(value, str):
        return f"the text {short(repr(str(value)[: limit + 1]), limit)}"
    if isinstance(value, PurePath):
        return f"the path {short(ascii(str(value)[: limit + 1])[1:-1], limit)}"
    if isinstance(value, pd.DataFrame):
        return "a table (pandas.DataFrame)"
    if isinstance(value, type):
        return f"the class {short(value.__name__, limit)}"
    name = short(type(value).__name__, limit)
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def short(text: str, limit: int) -> str:
    """A text that is cut where it is longer than this."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


class Anything:
    """What is not looked at."""

    says = "anything"

    def problem(self, value: Any) -> Problem | None:
        """Nothing."""
        return None


@dataclass(frozen=True)
class Whole:
    """A whole number between two bounds, both included."""

    least: int = -(2**63)
    most: int = 2**63 - 1

    @property
    def says(self) -> str:
        """The bounds that a reader would think of."""
        if self.least < -(2**62):
            return "a whole number"
        return (
            f"a whole number from {self.least:,} to {self.most:,}"
            if self.most < 2**62
            else (f"a whole number of at least {self.least:,}")
        )

    def problem(self, value: Any) -> Problem | None:
        """Not whole, or out of bounds."""
        if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
            if self.least <= value <= self.most:
                return None
            if abs(int(value)) >= 2**63:
                return Problem(self.says, shown(value), f"no number may have more than {len(str(2**63 - 1))} digits")
            return Problem(self.says, shown(value))
        return Problem(self.says, shown(value), _meant_number(value))


@dataclass(frozen=True)
class Number:
    """A finite number between two bounds; whole numbers are numbers, too."""

    least: float = -math.inf
    most: float = math.inf
    excluded: bool = False

    @property
    def says(self) -> str:
        """The bounds, and whether they belong to it."""
        if math.isinf(self.least):
            return "a number"
        if math.isinf(self.most):
            return f"a number {'above' if self.excluded else 'of at least'} {self.least:g}"
        return f"a number from {self.least:g} to {self.most:g}" + (", both excluded" if self.excluded else "")

    def problem(self, value: Any) -> Problem | None:
        """Not a number, not finite, or out of bounds."""
        if isinstance(value, bool) or not isinstance(value, (float, int, np.integer, np.floating)):
            return Problem(self.says, shown(value), _meant_number(value))
        try:
            finite = math.isfinite(float(value))
        except OverflowError:
            finite = False
        if not finite:
            return Problem(self.says, shown(value))
        inside = self.least < value < self.most if self.excluded else self.least <= value <= self.most
        return None if inside else Problem(self.says, shown(value))


def _meant_number(value: Any) -> str | None:
    if isinstance(value, str) and value.strip().removeprefix("-").isdecimal() and value.isascii() and len(value) < 20:
        return f"write {int(value)}, without quotes"
    return None


@dataclass(frozen=True)
class Instance:
    """An object of a class."""

    of: type
    says: str

    def problem(self, value: Any) -> Problem | None:
        """Of another class."""
        return None if isinstance(value, self.of) else Problem(self.says, shown(value))


class Pixels:
    """An image in memory: one of PIL, or an array of its pixels. Functions open it with `vlmtrace.core.images`."""

    says = "an image (PIL), an array of its pixels"

    def problem(self, value: Any) -> Problem | None:
        """Neither of them."""
        return None if isinstance(value, Image.Image) or is_array(value) else Problem(self.says, shown(value))


def is_array(value: Any) -> bool:
    """Whether a value is an array of numbers, of NumPy or of a library that gives NumPy's (a tensor of PyTorch).

    >>> is_array(np.zeros((2, 2))), is_array("image.png"), is_array(pd.Series([1])), is_array(Image.new("L", (2, 2)))
    (True, False, False, False)
    """
    others = (Image.Image, np.generic, pd.Series, pd.DataFrame, pd.Index)
    return hasattr(value, "__array__") and hasattr(value, "ndim") and not isinstance(value, others)


class Truth:
    """True or False."""

    says = "True or False"

    def problem(self, value: Any) -> Problem | None:
        """Neither."""
        return None if isinstance(value, (bool, np.bool_)) else Problem(self.says, shown(value))


#: Depth of a problem with something that is a table.
_A_TABLE = (0,)


class DataTable:
    """A table whose columns can be told apart."""

    says = "a table (pandas.DataFrame)"

    def problem(self, value: Any) -> Problem | None:
        """No table, or one with columns of several levels, or with two of one name."""
        if not isinstance(value, pd.DataFrame):
            return Problem(self.says, shown(value), _way_to_table(value))
        if isinstance(value.columns, pd.MultiIndex):
            return Problem(
                "a table with one row of column names",
                "one with a MultiIndex",
                "give its columns plain names",
                depth=_A_TABLE,
            )
        if not value.columns.is_unique:
            name = value.columns[value.columns.duplicated()][0]
            return Problem(
                "a table whose columns have different names",
                f"one with several columns {short(ascii(name), 40)}",
                "drop or rename one",
                depth=_A_TABLE,
            )
        return None


def _way_to_table(value: Any) -> str | None:
    if isinstance(value, (str, PurePath)):
        reader = "read_csv" if str(value).lower().endswith(".csv") else "read_parquet"
        return f"read the file with pandas.{reader}"
    if isinstance(value, tuple) and any(isinstance(entry, pd.DataFrame) for entry in value):
        return "take the table out of it"
    if isinstance(value, pd.Series):
        return "a row as a table is table.iloc[[0]]"
    if isinstance(getattr(value, "pairs", None), pd.DataFrame):
        return "take its .pairs"
    return None


class Numbers:
    """A number or an array of numbers; missing ones are allowed."""

    says = "a number or an array of numbers"

    def problem(self, value: Any) -> Problem | None:
        """Something that is no number, or holds one."""
        try:
            array = np.asarray(value)
        except Exception:  # an object whose own methods fail is no array, whatever they raise
            return Problem(self.says, shown(value))
        known = array.dtype.kind in "iuf"
        if array.dtype.kind == "O":
            known = all(isinstance(entry, numbers.Real) and not isinstance(entry, bool) for entry in array.flat)
        return None if known else Problem(self.says, shown(value))
