"""Intervals, tests and areas, for many columns at once.

Everywhere `values` is (n, k): n pairs, which are independent, and k quantities measured on each of them (heads, sizes
of a circuit, …), which need not be. Every resample draws whole rows, so it keeps the dependence between columns.
"""

from __future__ import annotations

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.types import Array

#: Sign patterns in memory at a time.
CHUNK = 4096


def bootstrap_mean(values: ArrayLike, level: float = 0.95, n_boot: int = 10_000, seed: int = 0) -> tuple[Array, Array]:
    """Percentile bootstrap interval of each column's mean (Efron & Tibshirani 1993, ch. 13).

    Args:
        values: (n, k), finite; one column may be given as (n,)
        level: coverage, between 0 and 1
        n_boot: resamples of the n rows
        seed: the same seed gives the same resamples

    Returns:
        lower and upper ends, (k,) each; missing where n = 1, since one pair says nothing about others

    Raises:
        VlmtraceError: no rows, a missing value, or a level outside (0, 1)

    >>> low, high = bootstrap_mean([0.1, 0.2, 0.3, 0.4])
    >>> bool(low[0] < 0.25 < high[0])
    True
    """
    return percentile_interval(resampled_means(values, n_boot, seed), level)


def resampled_means(values: ArrayLike, n_boot: int = 10_000, seed: int = 0) -> Array:
    """Column means of samples of the rows, drawn with replacement.

    Functions of several means (ratios, differences) get their interval by being computed on these, row by row.

    Args:
        values: (n, k), finite; one column may be given as (n,)
        n_boot: how many samples
        seed: the same seed gives the same samples

    Returns:
        (n_boot, k); missing where n = 1

    Raises:
        VlmtraceError: no rows, or a missing value
    """
    values = _columns(values)
    n = len(values)
    if n == 1:
        return np.full((n_boot, values.shape[1]), np.nan)
    # How often each row is drawn is all that a mean needs, and it makes the bootstrap one matrix product.
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot)  # (n_boot, n)
    return counts @ values / n  # (n_boot, k)


def percentile_interval(resamples: Array, level: float = 0.95) -> tuple[Array, Array]:
    """The interval that holds the central share of resamples.

    Args:
        resamples: (n_boot, k)
        level: that share, between 0 and 1

    Returns:
        lower and upper ends, (k,) each

    Raises:
        VlmtraceError: a level outside (0, 1)
    """
    if not 0 < level < 1:
        raise VlmtraceError(f"The level of an interval is a share between 0 and 1, not {level}: use e.g. 0.95.")
    low, high = np.quantile(resamples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


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


def sign_flip_test(values: ArrayLike, n_permutations: int = 10_000, seed: int = 0) -> Array:
    """Two-sided p-value of each column's mean under random signs of the rows (Fisher's randomization test).

    If a head does nothing systematic, a pair's effect is as likely e as −e. The p-value is the share of sign patterns
    whose |mean| reaches the observed one: all 2^n patterns when they are at most `n_permutations`, so that the test is
    exact; otherwise random ones, with the observed pattern counted among them, p = (count + 1) / (n_permutations + 1)
    (Phipson & Smyth 2010). A row's sign is the same in all columns.

    Args:
        values: (n, k), finite; one column may be given as (n,)
        n_permutations: how many sign patterns at most
        seed: of random ones

    Returns:
        (k,); never below `smallest_p(n, n_permutations)`

    Raises:
        VlmtraceError: no rows, or a missing value

    >>> sign_flip_test([1.0, 2.0, 3.0, 4.0, 5.0]).tolist()
    [0.0625]
    """
    values = _columns(values)
    n = len(values)
    # Patterns that tie with the observed one must count, whatever order their terms were added in.
    reached = np.abs(values.mean(0)) - 1e-9 * np.abs(values).mean(0)
    exact = 2**n <= n_permutations
    total = 2**n if exact else n_permutations
    generator = np.random.default_rng(seed)
    count = np.zeros(values.shape[1])
    for start in range(0, total, CHUNK):
        size = min(CHUNK, total - start)
        if exact:
            bits = np.arange(start, start + size)[:, None] >> np.arange(n) & 1  # (pattern, n)
        else:
            bits = generator.integers(0, 2, (size, n), dtype=np.int8)  # (pattern, n)
        count += (np.abs((1.0 - 2.0 * bits) @ values / n) >= reached).sum(0)
    return count / total if exact else (count + 1) / (total + 1)


def smallest_p(n: int, n_permutations: int = 10_000) -> float:
    """The smallest p-value that `sign_flip_test` can give.

    Args:
        n: pairs
        n_permutations: as in `sign_flip_test`

    >>> smallest_p(5)
    0.0625
    """
    return 2 / 2**n if 2**n <= n_permutations else 1 / (n_permutations + 1)


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
