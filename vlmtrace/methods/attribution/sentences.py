"""How good estimates by gradients are, in sentences that follow the table of agreement."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.schema import check_columns
from vlmtrace.display.numbers import count, number
from vlmtrace.methods.attribution.spot_checks import STRONGEST

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


@checked
def describe_spot_checks(checks: pd.DataFrame) -> str:
    """Say how far estimates agree with the exact patches of the same sites.

    Args:
        checks: from `spot_check`, of one or several corruptions

    Returns:
        two lines per corruption: of the sites with the largest estimates, and of those drawn at random

    Raises:
        VlmtraceError: a column is missing
    """
    check_columns(checks, ("corruption", "chosen", "estimate", "exact"), "checks")
    said = []
    for (corruption, chosen), rows in checks.dropna(subset=["estimate", "exact"]).groupby(
        ["corruption", "chosen"], sort=False, observed=True
    ):
        kind = "with the largest estimates" if chosen == STRONGEST else "drawn at random"
        differences = (rows["estimate"] - rows["exact"]).abs()
        same = (np.sign(rows["estimate"]) == np.sign(rows["exact"])).sum()
        correlation = rows["estimate"].corr(rows["exact"]) if len(rows) > 2 else float("nan")
        related = "" if pd.isna(correlation) else f", correlation {number(correlation)}"
        said.append(
            f"{str(corruption).capitalize()} corruption, {count(len(rows), 'site')} {kind}: mean size of the effect "
            f"{number(rows['exact'].abs().mean(), 3)} exactly, {number(rows['estimate'].abs().mean(), 3)} estimated"
            f"{related}; {same} of {len(rows)} have the same sign; they differ by {number(differences.mean(), 3)} on "
            f"average, at most by {number(differences.max(), 3)}."
        )
    return "\n".join(said) or "No site was checked."
