"""What no table may hold, whoever made it: columns that cannot be told apart, and text that no file can hold."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError

#: Columns of a table at most. A table has some dozens; with more, it lies on its side.
MAX_COLUMNS = 5_000


def check_cells(table: pd.DataFrame, table_name: str) -> None:
    """Raise one sentence if a table could not be computed with, or not be written.

    Args:
        table: any table
        table_name: what the sentence calls it

    Raises:
        VlmtraceError: a column stands twice, there are too many, or a text holds half a character

    >>> check_cells(pd.DataFrame([[1, 2]], columns=["a", "a"]), "pairs")
    Traceback (most recent call last):
    ...
    vlmtrace.core.errors.VlmtraceError: The pairs table has the column 'a' more than once: rename or drop one of them.
    """
    if len(table.columns) > MAX_COLUMNS:
        raise VlmtraceError(
            f"The {table_name} table has {len(table.columns):,} columns, more than {MAX_COLUMNS:,}: give one row per "
            "sample."
        )
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise VlmtraceError(
            f"The {table_name} table has the column {twice[0]!r} more than once: rename or drop one of them."
        )
    for name, values in table.items():
        texts = [_text_of(value) for value in values] if values.dtype.kind not in "biufcmM" else []
        if is_writable("".join(texts)):
            continue
        place = next(i for i, text in enumerate(texts) if not is_writable(text))
        row = table["sample_id"].iloc[place] if "sample_id" in table and name != "sample_id" else place
        raise VlmtraceError(
            f"The {table_name} table's column {name!r}, row {row!r}, holds half a character, which no file can hold "
            f"({ascii(values.iloc[place])[:80]}): write it anew."
        )


def _text_of(value: object) -> str:
    """The text of a cell, or of all that it lists; empty: it holds none."""
    if isinstance(value, list | tuple | np.ndarray):
        return "".join(entry for entry in value if isinstance(entry, str))
    return value if isinstance(value, str) else ""


def is_writable(text: str) -> bool:
    r"""Whether a text can be written to a file: half a character (a lone surrogate) cannot.

    Args:
        text: any text

    >>> is_writable("naïve"), is_writable("\ud800")
    (True, False)
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
