"""How good estimates by gradients are, in sentences that follow the table of agreement."""

from __future__ import annotations

import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.schema import check_columns
from vlmtrace.display.numbers import number

#: Rank correlations that differ by less are told as alike.
_ALIKE = 0.02


@checked
def describe_agreement(agreement: pd.DataFrame) -> str:
    """Say how well estimates rank heads, and whether more steps of integrated gradients help.

    Args:
        agreement: rows of `ranking_agreement` with the columns corruption and steps

    Returns:
        one sentence per corruption

    Raises:
        VlmtraceError: a column is missing
    """
    check_columns(agreement, ("corruption", "steps", "spearman", "top", "overlap", "overlap_by_chance"), "agreement")
    said = []
    for corruption, rows in agreement.groupby("corruption", sort=False):
        rows = rows.sort_values("steps")
        each = [
            f"{'one gradient' if row.steps == 1 else f'{row.steps} steps'}: rank correlation {number(row.spearman)}, "
            f"{row.overlap * row.top:.0f} of the {row.top} strongest heads (by chance "
            f"{number(row.overlap_by_chance * row.top, 1)})"
            for row in rows.itertuples()
        ]
        gain = rows["spearman"].iloc[-1] - rows["spearman"].iloc[0]
        alike = (
            "make no difference" if abs(gain) < _ALIKE else "order heads better" if gain > 0 else "order heads worse"
        )
        more = f" More steps {alike}." if len(rows) > 1 and pd.notna(gain) else ""
        said.append(f"{str(corruption).capitalize()} corruption: {'; '.join(each)}.{more}")
    return "\n".join(said) or "Nothing was compared."
