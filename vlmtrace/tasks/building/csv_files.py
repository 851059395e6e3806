"""Tables that others wrote: every cell as text, every row under the number that a spreadsheet shows.

What is beyond doubt is read as it is meant: comma, semicolon, tab or bar between cells, whichever gives the columns
that are needed; UTF-8 and UTF-16; Excel's line `sep=;`, comments and a title above the header; names of columns in
capitals or with blanks; a comma at the end of every line. All else is said in one sentence, or as the reason of a row.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import MAX_COLUMNS
from vlmtrace.core.unreadable import reading_as_sentences
from vlmtrace.tasks.building.csv_header import (
    ABOVE,
    MAX_HEADER,
    check_header,
    column_names,
    header_place,
    is_sep,
    plain,
    split_line,
)

#: Endings of files in a folder that may be tables.
ENDINGS = (".csv", ".tsv")

#: Characters of a line at most.
MAX_LINE = 10_000_000

#: First bytes of files that are no text → what they are, and what to do.
OTHER_KINDS = {
    b"PK\x03\x04": "an Excel workbook or another archive: save the sheet as CSV (UTF-8)",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV (UTF-8)",
    b"PAR1": "a parquet table: save it as CSV (pandas.read_parquet, then to_csv)",
    b"\x1f\x8b": "compressed: unpack it first",
    b"version https://git-lfs": "a pointer of Git LFS and not the file itself: get it with `git lfs pull`",
    b"%PDF": "a PDF: save the table as CSV (UTF-8)",
}

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class CsvTable:
    """What a file holds.

    Attributes:
        table: every cell as text without blanks around it, empty ones as ""
        rows: the name of each row: "row 2", …, as a spreadsheet counts
        faults: one per row: why it cannot be read as it is meant; None: it can
    """

    table: pd.DataFrame
    rows: list[str]
    faults: list[str | None]


def read_csv(
    path: Path,
    columns: Sequence[str],
    *,
    known: Iterable[str] = (),
    names: Mapping[str, str] | None = None,
    instead: Mapping[str, str] | None = None,
) -> CsvTable:
    """A CSV, whoever wrote it.

    Args:
        path: the file
        columns: names of columns that it must have
        known: further columns whose names are understood in capitals or with blanks, too
        names: what else columns may be called, in lower case → the column; where a table has several names of one
            column, the first in this order counts
        instead: column → another, one of `known`, that says the same where the first is missing

    Returns:
        the table

    Raises:
        VlmtraceError: there is no such file, it is no CSV, or it lacks a column or has one twice
    """
    encoding = encoding_of(path)
    wanted = {**(names or {}), **{name: name for name in (*columns, *known)}}
    try:
        with reading_as_sentences(path), open(path, encoding=encoding, newline="") as file:
            return _read(file, path, columns, wanted, instead or {})
    except UnicodeDecodeError as error:
        raise VlmtraceError(
            f"{path} is not a readable CSV ({_undecodable(path, encoding, error)}): save it as UTF-8 (in Excel: 'CSV "
            "UTF-8')."
        ) from error


def encoding_of(path: Path) -> str:
    """How a text file is written: as its byte order mark says, otherwise in UTF-8.

    Args:
        path: the file

    Raises:
        VlmtraceError: there is no such file, or it is known to be no text
    """
    with reading_as_sentences(path):
        if not path.is_file():
            raise VlmtraceError(f"There is no file {path}: give the path of a CSV.")
        with open(path, "rb") as file:
            start = file.read(64)
    for first, kind in OTHER_KINDS.items():
        if start.startswith(first):
            raise VlmtraceError(f"{path} is {kind}.")
    if start.lstrip(b"\xef\xbb\xbf \r\n\t").lower().startswith((b"<!doctype html", b"<html")):
        raise VlmtraceError(f"{path} is a page of the web, and not the file that it speaks of: download that file.")
    return next((name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), "utf-8")


def _undecodable(path: Path, encoding: str, error: UnicodeDecodeError) -> str:
    """Which line cannot be decoded; in UTF-16 lines cannot be told apart in the bytes."""
    if encoding.startswith("utf-8"):
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as fault:
                    return f"byte 0x{line[fault.start]:02x} in line {number} is no UTF-8"
    return str(error)


def _read(
    file: TextIO, path: Path, columns: Sequence[str], wanted: Mapping[str, str], instead: Mapping[str, str]
) -> CsvTable:
    lines = _lines(file, path)
    top = list(islice(lines, ABOVE))
    above, delimiter = header_place(top, columns, wanted, instead)
    numbered = 1 + above - sum(map(is_sep, top[:above]))  # Excel does not show its own line
    records = _records(chain(top[above:], lines), delimiter, path, numbered)
    _, first = next(records, (numbered, []))
    if len(first) > MAX_COLUMNS:
        raise VlmtraceError(f"{path} has {len(first):,} columns, more than {MAX_COLUMNS:,}: it is no table of rows.")
    header = column_names([cell.strip() for cell in first], wanted, path)
    check_header([name for name in header if name], columns, path, wanted, instead)
    rows, names, faults = [], [], []
    for number, record in records:
        if record:  # a line without anything is no row
            cells, fault = _cells(record, header)
            rows.append(cells)
            names.append(f"row {number}")
            faults.append(fault)
    kept = [place for place, name in enumerate(header) if name]
    table = pd.DataFrame({header[place]: [row[place] for row in rows] for place in kept}, dtype=str)
    for place, name in enumerate(header):
        values = [row[place] for row in rows] if name == "" else []
        if any(values):
            taken = "Unnamed: 0" in table
            table[f"Unnamed: {len(table.columns) if taken else place}"] = values
    return CsvTable(table, names, faults)


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    """The lines of a file, none of which is held in memory if it has no end."""
    for number in range(1, 2**63):
        line = file.readline(MAX_LINE)
        if not line:
            return
        bound = MAX_HEADER if number == 1 else MAX_LINE - 1
        if len(line) > bound:
            raise VlmtraceError(f"{path} has a line of more than {bound:,} characters (line {number}): it is no CSV.")
        yield line


def _records(lines: Iterable[str], delimiter: str, path: Path, first: int) -> Iterator[tuple[int, list[str]]]:
    """The rows with their numbers; empty lines count."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    number = first
    while True:
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fault = "a quote is never closed, or a cell is too long" if "limit" in str(error) else str(error)
            fault = "a quote is never closed" if "unexpected end" in fault else fault
            raise VlmtraceError(
                f"{path} is not a readable CSV (row {number}: {fault}): put quotes around the whole cell, and write a "
                'quote inside it as "".'
            ) from error
        yield number, record
        number += 1


