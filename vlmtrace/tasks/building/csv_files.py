"""Tables that others wrote: read as text, whatever stands in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_columns


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV with every cell as text, without blanks around it, empty ones as "".

    Args:
        path: the file

    Returns:
        the table

    Raises:
        VlmtraceError: there is no such file, or it is no CSV
    """
    if not path.is_file():
        raise VlmtraceError(f"There is no file {path}: give the path of a CSV.")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except (ValueError, OSError) as error:  # pandas' own errors and those of the encoding are ValueErrors
        reason = str(error).strip().splitlines()[-1]
        raise VlmtraceError(f"{path} is not a readable CSV ({reason}): save it as comma-separated UTF-8.") from error
    table.columns = [str(name).strip() for name in table.columns]
    return table.apply(lambda column: column.str.strip()) if len(table) else table


def find_csv(root: Path, columns: tuple[str, ...], task: str, names: Mapping[str, str] | None = None) -> Path:
    """The CSV that root is, or the one in the folder root that has these columns.

    Args:
        root: a file or a folder
        columns: names that its header must have
        task: name of the data set, for the sentence
        names: what else columns may be called, in lower case → the column

    Returns:
        the file

    Raises:
        VlmtraceError: there is none, or more than one
    """
    if root.is_file():
        return root
    found = [path for path in sorted(root.glob("*.csv")) if _has(path, columns, names or {})]
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        several = ", ".join(path.name for path in found)
        raise VlmtraceError(f"{root} holds several tables for {task} ({several}): name the one that is meant as root.")
    raise VlmtraceError(f"{root} holds no CSV with the columns {', '.join(columns)}, which {task} needs.")


def _has(path: Path, columns: tuple[str, ...], names: Mapping[str, str]) -> bool:
    try:
        header = pd.read_csv(path, nrows=0, encoding="utf-8-sig", skipinitialspace=True)
        check_columns(header.rename(columns=lambda name: names.get(str(name).lower(), name)), columns, path.name)
    except (ValueError, OSError):  # VlmtraceError is a ValueError: another table lies here
        return False
    return True
