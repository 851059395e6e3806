"""What became of every row of a raw dataset: at each step, rows in = rows used + rows set aside, each with a reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

FILTERS = ("step", "unit", "rows_in", "rows_used", "rows_set_aside")
SET_ASIDE = ("step", "row", "reason")


@dataclass
class Filters:
    """The steps so far. A step tells how many rows came in, and names those that it set aside.

    Attributes:
        steps: one entry a step: step, unit (what its rows are), rows_in, rows_used, rows_set_aside
        reasons: step, row, reason of every row that was set aside
    """

    steps: list[dict[str, object]] = field(default_factory=list)
    reasons: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, step: str, rows_in: int, set_aside: Mapping[str, str], unit: str) -> None:
        """Note a step that set aside the rows named in `set_aside`, row → reason."""
        self.steps.append(
            {
                "step": step,
                "unit": unit,
                "rows_in": rows_in,
                "rows_used": rows_in - len(set_aside),
                "rows_set_aside": len(set_aside),
            }
        )
        self.reasons += [(step, row, reason) for row, reason in set_aside.items()]

    def keep(self, step: str, table: pd.DataFrame, reasons: Iterable[str | None], unit: str) -> pd.DataFrame:
        """The rows of a table (with the column `row`, which names them) for which there is no reason against."""
        reasons = list(reasons)
        names = table["row"].tolist()
        against = {name: reason for name, reason in zip(names, reasons, strict=True) if reason is not None}
        self.add(step, len(table), against, unit)
        return table[[reason is None for reason in reasons]].reset_index(drop=True)

    def table(self) -> pd.DataFrame:
        """Columns step, unit, rows_in, rows_used, rows_set_aside, in the order of the steps."""
        return pd.DataFrame(self.steps, columns=list(FILTERS))

    def set_aside(self) -> pd.DataFrame:
        """Columns step, row (what the raw data call it), reason."""
        return pd.DataFrame(self.reasons, columns=list(SET_ASIDE), dtype=str)


@dataclass(frozen=True)
class Prepared:
    """What a dataset became.

    Attributes:
        pairs: the pairs table
        filters: step, unit, rows_in, rows_used, rows_set_aside: what every filter did
        set_aside: step, row, reason for every row that is not among the pairs
        source: where the dataset comes from, its licence and its citation
    """

    pairs: pd.DataFrame
    filters: pd.DataFrame
    set_aside: pd.DataFrame
    source: dict[str, str]


def refused(filters: Filters, limit: int = 3) -> str:
    """The commonest reasons so far, for the sentence that no row is left.

    >>> refused(Filters(reasons=[("a", "1", "no image"), ("a", "2", "no image"), ("b", "3", "no partner")]))
    'no image (2), no partner (1)'
    """
    counts = filters.set_aside()["reason"].value_counts()
    return ", ".join(f"{reason} ({n})" for reason, n in counts.head(limit).items())
