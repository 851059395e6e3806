"""What a column and a table of the contract are, and how a table is compared with its contract."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype
from PIL import Image

from vlmtrace.core.arguments.kinds import is_array
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.stored import StoredTable

#: Kind of a column → what pandas may find its values to be, missing ones aside. Kinds are loose on purpose: a column
#: of whole numbers is read back as floats where a value is missing, and float32 and float64 are both numbers.
KINDS: dict[str, frozenset[str]] = {
    "text": frozenset({"string"}),
    "integer": frozenset({"integer"}),
    "number": frozenset({"floating", "integer", "mixed-integer-float"}),
    "boolean": frozenset({"boolean"}),
}

#: Kind of a column whose values are lists of text, in which an entry may be empty (None).
TEXTS = "texts"

#: Kind of a column that a data set brings along and nothing computes with: its values may be of any kind.
ANY = "any"


#: So many names of columns a sentence tells.
MOST_NAMES = 30


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: as it stands in the table
        kind: one of `KINDS`, `TEXTS`, or `ANY`
        meaning: what a value says
        unit: what a number is measured in; empty for names, counts and indices
        optional: whether a table may lack the column
        missing: when a value may be missing; empty: never
        values: those that there are, where they are fixed; empty: any of the kind
        least: of numbers: no value is smaller
        most: of numbers: no value is larger
    """

    name: str
    kind: str
    meaning: str
    unit: str = ""
    optional: bool = False
    missing: str = ""
    values: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None

    def fits(self, values: pd.Series) -> bool:
        """Whether the values are of the column's kind; a column without values is."""
        known = values.dropna()
        if known.empty or self.kind == ANY:
            return True
        if self.kind == TEXTS:
            return all(_is_texts(value) for value in known)
        if isinstance(known.dtype, pd.CategoricalDtype):
            known = pd.Series(known.cat.categories)
        found = infer_dtype(known, skipna=True)
        if self.kind == "integer" and found == "floating":
            return bool((known % 1 == 0).all() and np.isfinite(known.to_numpy(dtype=float)).all())
        return found in KINDS[self.kind]

    def fault(self, values: pd.Series) -> str:
        """What is wrong with the values, in words that follow the column's name; empty: nothing."""
        known = values.dropna()
        if known.empty or self.kind == ANY:
            return ""
        if not self.fits(values):
            return f"must hold {_KIND_WORDS[self.kind]}, not {_shown(known.tolist()[0])}"
        if self.values and len(others := [value for value in known.unique() if value not in self.values]):
            return f"must hold {' or '.join(self.values)}, not {_shown(others[0])}"
        if self.kind in ("integer", "number"):
            numbers = known.to_numpy(dtype=float)
            if not np.isfinite(numbers).all():
                return f"must hold finite numbers, not {numbers[~np.isfinite(numbers)][0]}"
            if self.least is not None and (numbers < self.least).any():
                return f"must hold numbers of at least {self.least:g}, not {numbers.min():g}"
            if self.most is not None and (numbers > self.most).any():
                return f"must hold numbers of at most {self.most:g}, not {numbers.max():g}"
        return ""


