"""Tables that stay on disk and are read some pairs at a time, so that memory does not grow with the rows.

A table of effects has one row per pair, site and position: a study of some thousand pairs has ten million rows. What
is asked of it is asked pair by pair. `StoredTable.batches` hands out tables of whole pairs, and whoever computes with
them (`vlmtrace.methods.circuits.head_table`) never holds more than one.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import refuse_missing
from vlmtrace.core.parquet import plain_table
from vlmtrace.core.stored_rows import agreeing, categories, group_starts, plain_text
from vlmtrace.core.unreadable import unreadable_table

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

#: Rows in memory at a time, and rows of a group in a file: some ten MB of a table of effects.
BATCH_ROWS = 2**17

#: Rows that agree in these belong together: no statistic over positions or heads takes them apart.
TOGETHER = ("sample_id", "corruption")


@dataclass
class Source:
    """One parquet file of a stored table.

    Attributes:
        file: open for reading. A process that writes the table anew meanwhile puts another file under its name
        name: what sentences call it
        constants: columns that hold the same value in every row; what the file says of them does not count
    """

    file: pa.NativeFile
    name: str
    constants: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import pyarrow.parquet as pq

        try:
            schema = pq.ParquetFile(self.file).schema_arrow
            self.texts = [one.name for one in schema if str(one.type) in ("string", "large_string")]
            self.reader: pq.ParquetFile = pq.ParquetFile(self.file, read_dictionary=self.texts)
        except Exception as error:  # what a file of unknown origin makes of its reader is without limit
            raise unreadable_table(self.name, error) from error
        self.columns: list[str] = list(schema.names)
        self.is_plain = len(set(self.columns)) == len(self.columns) and "__index_level_0__" not in self.columns

    def held(self, columns: Iterable[str]) -> list[str]:
        """Those of these columns whose values are the file's."""
        return [name for name in columns if name in self.columns and name not in self.constants]

    def groups_with(self, names: Sequence[str]) -> list[int]:
        """The row groups that can hold one of these sample_ids (sorted), by what the file says of each group."""
        place = self.columns.index("sample_id")
        found = []
        for group in range(self.reader.num_row_groups):
            known = self.reader.metadata.row_group(group).column(place).statistics
            if known is not None and known.has_min_max and isinstance(known.min, str):
                first = bisect_left(names, known.min)
                if first == len(names) or names[first] > known.max:
                    continue
            found.append(group)
        return found

    def pieces(self, columns: Sequence[str], names: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """These columns of the file, some rows at a time, texts as dictionaries."""
        import pyarrow as pa

        groups = list(range(self.reader.num_row_groups)) if names is None else self.groups_with(names)
        try:
            for batch in self.reader.iter_batches(BATCH_ROWS, row_groups=groups, columns=list(columns)):
                yield pa.Table.from_batches([batch])
        except (OSError, MemoryError) as error:  # of pages cut short or damaged pyarrow makes an OSError, too
            raise unreadable_table(self.name, error) from error


class StoredTable:
    """A table on disk. It is made by `Stage.scan` and `Stage.resume_stored`, and changes no more.

    Attributes:
        sources: its files, one after the other
        digest: of the file's content, where there is one
    """

    def __init__(self, sources: Sequence[Source], kept: Sequence[pd.DataFrame] = (), digest: str = ""):
        self.sources, self.kept, self.digest = list(sources), list(kept), digest
        self._whole_pairs: bool | None = None

    def __repr__(self) -> str:
        return f"<StoredTable of {self.n_stored:,} rows: {', '.join(self.columns)}; read() reads it>"

    @property
    def n_stored(self) -> int:
        """Rows of the files, whether or not `only` leaves them out."""
        return sum(source.reader.metadata.num_rows for source in self.sources)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        found = [name for source in self.sources for name in (*source.columns, *source.constants)]
        return [name for name in dict.fromkeys(found) if not name.startswith("__index_level_")]

    @property
    def empty(self) -> bool:
        """Whether there are no rows."""
        return not any(len(batch) for batch in self.batches([], whole_pairs=False))

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def __len__(self) -> int:
        if not self.kept:
            return self.n_stored
        return sum(map(len, self.batches([], whole_pairs=False)))

    def assign(self, **constants: Any) -> StoredTable:
        """The table with further columns, each of one value. A column of that name is replaced.

        Raises:
            VlmtraceError: a value is none for a single cell, such as a list, or rows were chosen by its column before
        """
        for name, value in constants.items():
            if not pd.api.types.is_scalar(value):
                raise VlmtraceError(
                    f"assign({name}=…) was given a {type(value).__name__}: give a text, a number, or None."
                )
            if any(name in rows for rows in self.kept):
                raise VlmtraceError(f"Rows were chosen by {name!r} with only(…): assign({name}=…) before that.")
        sources = [replace(source, constants={**source.constants, **constants}) for source in self.sources]
        found = StoredTable(sources, self.kept, self.digest)
        found._whole_pairs = None if set(constants) & set(TOGETHER) else self._whole_pairs
        return found

    def only(self, rows: pd.DataFrame | None = None, **values: Any) -> StoredTable:
        """The rows that agree with one of `rows` in all of its columns.

        Args:
            rows: the rows sought, such as `selected[["task", "sample_id"]]`
            values: instead, or besides: one value by column
        """
        kept = [*self.kept, *([] if rows is None else [rows.drop_duplicates()])]
        kept += [pd.DataFrame({name: [value]}) for name, value in values.items()]
        found = StoredTable(self.sources, kept, self.digest)
        found._whole_pairs = self._whole_pairs
        return found

    def batches(self, columns: Iterable[str] | None = None, whole_pairs: bool = True) -> Iterator[pd.DataFrame]:
        """The table, some rows at a time, in its order.

        Args:
            columns: those wanted; None: all. Those that the table lacks are left out
            whole_pairs: whether all rows of a pair under a corruption must come in the same batch. A table that does
                not hold them together then comes as a whole

        Yields:
            tables with text as categories; at least one, which may be empty
        """
        wanted = self.columns if columns is None else [name for name in self.columns if name in set(columns)]
        if not all(source.is_plain for source in self.sources) or (whole_pairs and not self.holds_pairs_together()):
            yield self._whole(wanted)
            return
        anything = False
        for source in self.sources:
            for batch in self._of_source(source, wanted, whole_pairs):
                if len(batch) or not anything:
                    anything = True
                    yield batch
        if not anything:
            yield self._whole(wanted)

    def read(self, columns: Iterable[str] | None = None) -> pd.DataFrame:
        """The table in memory, text as text.

        Args:
            columns: those wanted; None: all
        """
        batches = [plain_text(batch) for batch in self.batches(columns, whole_pairs=False)]
        return pd.concat([batch for batch in batches if len(batch)] or batches[:1], ignore_index=True)

    def means(self, by: Sequence[str], column: str) -> pd.Series:
        """Mean of a column by group, missing values left out, as `groupby(by, sort=False)[column].mean()` of a table.

        Args:
            by: the columns that tell groups apart
            column: of numbers

        Returns:
            the means, groups in the order in which they appear
        """
        parts = []
        for batch in self.batches([*by, column], whole_pairs=False):
            sums = batch.groupby(list(by), sort=False, observed=True)[column].agg(["sum", "count"])
            parts.append(plain_text(sums.reset_index()))
        total = pd.concat(parts, ignore_index=True).groupby(list(by), sort=False)[["sum", "count"]].sum()
        return (total["sum"] / total["count"]).rename(column)

    def head(self, n: int = 5) -> pd.DataFrame:
        """The first n rows."""
        found: list[pd.DataFrame] = []
        for batch in self.batches(whole_pairs=False):
            found.append(plain_text(batch.head(n - sum(map(len, found)))))
            if sum(map(len, found)) >= n:
                break
        return pd.concat([part for part in found if len(part)] or found[:1], ignore_index=True)

    def unique(self, column: str) -> list[Any]:
        """The values of a column, each once, in the order in which they appear."""
        found: dict[Any, None] = {}
        for batch in self.batches([column], whole_pairs=False):
            found |= dict.fromkeys(batch[column].unique())
        return list(found)

    def holds_pairs_together(self) -> bool:
        """Whether all rows of a pair under a corruption stand one after the other, as vlmtrace writes them."""
        if self._whole_pairs is None:
            self._whole_pairs = self._looked_up_whether_together()
        return self._whole_pairs

    def _looked_up_whether_together(self) -> bool:
        seen: set[tuple[Any, ...]] = set()
        for source in self.sources:
            columns = source.held(TOGETHER)
            # Names of another kind than text: the table is read as a whole, and its contract refuses them.
            if "sample_id" not in columns or not set(columns) <= set(source.texts):
                return False
            last: tuple[Any, ...] | None = None
            constants = tuple(sorted(source.constants.items()))
            for piece in source.pieces(columns):
                frame = categories(piece)
                starts = frame[group_starts(frame, columns)]
                names = [(*values, constants) for values in starts.itertuples(index=False, name=None)]
                if names and names[0] == last:
                    names = names[1:]
                if len(set(names)) < len(names) or not seen.isdisjoint(names):
                    return False
                seen.update(names)
                last = names[-1] if names else last
        return True

    def _of_source(self, source: Source, wanted: Sequence[str], whole_pairs: bool) -> Iterator[pd.DataFrame]:
        import pyarrow as pa

        keys = {name for rows in self.kept for name in rows.columns}
        missing = keys - set(source.columns) - set(source.constants)
        if missing:
            raise VlmtraceError(f"{source.name} has no column {sorted(missing)[0]!r} to choose rows by.")
        together = source.held(TOGETHER) if whole_pairs else []
        needed = {*wanted, *keys, *together}
        columns = source.held([name for name in source.columns if name in needed]) or source.columns[:1]
        rest: pa.Table | None = None
        for piece in source.pieces(columns, self._names(source)):
            if rest is not None:
                piece = pa.concat_tables([rest, piece])
            # The last pair of a piece may go on in the next one.
            frame = categories(piece)
            starts = np.flatnonzero(group_starts(frame, together)) if together else np.array([len(frame)])
            cut = int(starts[-1]) if len(starts) else 0
            if together and cut == 0:
                rest = piece
                continue
            rest = piece.slice(cut) if together else None
            yield self._finished(frame.iloc[:cut], source, wanted)
        if rest is not None and rest.num_rows:
            yield self._finished(categories(rest), source, wanted)

    def _names(self, source: Source) -> list[str] | None:
        """The sample_ids sought, where these are known and the file can tell where they are."""
        sought = [set(rows["sample_id"]) for rows in self.kept if "sample_id" in rows]
        if not sought or not source.held(["sample_id"]) or "sample_id" not in source.texts:
            return None
        # Nothing but a text agrees with one; other values would not be in order with texts.
        return sorted(name for name in set.intersection(*sought) if isinstance(name, str))

    def _finished(self, batch: pd.DataFrame, source: Source, wanted: Sequence[str]) -> pd.DataFrame:
        """The batch with the source's constants, without the rows and columns that are not wanted."""
        batch = batch.reset_index(drop=True)
        for name, value in source.constants.items():
            codes = np.zeros(len(batch), dtype=np.int8)
            batch[name] = value if pd.isna(value) else pd.Categorical.from_codes(codes, [value])
        for rows in self.kept:
            batch = batch[agreeing(batch, rows)]
        absent = {name: None for name in wanted if name not in batch}
        return (batch.assign(**absent) if absent else batch)[list(wanted)].reset_index(drop=True)

    def _whole(self, wanted: Sequence[str]) -> pd.DataFrame:
        parts = []
        for source in self.sources:
            try:
                part = plain_table(source.reader.read())
            except Exception as error:
                raise unreadable_table(source.name, error) from error
            part = part.assign(**source.constants) if source.constants else part
            for rows in self.kept:
                part = part[agreeing(part, rows)]
            parts.append(part)
        table = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
        return table[[name for name in table.columns if name in set(wanted)]].reset_index(drop=True)


def open_stored(path: str | Path, name: str = "") -> StoredTable:
    """A parquet table that stays on disk.

    Args:
        path: the file; it is kept open, so that what is read is of one writer
        name: what sentences call it; empty: the path

    Returns:
        the table; its digest is that of the very file

    Raises:
        VlmtraceError: the file is missing or is not a parquet table
    """
    import pyarrow as pa

    path = Path(path)
    refuse_missing(path)
    digest = hashlib.sha256()
    try:
        file = pa.OSFile(str(path))  # several readers may share it, unlike one of Python's
        while content := file.read(2**20):
            digest.update(content)
    except OSError as error:
        raise unreadable_table(path, error) from error
    return StoredTable([Source(file, name or str(path))], digest=digest.hexdigest()[:16])


def values_of(table: pd.DataFrame | StoredTable, column: str) -> list[Any]:
    """The values of a column, each once, in the order in which they appear."""
    return table.unique(column) if isinstance(table, StoredTable) else list(table[column].unique())


def choose(table: pd.DataFrame | StoredTable, **values: Any) -> Any:
    """The rows that hold these values, one by column, of a table that stays where it is."""
    if isinstance(table, StoredTable):
        return table.only(**values)
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def in_memory(table: pd.DataFrame | StoredTable) -> pd.DataFrame:
    """The table as a DataFrame."""
    return table.read() if isinstance(table, StoredTable) else table


def batches_of(table: pd.DataFrame | StoredTable, columns: Iterable[str] | None = None) -> Iterator[pd.DataFrame]:
    """A table in memory as one batch, a stored one in many of whole pairs.

    Args:
        table: either
        columns: those that a stored table is to hand out, as far as it has them; None: all
    """
    if isinstance(table, StoredTable):
        yield from table.batches(columns)
    else:
        yield table
