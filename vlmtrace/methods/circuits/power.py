"""How large an effect a test could have found: what "no head is important" leaves open."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize
from scipy.stats import nct, t

from vlmtrace.core.arguments import Count, Probability, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.types import Array


@checked
def detectable_effect(spread: ArrayLike, n_units: Count, alpha: Probability = 0.05, power: Probability = 0.8) -> Array:
    """The smallest mean that so many units find significant with the given probability.

    By the two-sided one-sample t test: with mean δ, spread s and n units its statistic has a noncentral t distribution
    with n − 1 degrees of freedom and noncentrality δ √n / s (Cohen 1988, Statistical power analysis for the behavioral
    sciences, ch. 2). Where one head among N is tested at a false discovery rate of α, the level that it has to pass is
    α / N if no other head matters, and up to α if others do: pass α / N for the effect that is found in any case.

    Args:
        spread: (k,), standard deviations over units, in any unit
        n_units: how many independent units
        alpha: level that the p-value has to pass, 0 to 1
        power: probability of passing it, above `alpha` and below 1

    Returns:
        (k,), in the unit of `spread`; missing with a single unit

    Raises:
        VlmtraceError: `alpha` and `power` are no such numbers

    Example:
        >>> from vlmtrace.methods.circuits import detectable_effect
        >>> detectable_effect([0.1], n_units=34).round(3).tolist()
        [0.05]
    """
    if not 0 < alpha < power < 1:
        raise VlmtraceError(f"Power must lie between the level and 1, not {power} at level {alpha}: use e.g. 0.8.")
    spread = np.asarray(spread, dtype=float)
    if n_units < 2:
        return np.full(spread.shape, np.nan)
    df = n_units - 1
    critical = t.isf(alpha / 2, df)

    def short_of(noncentrality: float) -> float:
        # Far from 0 the other tail is nothing, and computing it is where nct gives up.
        return float(nct.sf(critical, df, noncentrality)) - power

    # With few units the critical value is huge, and so is what has to be bracketed.
    needed = optimize.brentq(short_of, 0.0, 10 * critical + 10, xtol=1e-6)
    return needed * spread / np.sqrt(n_units)
