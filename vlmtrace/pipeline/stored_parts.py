"""Parts of a long computation as one table on disk, and tables on disk as files of a run.

`Stage.resume` holds all parts in memory. Ten million effects are some gigabytes there and 250 MB in a file: so
`gathered` copies every part into one file as it comes, and `write_parquet` copies that file's rows into the run's.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import make_folder, refusals_as_sentences
from vlmtrace.core.stored import BATCH_ROWS, Source, StoredTable
from vlmtrace.core.stored_rows import plain_text


@checked
def joined(tables: Iterable[StoredTable]) -> StoredTable:
    """Tables on disk, one after the other, as one.

    Args:
        tables: at least one, such as the effects of every corruption

    Returns:
        the table; a column that some of them lack is empty there

    Raises:
        VlmtraceError: there is no table
    """
    sources = []
    for table in tables:
        if table.kept:
            raise VlmtraceError("Join tables before rows are chosen with only(…): it chooses of the joined table.")
        sources += table.sources
    if not sources:
        raise VlmtraceError("There are no tables to join: give at least one.")
    return StoredTable(sources)


def in_order(
    numbered: Iterable[tuple[int, pd.DataFrame]], again: Callable[[int], pd.DataFrame]
) -> Iterator[pd.DataFrame]:
    """Parts that come in any order, in the order of their numbers.

    A part that comes before its turn is not kept in memory but read again.

    Args:
        numbered: every part with its number, from 0
        again: gives the part of a number

    >>> list(in_order([(1, "b"), (0, "a"), (2, "c")], {1: "b again"}.get))
    ['a', 'b again', 'c']
    """
    early: set[int] = set()
    turn = 0
    for number, part in numbered:
        if number != turn:
            early.add(number)
            continue
        yield part
        turn += 1
        while turn in early:
            yield again(turn)
            turn += 1


def gathered(parts: Iterable[pd.DataFrame], folder: Path, name: str) -> StoredTable:
    """Copy parts into a file without a name, which is gone when the table is.

    The parts themselves may be deleted meanwhile: another process that finishes the same stage does so.

    Args:
        parts: one after the other, with the same columns
        folder: on the disk that has room for them
        name: what sentences call the table

    Raises:
        VlmtraceError: the disk is full, read-only, …, or there is no part
    """
    sources: list[Source] = []
    rows = (pa.Table.from_pandas(part, preserve_index=False) for part in parts)
    first = next(rows, None)
    while first is not None:
        alike, first = _write_alike(first, rows, folder, name)
        sources.append(alike)
    if not sources:
        raise VlmtraceError(f"{name} has no rows: there are no pairs left to work on.")
    return StoredTable(sources)


def _write_alike(first: pa.Table, rows: Iterator[pa.Table], folder: Path, name: str) -> tuple[Source, pa.Table | None]:
    """Write tables of one schema, and return the first that has another: a column may be without values in a part."""
    schema = _without_key(first.schema)
    following: list[pa.Table] = []

    def alike() -> Iterator[pa.Table]:
        yield first.replace_schema_metadata(schema.metadata)
        for table in rows:
            if not table.schema.equals(schema):
                following.append(table)
                return
            yield table.replace_schema_metadata(schema.metadata)

    make_folder(folder)
    with refusals_as_sentences(folder):
        handle, path = tempfile.mkstemp(prefix=".rows-", suffix=".parquet", dir=folder)
        os.close(handle)
        try:
            _write(alike(), schema, Path(path))
            return Source(pa.OSFile(path), name), (following or [None])[0]
        finally:
            with contextlib.suppress(OSError):  # a system that keeps the names of open files
                os.unlink(path)


@checked
def write_parquet(table: pd.DataFrame | StoredTable, path: Path) -> None:
    """Write a table in memory or on disk as parquet, without its index.

    Args:
        table: either
        path: the file; callers write it atomically
    """
    if isinstance(table, pd.DataFrame):
        table.to_parquet(path, index=False)
        return
    schema = _schema_of(table)
    _write(_rows_of(table, schema), schema, path)


def _schema_of(table: StoredTable) -> pa.Schema:
    schemas = []
    for source in table.sources:
        schema = _without_key(pq.ParquetFile(source.file).schema_arrow)
        for name, value in source.constants.items():
            kind = pa.field(name, pa.array([value]).type)
            if name in schema.names:  # what pandas says of the column that is replaced is true no longer
                schema = schema.set(schema.get_field_index(name), kind).remove_metadata()
            else:
                schema = schema.append(kind)
        schemas.append(schema)
    found = pa.unify_schemas(schemas, promote_options="permissive")
    return found.with_metadata(schemas[0].metadata if len(schemas[0]) == len(found) else None)


def _rows_of(table: StoredTable, schema: pa.Schema) -> Iterator[pa.Table]:
    untouched = not table.kept and all(source.is_plain and not source.constants for source in table.sources)
    if not untouched:
        for batch in table.batches(schema.names, whole_pairs=False):
            yield pa.Table.from_pandas(plain_text(batch)[schema.names], schema=schema, preserve_index=False)
        return
    for source in table.sources:
        for piece in source.pieces(source.columns):
            absent = [name for name in schema.names if name not in piece.column_names]
            for name in absent:
                piece = piece.append_column(name, pa.nulls(len(piece)))
            yield piece.select(schema.names).cast(schema)


def _write(tables: Iterable[pa.Table], schema: pa.Schema, path: Path) -> None:
    """Write rows in groups of the same size, whatever the tables' sizes: equal rows make an equal file."""
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(path, schema) as writer:
        for table in tables:
            waiting.append(table)
            while sum(map(len, waiting)) >= BATCH_ROWS:
                rows = pa.concat_tables(waiting)
                writer.write_table(rows.slice(0, BATCH_ROWS).combine_chunks())
                waiting = [rows.slice(BATCH_ROWS)]
        if any(map(len, waiting)):
            writer.write_table(pa.concat_tables(waiting).combine_chunks())


def _without_key(schema: pa.Schema) -> pa.Schema:
    """The schema with what pandas says of it, without what a part says of itself."""
    known = schema.metadata or {}
    return schema.with_metadata({b"pandas": known[b"pandas"]} if b"pandas" in known else None)
