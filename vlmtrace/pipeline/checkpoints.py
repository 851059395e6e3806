"""Checkpoints of a long computation: files that are found again by what they were computed from, or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import content_of, write_atomically
from vlmtrace.core.paths import find
from vlmtrace.core.schema import listed

#: Under this name a part says, inside its own file, what it was computed from.
KEY = b"vlmtrace.part"


class Checkpoints:
    """A folder of parts of one computation.

    Args:
        folder: where they lie
        key: identifies everything that the computation depends on, apart from its rows
    """

    def __init__(self, folder: Path, key: str):
        self.folder, self.key = folder, key

    def get(self, rows: pd.DataFrame) -> pd.DataFrame | None:
        """The part that was computed from `rows`, or None if there is none that can be trusted."""
        digest = self._digest(rows)
        try:
            # Only what this class wrote carries its own digest, and the checksums catch damaged pages.
            table = pq.read_table(self._path(digest), page_checksum_verification=True)
            return table.to_pandas() if (table.schema.metadata or {}).get(KEY) == digest.encode() else None
        except Exception:  # missing, cut short, damaged or not parquet: whatever it is, it is computed again
            return None

    def put(self, rows: pd.DataFrame, part: pd.DataFrame) -> pd.DataFrame:
        """Keep `part` as what was computed from `rows`, and return it as it will be read back."""
        digest = self._digest(rows)
        table = pa.Table.from_pandas(part, preserve_index=False)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), KEY: digest.encode()})
        try:
            with write_atomically(self._path(digest)) as temporary:
                pq.write_table(table, temporary, write_page_checksum=True)
        except VlmtraceError:
            # Another process that finishes the same stage deletes the folder: then nobody needs the part any more.
            if self.folder.is_dir():
                raise
        return table.to_pandas()

    def _digest(self, rows: pd.DataFrame) -> str:
        return digest_of(self.key, rows, [image_state(rows[column]) for column in rows if is_image(column)])

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}.parquet"


def chunks(rows: pd.DataFrame, size: int) -> Iterator[pd.DataFrame]:
    """The rows in order, `size` at a time."""
    for start in range(0, len(rows), size):
        yield rows.iloc[start : start + size].reset_index(drop=True)


#: Types whose `repr` says all of a value.
_PLAIN = frozenset({str, int, float, bool, type(None)})

#: Types of other columns that own pairs may have beside: dates (which pandas' times are, too), times and quantities.
_READABLE = (date, time, timedelta, pd.Period, pd.Interval, Decimal, UUID)


def is_image(column: object) -> bool:
    """Whether a column holds paths of images or masks."""
    return str(column) == "image" or str(column).endswith(("_image", "_images", "_mask", "_masks"))


def image_state(images: pd.Series) -> list[tuple[str, int, int, int]]:
    """Size and times of change of image files, so that an image replaced under its old name is noticed."""
    found = []
    for image in (one for cell in images for one in (listed(cell) or [cell])):
        try:
            status = os.stat(find(image))
            found.append((str(image), status.st_size, status.st_mtime_ns, status.st_ctime_ns))
        except (OSError, ValueError, TypeError):  # missing, or no path at all
            found.append((str(image), 0, 0, 0))
    return found


def digest_of(*values: Any) -> str:
    """A digest of plain values, containers of them, arrays and tables; equal contents give equal digests.

    Args:
        values: the contents

    Returns:
        24 hexadecimal digits

    Raises:
        VlmtraceError: one of them is something else, whose contents are not known
    """
    digest = hashlib.sha256()
    for value in values:
        _feed(digest, value)
    return digest.hexdigest()[:24]


def _feed(digest: Any, value: Any) -> None:
    digest.update(f"<{type(value).__name__}>".encode())
    if isinstance(value, pd.DataFrame):
        columns = list(value.items())
        _feed(digest, [(str(name), str(column.dtype)) for name, column in columns])
        for _, column in columns:
            _feed(digest, column.to_list())
    elif isinstance(value, np.ndarray) and value.dtype == object:
        _feed(digest, value.tolist())  # its bytes are addresses
    elif isinstance(value, np.ndarray):
        _feed(digest, [str(value.dtype), value.shape, value.tobytes()])
    elif isinstance(value, Mapping):
        _feed(digest, sorted(value.items()))
    elif isinstance(value, (list, tuple)) and all(type(entry) in _PLAIN for entry in value):
        digest.update(f"{value!r}</>".encode())  # a column of a table: one step for all rows
    elif isinstance(value, (list, tuple, set, frozenset)):
        for entry in sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value:
            _feed(digest, entry)
        digest.update(b"</>")
    elif isinstance(value, bytes):
        digest.update(value)
    elif value is None or value is pd.NA or isinstance(value, (str, int, float, bool, np.generic, *_READABLE)):
        # Of a time, pandas' and Python's alike, the ISO form says all, and pandas may write it shorter otherwise.
        text = (value.isoformat() if isinstance(value, (date, time)) else repr(value)).encode()
        digest.update(f"{len(text)}:".encode() + text)
    else:
        raise VlmtraceError(
            f"A value of type {type(value).__name__} cannot identify a computation: pass plain values or tables, and "
            "leave columns of other things out."
        )


def file_digest(path: Path) -> str:
    """Identifies a file's content."""
    return content_of(path)[:16]


def package_digest() -> str:
    """Identifies this version of the package's code by its source."""
    folder = Path(__file__).parents[1]
    sources = sorted(folder.rglob("*.py"))
    return digest_of(*[(source.relative_to(folder).as_posix(), source.read_text()) for source in sources])