def _cells(record: Sequence[str], header: Sequence[str | None]) -> tuple[list[str], str | None]:
    """A row's cells, as many as the header has, and why they may not be those that are meant."""
    cells = [cell.strip() for cell in record]
    named = max((place for place, name in enumerate(header, 1) if name != ""), default=0)
    fault = None
    if any(cells[named:]):
        fault = (
            f"it has {len(cells)} cells, more than there are columns: put quotes around a cell that holds the "
            "character between cells"
        )
    elif any("\0" in cell for cell in cells):
        fault = "it holds a NUL character: write its cells anew"
    return [*cells, *[""] * (len(header) - len(cells))][: len(header)], fault


def find_csv(
    root: Path,
    columns: Sequence[str],
    task: str,
    names: Mapping[str, str] | None = None,
    *,
    known: Iterable[str] = (),
    instead: Mapping[str, str] | None = None,
) -> Path:
    """The CSV that root is, or the one in the folder root that has these columns.

    Args:
        root: a file or a folder
        columns: names that its header must have
        task: name of the data set, for the sentence
        names: what else columns may be called, in lower case → the column
        known: further columns, as for `read_csv`
        instead: as for `read_csv`

    Returns:
        the file

    Raises:
        VlmtraceError: there is none, or more than one
    """
    if root.is_file():
        return root
    faults = {path: csv_fault(path, columns, names, known, instead) for path in tables_in(root)}
    found = [path for path, fault in faults.items() if fault is None]
    if len(found) > 1:
        raise several_tables(root, task, found)
    if found:
        return found[0]
    said = " ".join(fault for fault in list(faults.values())[:3] if fault)
    raise VlmtraceError(
        f"{root} holds no CSV with the columns {', '.join(columns)}, which {task} needs{': ' + said if said else '.'}"
    )


def several_tables(root: Path, task: str, found: Sequence[Path]) -> VlmtraceError:
    """The sentence that there is no telling which table is meant.

    Args:
        root: the folder
        task: name of the data set
        found: tables in it, or below
    """
    several = ", ".join(path.relative_to(root).as_posix() for path in found)
    return VlmtraceError(f"{root} holds several tables for {task} ({several}): name the one that is meant as root.")


def tables_in(folder: Path, endings: Sequence[str] = ENDINGS) -> list[Path]:
    """Files in a folder that may be tables, sorted; hidden ones and those that an open program leaves are none.

    Args:
        folder: where to look, not below
        endings: how their names end, in lower case

    Raises:
        VlmtraceError: the folder may not be read
    """
    with reading_as_sentences(folder):
        found = [path for path in folder.iterdir() if path.suffix.lower() in endings and path.is_file()]
    return sorted(path for path in found if not path.name.startswith((".", "~$")))


def csv_fault(
    path: Path,
    columns: Sequence[str],
    names: Mapping[str, str] | None,
    known: Iterable[str] = (),
    instead: Mapping[str, str] | None = None,
) -> str | None:
    """Why a file is not the table that is looked for, as far as its header says.

    Args:
        path: the file
        columns: names that its header must have
        names: what else columns may be called
        known: further columns
        instead: as for `read_csv`

    Returns:
        a sentence; None: it is the table, whatever faults its rows have
    """
    wanted = {**(names or {}), **{name: name for name in (*columns, *known)}}
    try:
        with open(path, encoding=encoding_of(path), newline="") as file:
            top = list(islice(_lines(file, path), ABOVE))
        above, delimiter = header_place(top, columns, wanted, instead)
        header = [wanted.get(plain(cell), cell) for cell in split_line("".join(top[above : above + 1]), delimiter)]
        check_header(header, columns, path, wanted, instead or {})
    except VlmtraceError as error:
        return str(error)
    except (OSError, UnicodeDecodeError) as error:
        return f"{path.name} cannot be read ({error})."
    return None
