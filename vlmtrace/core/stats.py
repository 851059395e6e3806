"""Intervals, tests and areas, for many columns at once.

Everywhere `values` is (n, k): n units, which are independent, and k quantities measured on each of them (heads, sizes
of a circuit, …), which need not be. Pairs that share an image or mirror each other are not independent: average them
first (`unit_means`). Every resample draws whole rows, so it keeps the dependence between columns.

Interval and test of a mean are those of the symmetric bootstrap-t: how far the mean of a resample lies from the
sample's, in standard errors *of the resample*, tells how far the sample's mean may lie from the true one in its own.
Effects are skewed and have heavy tails; there percentile intervals are too narrow, and a test by random signs, which
asks for symmetry, rejects too often. docs/statistics.md shows by simulation how well each holds its level.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import ArrayLike

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.types import Array

#: Resamples, or sign patterns, in memory at a time.
CHUNK = 4096

#: The standard error of a resample counts as at least this share of the sample's. A resample that misses the one
#: outlier has hardly any spread; without a floor it would make the interval absurdly wide.
SPREAD_FLOOR = 0.2

#: A p-value that so many resamples have reached is known well enough (to 5 %): no more are drawn for it.
REACHED_ENOUGH = 400


def unit_means(values: ArrayLike, units: ArrayLike | None = None) -> Array:
    """Average the rows of each unit, so that what is left is one independent row per unit.

    The mean over units counts each unit once, however many rows it has.

    Args:
        values: (n, k), finite; one column may be given as (n,)
        units: (n,), the unit of each row, such as the column `unit` of an effect table; None: every row is its own

    Returns:
        (u, k), units in the order of their first row

    Raises:
        VlmtraceError: no rows, a missing value, a row without a unit, or not one unit per row

    >>> unit_means([1.0, 3.0, 5.0], ["a", "a", "b"]).tolist()
    [[2.0], [5.0]]
    """
    values = _columns(values)
    if units is None:
        return values
    codes, names = pd.factorize(np.asarray(units))
    if codes.shape != (len(values),) or (codes < 0).any():
        raise VlmtraceError(f"Each of {len(values)} rows needs one unit: fill the column unit, or pass no units.")
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, codes, values)
    return sums / np.bincount(codes)[:, None]


def mean_interval(values: ArrayLike, level: float = 0.95, n_boot: int = 10_000, seed: int = 0) -> tuple[Array, Array]:
    """Symmetric bootstrap-t interval of each column's mean.

    Mean ± c standard errors, where c is the quantile `level` of |t| over resamples, t = (resample's mean − mean) /
    (resample's standard error), but never below that of Student's t (Hall 1988,
    https://doi.org/10.1214/aos/1176350933). A resample's standard error counts as at least `SPREAD_FLOOR` of the
    sample's.

    Args:
        values: (n, k), finite, one row per unit; one column may be given as (n,)
        level: coverage, between 0 and 1
        n_boot: resamples of the n rows
        seed: the same seed gives the same resamples

    Returns:
        lower and upper ends, (k,) each; missing where n = 1, since one unit says nothing about others; both ends equal
        the mean where all values are the same

    Raises:
        VlmtraceError: no rows, a missing value, or a level outside (0, 1)

    >>> low, high = mean_interval([0.1, 0.2, 0.3, 0.4])
    >>> bool(low[0] < 0.25 < high[0])
    True
    """
    values = _columns(values)
    if len(values) == 1:
        _check_level(level)
        return (np.full(values.shape[1], np.nan),) * 2
    half = _critical_t(values, level, n_boot, seed) * _standard_error(values)
    return values.mean(0) - half, values.mean(0) + half


def mean_test(values: ArrayLike, n_resamples: int = 10_000, seed: int = 0) -> Array:
    """Two-sided p-value of each column's mean against 0, by the symmetric bootstrap-t.

    The share of resamples of the centered rows whose |t| reaches the observed one, the sample counted among them,
    p = (count + 1) / (resamples + 1) (Davison & Hinkley 1997, ch. 4), but never below that of Student's t. Standard
    errors of resamples have the floor that those of `mean_interval` have, so that both agree: p < 0.05 where the 95 %
    interval leaves out 0. Since a share n^(1 − n) of resamples draws one row n times, which has no spread at all, no
    p-value is below that. No more resamples are drawn for a column that `REACHED_ENOUGH` of them have reached.

    Args:
        values: (n, k), finite, one row per unit; one column may be given as (n,)
        n_resamples: how many resamples at most; a p-value that must pass a correction for m tests needs many times m
        seed: of the resamples

    Returns:
        (k,); 1 where all values are 0 or n = 1; never below `smallest_mean_p(n, n_resamples)`, which is the value where
        all are the same and not 0

    Raises:
        VlmtraceError: no rows, or a missing value

    >>> (mean_test([[1.0, -1.0], [2.0, 1.0], [3.0, 2.0], [2.0, -2.0], [2.5, 0.1]]) < 0.05).tolist()
    [True, False]
    """
    values = _columns(values)
    n = len(values)
    error, mean = _standard_error(values), values.mean(0)
    p_value = np.where(mean == 0, 1.0, smallest_mean_p(n, n_resamples))
    varied = np.flatnonzero(error > 0)
    t = np.abs(mean[varied]) / error[varied]
    p_value[varied] = np.maximum(p_value[varied], 2 * scipy.stats.t.sf(t, max(n - 1, 1)))
    centered = (values[:, varied] - mean[varied]) / error[varied]
    # A resample that ties with the sample must count, whatever order its terms were added in.
    squared = t**2 * (1 - 1e-9)
    open_columns, generator, drawn = np.arange(len(varied)), np.random.default_rng(seed), 0
    count, total = np.zeros(len(varied)), np.zeros(len(varied))
    while drawn < n_resamples and len(open_columns):
        size = min(CHUNK, n_resamples - drawn)
        counts = generator.multinomial(n, np.full(n, 1 / n), size=size).astype(float)  # (resample, n)
        means, variances = _moments(counts, centered[:, open_columns])
        variances = np.maximum(variances, SPREAD_FLOOR**2 * (n - 1))
        count[open_columns] += (means**2 * (n - 1) >= squared[open_columns] * variances).sum(0)
        total[open_columns] += size
        drawn += size
        open_columns = open_columns[count[open_columns] < REACHED_ENOUGH]
    p_value[varied] = np.maximum(p_value[varied], (count + 1) / (total + 1))
    return p_value


def smallest_mean_p(n: int, n_resamples: int = 10_000) -> float:
    """The smallest p-value that `mean_test` can give.

    Args:
        n: units
        n_resamples: as in `mean_test`

    >>> smallest_mean_p(4), smallest_mean_p(50)
    (0.015625, 9.999000099990002e-05)
    """
    return max(float(n) ** (1 - n), 1 / (n_resamples + 1))


def ratio_interval(
    numerator: ArrayLike, denominator: ArrayLike, level: float = 0.95, n_boot: int = 10_000, seed: int = 0
) -> tuple[Array, Array]:
    """Interval of the ratio of two means, column by column.

    It holds the ratios r at which the mean of numerator − r · denominator may be 0: Fieller's interval (1954,
    https://doi.org/10.1111/j.2517-6161.1954.tb00159.x) with the bootstrap-t's critical value in place of Student's.
    Rows weigh by their denominator, so that one with a denominator close to 0 does not blow up, as it would in a mean
    of ratios.

    Args:
        numerator: (n, k), finite, one row per unit; one column may be given as (n,)
        denominator: (n, k), or (n,) for the same in all columns
        level: coverage, between 0 and 1
        n_boot: resamples of the n rows
        seed: the same seed gives the same resamples

    Returns:
        lower and upper ends, (k,) each; missing where n = 1 and where the denominator's mean may be 0, since then the
        ratio may be anything

    Raises:
        VlmtraceError: no rows, a missing value, unequal numbers of rows, or a level outside (0, 1)

    >>> low, high = ratio_interval([1.0, 2.1, 2.9, 4.0], [2.0, 4.0, 6.0, 8.0])
    >>> bool(low[0] < 0.5 < high[0])
    True
    """
    above, below = _columns(numerator), _columns(denominator)
    n, k = above.shape
    if len(below) != n or below.shape[1] not in (1, k):
        raise VlmtraceError(
            f"Numerators {above.shape} and denominators {below.shape} do not match: pass one row per unit in both."
        )
    below = np.broadcast_to(below, above.shape)
    _check_level(level)
    missing = np.full(k, np.nan)
    if n == 1:
        return missing, missing.copy()
    mean_above, mean_below = above.mean(0), below.mean(0)
    safe = np.where(mean_below == 0, 1.0, mean_below)
    critical = _critical_t(above - mean_above / safe * below, level, n_boot, seed)
    # Ends solve (A − rB)² = c² (var A − 2r cov + r² var B) / n, a quadratic in r.
    scale = critical**2 / (n - 1) / n
    deviation_above, deviation_below = above - mean_above, below - mean_below
    a = mean_below**2 - scale * (deviation_below**2).sum(0)
    b = mean_above * mean_below - scale * (deviation_above * deviation_below).sum(0)
    c = mean_above**2 - scale * (deviation_above**2).sum(0)
    bounded = a > 1e-12 * mean_below**2
    root = np.sqrt(np.maximum(b**2 - a * c, 0))
    low, high = ((b + side * root) / np.where(bounded, a, 1.0) for side in (-1, 1))
    return np.where(bounded, low, missing), np.where(bounded, high, missing)


def _critical_t(values: Array, level: float, n_boot: int, seed: int) -> Array:
    """How many standard errors an interval of each column's mean reaches to both sides, (k,); n > 1."""
    _check_level(level)
    n, k = values.shape
    error = _standard_error(values)
    centered = (values - values.mean(0)) / np.where(error > 0, error, 1.0) / np.sqrt(n - 1)  # of variance 1, or all 0
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot).astype(float)  # (n_boot, n)
    critical = np.full(k, scipy.stats.t.ppf((1 + level) / 2, n - 1))
    columns = max(1, CHUNK * 512 // n_boot)
    for start in range(0, k, columns):
        part = slice(start, start + columns)
        means, variances = _moments(counts, centered[:, part])
        t = np.abs(means) / np.sqrt(np.maximum(variances, SPREAD_FLOOR**2) / (n - 1))
        critical[part] = np.maximum(critical[part], np.quantile(t, level, axis=0))
    return critical


def _moments(counts: Array, values: Array) -> tuple[Array, Array]:
    """Means and variances of resamples, (resample, k) each, from how often each draws each row."""
    n = len(values)
    means, squares = counts @ values / n, counts @ values**2 / n
    # What rounding leaves of the variance of n equal values is set to 0.
    return means, np.maximum(squares - means**2 - 1e-13 * squares, 0)


def _standard_error(values: Array) -> Array:
    """Of each column's mean, (k,); 0 where n = 1 or all values are the same but for rounding."""
    n = len(values)
    if n == 1:
        return np.zeros(values.shape[1])
    spread = values.std(0, ddof=1)
    return np.where(spread > 1e-12 * np.abs(values).max(0), spread, 0.0) / np.sqrt(n)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise VlmtraceError(f"The level of an interval is a share between 0 and 1, not {level}: use e.g. 0.95.")


def t_interval(values: ArrayLike, level: float = 0.95) -> tuple[Array, Array]:
    """Student's t interval of each column's mean, for values that differ by chance alone, such as draws of noise.

    Args:
        values: (n, k), finite; one column may be given as (n,)
        level: coverage, between 0 and 1

    Returns:
        lower and upper ends, (k,) each; missing where n = 1

    Raises:
        VlmtraceError: no rows, or a missing value
    """
    values = _columns(values)
    n = len(values)
    if n == 1:
        return (np.full(values.shape[1], np.nan),) * 2
    half = scipy.stats.t.ppf((1 + level) / 2, n - 1) * values.std(0, ddof=1) / np.sqrt(n)
    return values.mean(0) - half, values.mean(0) + half


def area_under_curve(curves: ArrayLike, sizes: ArrayLike) -> Array:
    """Area under curves by trapezoids, over sizes scaled to 0 … 1: that of a constant curve is its height.

    Args:
        curves: (…, k)
        sizes: (k,), increasing, at least two

    Returns:
        (…), in the unit of the curves

    Raises:
        VlmtraceError: there are fewer than two sizes, or they do not increase

    >>> float(area_under_curve([0.0, 1.0, 1.0], [0, 2, 4]))
    0.75
    """
    sizes, curves = np.asarray(sizes, dtype=float), np.asarray(curves, dtype=float)
    if len(sizes) < 2 or np.any(np.diff(sizes) <= 0):
        raise VlmtraceError(f"An area needs at least two increasing sizes, not {sizes.tolist()}: pass e.g. [0, 4, 16].")
    return np.trapezoid(curves, (sizes - sizes[0]) / (sizes[-1] - sizes[0]), axis=-1)


def _columns(values: ArrayLike) -> Array:
    values = np.asarray(values, dtype=float)
    values = values[:, None] if values.ndim == 1 else values
    if not len(values):
        raise VlmtraceError("There is no pair to take a mean over: select more samples.")
    if not np.isfinite(values).all():
        raise VlmtraceError("Values to average contain missing or infinite ones: set those pairs aside first.")
    return values
