"""Choosing one row of a table in a notebook's explorer, and keeping what was computed for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pandas as pd

from vlmtrace.core.errors import one_of
from vlmtrace.display.figure_explorer import Options

T = TypeVar("T")


def row_options(table: pd.DataFrame, text: str) -> Options:
    """Every row as an option of a dropdown: "sample_id: text", with the sample_id as its value.

    Args:
        table: with the column sample_id
        text: the column that says what the row is, e.g. "clean_prompt"

    Returns:
        (label, sample_id) of each row
    """
    return [
        (f"{sample_id}: {said}", sample_id) for sample_id, said in zip(table["sample_id"], table[text], strict=True)
    ]


def chosen_row(table: pd.DataFrame, sample_id: str | None, noun: str = "sample_id") -> pd.Series:
    """The row of a sample_id.

    Args:
        table: with the column sample_id
        sample_id: None: the first row's
        noun: what the sentence calls an unknown one

    Returns:
        the row, the first where several have this sample_id

    Raises:
        VlmtraceError: there is no such row
    """
    if sample_id is None:
        return table.iloc[0]
    return table[table["sample_id"] == one_of(sample_id, table["sample_id"], noun)].iloc[0]


def remember_last(function: Callable[[pd.Series], T]) -> Callable[[pd.Series], T]:
    """Let a function of a row keep its last result, so that another choice for the same row needs no forward pass.

    Args:
        function: of a row with a sample_id

    Returns:
        the same function; asked twice in a row for the same sample_id, it answers from memory
    """
    kept: dict[str, T] = {}

    def remembering(row: pd.Series) -> T:
        if row["sample_id"] not in kept:
            found = function(row)
            kept.clear()
            kept[row["sample_id"]] = found
        return kept[row["sample_id"]]

    return remembering
