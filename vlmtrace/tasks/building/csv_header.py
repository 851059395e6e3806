"""The header of a CSV: where it is, what stands between its cells, and which column each of them names."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_columns

DELIMITERS = (",", ";", "\t", "|")

#: Lines that may stand above a header, and characters of a header at most.
ABOVE, MAX_HEADER = 20, 1_000_000


def is_sep(line: str) -> bool:
    """Whether a line is Excel's own, which says what stands between cells.

    Args:
        line: the first of a file
    """
    return re.fullmatch(r"sep=.\s*", line, re.IGNORECASE) is not None


def split_line(line: str, delimiter: str) -> list[str]:
    """The cells of a line; none where it is no whole row.

    Args:
        line: of a file
        delimiter: what stands between cells
    """
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]
    except csv.Error:
        return []


def header_place(
    top: Sequence[str],
    columns: Sequence[str],
    wanted: Mapping[str, str],
    instead: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Where the header is: the first line that has the columns, if only comments and a title stand above it.

    Args:
        top: the first lines of a file
        columns: names that the header must have
        wanted: what columns may be called → the column
        instead: column → another that says the same where the first is missing

    Returns:
        how many lines stand above the header, and what stands between its cells
    """
    best = (-1, 0, DELIMITERS[0])  # names that are known, line, delimiter
    for place, line in enumerate(top):
        if not line.strip() or is_sep(line) or len(line) > MAX_HEADER:
            continue
        for delimiter in DELIMITERS:
            cells = split_line(line, delimiter)
            found = {wanted[plain(cell)] for cell in cells if plain(cell) in wanted}
            found |= {column for column, other in (instead or {}).items() if other in found}
            if found.issuperset(columns):
                return place, delimiter
            if best[0] < len(found) and (best[0] <= 0 or place == best[1]):
                best = (len(found), place, delimiter)
        if not line.startswith("#") and sum(map(bool, split_line(line, ","))) != 1:
            break  # neither a comment nor a title: this must be the header
    return best[1], best[2]


def plain(name: str) -> str:
    """A column's name as it is compared.

    Args:
        name: as it stands in the header

    >>> plain("Clean Image")
    'clean_image'
    """
    return re.sub(r"[\s_-]+", "_", name.strip()).lower()


def column_names(cells: Sequence[str], wanted: Mapping[str, str], path: Path) -> list[str | None]:
    """The name of each column.

    Args:
        cells: the header's
        wanted: what columns may be called → the column, the best name first
        path: the file, for the sentence

    Returns:
        by column its name; "": it has none; None: it says what another column says better

    Raises:
        VlmtraceError: a column stands twice
    """
    order = {name: rank for rank, name in enumerate(wanted)}
    places: dict[str, list[int]] = {}
    for place, cell in enumerate(cells):
        if cell:
            places.setdefault(wanted.get(plain(cell), cell), []).append(place)
    header: list[str | None] = [""] * len(cells)
    for name, found in places.items():
        ranks = [order.get(plain(cells[place]), 0) for place in found]
        best = min(ranks)
        if ranks.count(best) > 1:
            twice = cells[found[ranks.index(best)]]
            raise VlmtraceError(f"{path} has the column {twice!r} more than once: rename or delete one of them.")
        for place, rank in zip(found, ranks, strict=True):
            header[place] = name if rank == best else None
    return header


def check_header(
    header: Sequence[str], columns: Sequence[str], path: Path, wanted: Mapping[str, str], instead: Mapping[str, str]
) -> None:
    """Check that a header has the columns that are needed.

    Args:
        header: the names of a file's columns
        columns: those that it must have
        path: the file
        wanted: what columns may be called → the column
        instead: column → another that says the same

    Raises:
        VlmtraceError: one is missing; a known column is not taken for a misspelled one
    """
    needed = [name for name in columns if name in header or instead.get(name) not in header]
    own = set(wanted.values())
    check_columns(pd.DataFrame(columns=[*header]), needed, f"CSV {path.name}", own=own)
