"""What became of every row of a raw data set: at each step, rows in = rows used + rows set aside, with reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

FILTERS = ("step", "unit", "rows_in", "rows_used", "rows_set_aside")
SET_ASIDE = ("step", "row", "reason")

#: The step that names images of which no row tells anything.
NAMED_BY_ROW = "a row names the image"


@dataclass
class Filters:
    """The steps so far. Each tells how many rows came in, and names those that it set aside.

    Attributes:
        steps: one entry per step: step, unit (what its rows are), rows_in, rows_used, rows_set_aside
        reasons: step, row, reason of every row that was set aside
    """

    steps: list[dict[str, object]] = field(default_factory=list)
    reasons: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, step: str, rows_in: int, set_aside: Mapping[str, str], unit: str) -> None:
        """Note a step.

        Args:
            step: what it asks for
            rows_in: how many rows came in
            set_aside: row → reason, for those that did not pass
            unit: what a row is: images, rows, questions, pairs or corrupt prompts
        """
        self.steps.append(
            {
                "step": step,
                "unit": unit,
                "rows_in": rows_in,
                "rows_used": rows_in - len(set_aside),
                "rows_set_aside": len(set_aside),
            }
        )
        self.reasons += [(step, _text(row), _text(reason)) for row, reason in set_aside.items()]

    def keep(self, step: str, table: pd.DataFrame, reasons: Iterable[str | None], unit: str) -> pd.DataFrame:
        """Note a step, and keep the rows that pass it.

        Args:
            step: what it asks for
            table: with the column `row`, which names each
            reasons: one per row: why it does not pass; None: it passes
            unit: what a row is

        Returns:
            the rows that pass
        """
        reasons = list(reasons)
        names = table["row"].tolist()
        against = {name: reason for name, reason in zip(names, reasons, strict=True) if reason is not None}
        self.add(step, len(table), against, unit)
        return table.loc[[reason is None for reason in reasons]].reset_index(drop=True)

    def table(self) -> pd.DataFrame:
        """One row per step, in order: step, unit, rows_in, rows_used, rows_set_aside."""
        return pd.DataFrame(self.steps, columns=list(FILTERS))

    def set_aside(self) -> pd.DataFrame:
        """One row per row that was set aside: step, row (what the raw data call it), reason."""
        return pd.DataFrame(self.reasons, columns=list(SET_ASIDE), dtype=str)


def _text(name: str) -> str:
    """What can be written to a file: names of files may hold bytes that are no text."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True)
class Prepared:
    """What a data set became.

    Attributes:
        pairs: the pairs table
        filters: one row per filter: step, unit, rows_in, rows_used, rows_set_aside
        set_aside: one row per raw row that is not among the pairs: step, row, reason
        source: where the data set comes from: name, url, licence, citation
    """

    pairs: pd.DataFrame
    filters: pd.DataFrame
    set_aside: pd.DataFrame
    source: dict[str, str]


def refused(filters: Filters, limit: int = 3) -> str:
    """The commonest reasons so far, for the sentence that no row is left.

    Args:
        filters: the steps so far
        limit: how many reasons at most

    >>> refused(Filters(reasons=[("a", "1", "no image"), ("a", "2", "no image"), ("b", "3", "no partner")]))
    'no image (2), no partner (1)'
    """
    aside = filters.set_aside()
    # Images that no row names are not what a row lacks.
    counts = aside.loc[aside["step"] != NAMED_BY_ROW, "reason"].value_counts()
    return ", ".join(f"{reason.removesuffix('.')} ({n})" for reason, n in counts.head(limit).items())
