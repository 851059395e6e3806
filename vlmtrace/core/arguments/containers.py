"""Kinds of arguments that hold other values, and of those that may be one thing or another."""

from __future__ import annotations

import collections.abc as abc
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core.arguments.kinds import Anything, Kind, Problem, short, shown

#: What stands for a list where one is asked for.
_COLUMNS = (np.ndarray, pd.Series, pd.Index)


@dataclass(frozen=True)
class Listed:
    """Several values of a kind, in an order: a list or tuple, or a column or array.

    A text is not a list of its letters; what can be gone through only once, or has no order, is none either.
    """

    of: Kind
    words: str
    classes: tuple[type, ...] = ()
    least: int = 0

    @property
    def says(self) -> str:
        """What it is a list of."""
        return self.words

    def problem(self, value: Any) -> Problem | None:
        """Not a list, or the first entry that is not of the kind."""
        if self.classes:
            fits = isinstance(value, self.classes)
        else:
            fits = isinstance(value, (abc.Sequence, *_COLUMNS)) and not isinstance(value, (str, bytes, bytearray))
        if not fits:
            single = self.of.problem(value) is None and not isinstance(self.of, Anything)
            as_list = f"write [{short(ascii(value), 40)}]" if single and isinstance(value, (str, int, float)) else None
            return Problem(self.says, shown(value), as_list)
        if getattr(value, "ndim", 1) == 0:
            return Problem(self.says, "an array without axes")
        if self.least and len(value) < self.least:
            return Problem(
                f"a list of at least {self.least} {'entry' if self.least == 1 else 'entries'}",
                "an empty one",
                "name what is wanted",
                depth=(0,),
            )
        if isinstance(self.of, Anything):
            return None
        for index, entry in enumerate(value):
            if found := self.of.problem(entry):
                return found._replace(place=f"[{index}]{found.place}", depth=(index, *found.depth))
        return None


@dataclass(frozen=True)
class AtLeast:
    """Beside a list in `Annotated`: how many entries it must have."""

    least: int


class GoneThrough(Listed):
    """Several values in any order, of which a function needs each only once: also a set or a generator.

    Only the entries of a list are looked at: those of a generator would be gone.
    """

    def problem(self, value: Any) -> Problem | None:
        """Nothing to go through, or a list whose entry is not of the kind."""
        passing = isinstance(value, abc.Iterable) and not isinstance(value, (abc.Sequence, abc.Mapping, pd.DataFrame))
        return None if passing else super().problem(value)


@dataclass(frozen=True)
class Row:
    """A tuple of values each of its own kind."""

    of: tuple[Kind, ...]

    @property
    def says(self) -> str:
        """What its places hold."""
        return f"a tuple ({', '.join(kind.says.removeprefix('a ') for kind in self.of)})"

    def problem(self, value: Any) -> Problem | None:
        """No tuple, one of another length, or a place that holds something else."""
        if not isinstance(value, tuple):
            return Problem(self.says, shown(value))
        if len(value) != len(self.of):
            return Problem(self.says, f"a tuple of {len(value)}")
        for index, (kind, entry) in enumerate(zip(self.of, value, strict=True)):
            if found := kind.problem(entry):
                return found._replace(place=f"[{index}]{found.place}", depth=(index, *found.depth))
        return None


@dataclass(frozen=True)
class Named:
    """A dict, or what stands for one: another mapping, or a row of a table; keys and values are of a kind each."""

    key: Kind
    of: Kind
    says: str = "a dict"

    def problem(self, value: Any) -> Problem | None:
        """Not a mapping, or the first key or value of another kind."""
        if not isinstance(value, (abc.Mapping, pd.Series)):
            return Problem(self.says, shown(value))
        if isinstance(self.key, Anything) and isinstance(self.of, Anything):
            return None
        for index, (name, entry) in enumerate(value.items()):
            if self.key.problem(name):
                return Problem(f"{self.says} whose keys are each {self.key.says}", f"one with {shown(name)}")
            if found := self.of.problem(entry):
                place = f"[{short(ascii(name), 30)}]{found.place}"
                return found._replace(place=place, depth=(index, *found.depth))
        return None


@dataclass(frozen=True)
class Either:
    """One of several kinds."""

    of: tuple[Kind, ...]

    @property
    def says(self) -> str:
        """All of them."""
        words = list(dict.fromkeys(kind.says for kind in self.of))
        return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))

    def problem(self, value: Any) -> Problem | None:
        """Of none of them; of the one that it is nearly of, the entry that is wrong."""
        found = []
        for kind in self.of:
            problem = kind.problem(value)
            if problem is None:
                return None
            found.append(problem)
        nearest = max(found, key=lambda problem: problem.depth)
        if nearest.depth:
            return nearest
        remedies = [problem.remedy for problem in found if problem.remedy]
        return Problem(self.says, shown(value), remedies[0] if remedies else None)


def handed_on(kind: Kind, value: Any) -> Any:
    """What a function gets for a value that is of the kind.

    Args:
        kind: what it must be
        value: what is given

    Returns:
        the value itself; of NumPy's numbers, columns and arrays what is asked for: Python's number, or a list

    >>> handed_on(Listed(Anything(), "a list"), pd.Series(["a", "b"]))
    ['a', 'b']
    """
    if type(value).__module__ == "builtins":
        return value
    if isinstance(value, np.generic):
        return value if isinstance(kind, Anything) else value.item()
    if isinstance(value, _COLUMNS):
        alternatives = kind.of if isinstance(kind, Either) else (kind,)
        fitting = next((one for one in alternatives if one.problem(value) is None), kind)
        return value.tolist() if isinstance(fitting, Listed) else value
    return value
