"""Intervals of shares: of units for which something is so."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from vlmtrace.core import stats


def share_interval(values: ArrayLike, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """The interval of a mean of shares, within 0 and 1.

    Where each unit says yes or no, that is Wilson's (1927, https://doi.org/10.1080/01621459.1927.10502953): a bootstrap
    of nothing but yes has no width, however few there are. Otherwise it is that of `stats.mean_interval`.

    Args:
        values: (n,), one for each unit, 0 to 1
        level: coverage, between 0 and 1
        seed: of the bootstrap

    Returns:
        lower and upper end; missing for one unit that is neither 0 nor 1

    Raises:
        VlmtraceError: no values, a missing value, or a level outside (0, 1)

    >>> low, high = share_interval([1, 1, 1, 1])
    >>> round(low, 2), round(high, 2)
    (0.51, 1.0)
    """
    (low,), (high,) = stats.mean_interval(values, level, seed=seed)
    values = np.asarray(values, dtype=float)
    if np.isin(values, (0, 1)).all():
        found = binomtest(int(values.sum()), len(values)).proportion_ci(level, method="wilson")
        return float(found.low), float(found.high)
    return float(np.maximum(low, 0)), float(np.minimum(high, 1))
