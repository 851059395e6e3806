"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from vlmtrace.core.errors import VlmtraceError


@contextlib.contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is renamed to `path`, on any error it is removed.

    Args:
        path: the file to write; folders that are missing are made

    Yields:
        the path to write to, with the same ending

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "results" / "table.csv"
    >>> with write_atomically(target) as temporary:
    ...     _ = temporary.write_text("a,b")
    >>> target.read_text()
    'a,b'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as matplotlib and Pillow choose their format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a tidy table as parquet, without its index.

    Args:
        table: the table
        path: the file to write, whole or not at all

    Returns:
        the path
    """
    with write_atomically(path) as temporary:
        table.to_parquet(temporary, index=False)
    return Path(path)


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a parquet table.

    Args:
        path: the file

    Returns:
        the table

    Raises:
        VlmtraceError: the file is missing or is not a parquet table
    """
    path = Path(path)
    if not path.is_file():
        raise VlmtraceError(
            f"There is no table {path}: run the notebook that writes it first (docs/notebooks/index.md says which)."
        )
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise VlmtraceError(
            f"{path} is not a readable parquet table ({error}): delete it and run its notebook."
        ) from error


def write_json(content: Any, path: str | Path) -> Path:
    """Write a JSON file, indented and with sorted keys.

    Args:
        content: what JSON can express
        path: the file to write, whole or not at all

    Returns:
        the path
    """
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    return Path(path)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Args:
        path: the file

    Returns:
        its content

    Raises:
        VlmtraceError: the file is not valid JSON
    """
    try:
        return json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise VlmtraceError(f"{path} is not valid JSON ({error}): repair or delete it.") from error
