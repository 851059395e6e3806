"""Which map explains answers better: means of all measures, and differences that are tested question by question."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from vlmtrace.core import stats
from vlmtrace.core.arguments import Probability, Seed, checked
from vlmtrace.core.errors import one_of
from vlmtrace.core.schema import UNIT
from vlmtrace.methods.lens.map_scores import MEASURES


@checked
def map_table(
    scores: pd.DataFrame, against: str = "lens", seed: Seed = 0, by: str | None = None, alpha: Probability = 0.05
) -> pd.DataFrame:
    """Compare maps: means of all measures and their differences from one map, with intervals over questions.

    Differences are taken question by question, and tested (`core.stats.mean_test`). A verdict is corrected for all
    differences in the table (Benjamini and Hochberg 1995, https://doi.org/10.1111/j.2517-6161.1995.tb02031.x).

    Args:
        scores: from `score_maps`
        against: the method that the others are compared with
        seed: of the bootstrap
        by: a column such as category: compare within each of its values, corrected for all of them
        alpha: the false discovery rate of the verdicts, 0 to 1
    Returns:
        one row per value of `by`, measure and method: the column `by`, measure, method, n (questions; those of one unit
        count once), mean, low, high (95 %), difference (method − `against`), difference_low, difference_high, p_value,
        q_value (corrected), verdict ("better" or "worse" than `against` where the q-value is below `alpha`, else "no
        difference seen"; for `against` itself "", and both p-values are missing)

    Raises:
        VlmtraceError: `against` is not among the methods

    Example:
        >>> import pandas as pd
        >>> import vlmtrace as vt
        >>> scores = pd.DataFrame({
        ...     "sample_id": list("abcde") * 2, "method": ["lens"] * 5 + ["random"] * 5,
        ...     "auc": [0.9, 0.8, 1.0, 0.9, 0.9, 0.5, 0.4, 0.6, 0.4, 0.5],
        ...     "deletion": [0.2, 0.3, 0.1, 0.2, 0.1, 0.6, 0.5, 0.7, 0.6, 0.6], "insertion": 0.5,
        ... })
        >>> table = vt.map_table(scores)
        >>> table.loc[table["method"] == "random", ["measure", "verdict"]].values.tolist()
        [['auc', 'worse'], ['deletion', 'worse'], ['insertion', 'no difference seen']]
    """
    parts = [({}, scores)] if by is None else [({by: value}, part) for value, part in scores.groupby(by, sort=False)]
    rows = [row for cell, part in parts for row in _compared(part, against, seed, cell)]
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    tested = table["p_value"].notna()
    if tested.any():
        table.loc[tested, "q_value"] = false_discovery_control(table.loc[tested, "p_value"])
    else:
        table["q_value"] = np.nan
    better = np.sign(table["difference"]) * np.where(table["measure"].map(MEASURES), 1, -1)
    sure = table["q_value"] < alpha
    verdict = np.select(
        [~tested, sure & (better > 0), sure & (better < 0)], ["", "better", "worse"], "no difference seen"
    )
    return table.assign(verdict=verdict)


def _compared(scores: pd.DataFrame, against: str, seed: int, cell: dict[str, object]) -> list[dict[str, object]]:
    """Rows of `map_table` without the corrected columns; the row of `against` has no p-value."""
    rows = []
    for measure in MEASURES:
        wide = scores.pivot(index="sample_id", columns="method", values=measure).dropna()
        if UNIT in scores:  # questions about one image are averaged first
            unit = scores.drop_duplicates("sample_id").set_index("sample_id")[UNIT]
            wide = wide.groupby(wide.index.map(unit)).mean()
        if wide.empty:
            continue
        one_of(against, wide.columns, "method")
        for method in scores["method"].unique():
            difference = (wide[method] - wide[against]).to_numpy()
            low, high = stats.mean_interval(np.c_[wide[method], difference], seed=seed)
            p_value = float(stats.mean_test(difference, seed=seed)[0]) if method != against else np.nan
            row = {**cell, "measure": measure, "method": method, "n": len(wide), "mean": wide[method].mean()}
            # All measures lie between 0 and 1, which a symmetric interval does not know.
            row |= {"low": max(low[0], 0.0), "high": min(high[0], 1.0), "difference": difference.mean()}
            rows.append({**row, "difference_low": low[1], "difference_high": high[1], "p_value": p_value})
    return rows