@dataclass(frozen=True)
class Table:
    """One table of the contract.

    Attributes:
        name: the file's name, without `.parquet`
        meaning: what the table holds, and what one row is
        columns: in the order in which they are written; a table may have further ones
        notebook: the one that writes it; empty: it is handed from function to function
        per_task: whether each task has its own, in a folder named as the task
        unless: when the table is written without columns and rows; empty: never
        key: columns that tell its rows apart, as far as they are there: no two rows agree in all of them. Empty: rows
            may agree
        needs_rows: whether a table without rows is of no use to the notebooks that read it
    """

    name: str
    meaning: str
    columns: tuple[Column, ...] = field(repr=False)
    notebook: str = ""
    per_task: bool = False
    unless: str = ""
    key: tuple[str, ...] = ()
    needs_rows: bool = False

    @property
    def path(self) -> str:
        """Where it lies; empty for tables that no notebook writes."""
        folder = "data/runs/<RUN>/<TASK>/" if self.per_task else "data/runs/<RUN>/"
        return f"{folder}{self.name}.parquet" if self.notebook else ""

    @property
    def required(self) -> list[str]:
        """Names of the columns that must be there."""
        return [column.name for column in self.columns if not column.optional]

    def column(self, name: str) -> Column:
        """The column of this name.

        Raises:
            VlmtraceError: the contract has no such column
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise VlmtraceError(f"The {self.name} table's contract has no column {name!r}: see vlmtrace.core.schema.")

    def check(self, table: pd.DataFrame, origin: str = "") -> pd.DataFrame:
        """Return the table unchanged if it keeps the contract; columns that the contract does not know are ignored.

        The required columns must be there, values be of their kinds, within their bounds and missing only where they
        may, and no row stand twice.

        Args:
            table: any table that claims this name
            origin: where it comes from, for the sentence, such as a file's path

        Raises:
            VlmtraceError: it breaks the contract; the sentence names the column
        """
        if self.unless and table.empty and not len(table.columns):
            return table
        called = _called(self.name, origin)
        require_columns(table, self.required, self.name, origin, [column.name for column in self.columns])
        for column in self.columns:
            if column.name not in table:
                continue
            values = table[column.name]
            if isinstance(values, pd.DataFrame):
                raise VlmtraceError(f"The {called} has {values.shape[1]} columns {column.name!r}: keep one of them.")
            fault = column.fault(values)
            if fault:
                if _holds_images(values):
                    raise VlmtraceError(
                        f"The column {column.name!r} of the {called} holds images: write them to files with "
                        "vt.save_images, which puts their paths in their place."
                    )
                remedy = "write them as text (str)" if _holds_paths(values) else "correct it"
                raise VlmtraceError(f"The column {column.name!r} of the {called} {fault}: {remedy}.")
            if not column.missing and column.kind != ANY and values.isna().any():
                row = table.loc[values.isna().to_numpy()].iloc[0]
                name = row["sample_id"] if "sample_id" in table else row.name
                raise VlmtraceError(f"The {called}'s column {column.name!r}, row {_shown(name)}, is empty: fill it in.")
        self._check_key(table, called)
        return table

    def _check_key(self, table: pd.DataFrame, called: str) -> None:
        key = [name for name in self.key if name in table]
        if key and (repeated := table.duplicated(key)).any():
            first = table.loc[repeated.to_numpy(), key].iloc[0]
            row = ", ".join(f"{name} {_shown(first[name])}" for name in key)
            raise VlmtraceError(f"The {called} holds a row twice ({row}; {repeated.sum()} too many): drop them.")


_KIND_WORDS = {
    "text": "text",
    "texts": "lists of text",
    "integer": "whole numbers",
    "number": "numbers",
    "boolean": "true or false",
}


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple | np.ndarray) and all(
        entry is None or isinstance(entry, str) for entry in value
    )


def _holds_images(values: pd.Series) -> bool:
    """Whether there are images in place of their paths."""
    known = values.dropna()
    return len(known) > 0 and _is_pixels(known.iloc[0])


def _holds_paths(values: pd.Series) -> bool:
    known = values.dropna()
    return len(known) > 0 and isinstance(known.iloc[0], PurePath)


def _is_pixels(value: object) -> bool:
    """Whether a value is an image, an array of pixels, an image's file as datasets hold it, or a list of such."""
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype.kind not in "biuf"):
        return any(map(_is_pixels, value))  # a list, or as a file gives one back
    if isinstance(value, Mapping):
        return isinstance(value.get("bytes"), bytes)
    return isinstance(value, Image.Image) or is_array(value)


def _shown(value: object) -> str:
    """A value for a sentence: a foreign one may be as long as a book."""
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _called(table_name: str, origin: str) -> str:
    return f"{table_name} table ({origin})" if origin else f"{table_name} table"


def require_columns(
    table: pd.DataFrame | StoredTable, needed: Iterable[str], table_name: str, origin: str = "", own: Iterable[str] = ()
) -> None:
    """Raise one sentence if a column is missing; it names a column that is spelled alike, if there is one.

    Args:
        table: any table
        needed: names of the columns that must be there
        table_name: what the sentence calls the table
        origin: where the table comes from, such as a file's path; empty: nothing is said of it
        own: further names that columns of the table rightly have, so that none of them is a misspelled one

    Raises:
        VlmtraceError: a column is missing
    """
    needed = list(needed)
    for column in needed:
        if column not in table.columns:
            others = [str(name) for name in table.columns if name not in {*needed, *own}]
            close = difflib.get_close_matches(column, others, n=1)
            names = ", ".join(map(str, list(table.columns)[:MOST_NAMES])) or "no columns"
            more = f" and {len(table.columns) - MOST_NAMES} more" if len(table.columns) > MOST_NAMES else ""
            hint = f"rename {close[0]!r}" if close else f"it has {names}{more}"
            if close and "video" in close[0].lower():
                hint = (
                    "a video is not read: save frames of it as images, and list them in clean_images and corrupt_images"
                )
            raise VlmtraceError(f"The {_called(table_name, origin)} has no column {column!r}: {hint}.")
