"""Statistics against numbers worked out by hand and against scipy's independent implementations."""

import numpy as np
import pytest
import scipy.stats

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.stats import (
    SPREAD_FLOOR,
    area_under_curve,
    mean_interval,
    mean_test,
    ratio_interval,
    smallest_mean_p,
    unit_means,
)


def sample(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, k)) + np.linspace(0, 1, k)


# Units -----------------------------------------------------------------------------------------------------------


def test_rows_of_a_unit_are_averaged_first():
    values = np.array([[1.0, 10.0], [5.0, 0.0], [3.0, 20.0]])
    assert unit_means(values, ["b", "a", "b"]).tolist() == [[2.0, 15.0], [5.0, 0.0]]
    assert unit_means(values).tolist() == values.tolist(), "without units every row is its own"


@pytest.mark.medium
def test_units_restore_the_size_that_mirrored_pairs_break():
    # Twenty couples whose two rows correlate by .68, as the head effects of mirrored pairs do in tiny-llava.
    generator, n_couples, columns = np.random.default_rng(0), 20, 3000
    shared = generator.normal(size=(n_couples, columns)) * np.sqrt(0.68)
    rows = np.concatenate([shared + generator.normal(size=shared.shape) * np.sqrt(0.32) for _ in range(2)])
    units = np.tile(np.arange(n_couples), 2)
    as_rows = (mean_test(rows, 2000) <= 0.05).mean()
    as_units = (mean_test(unit_means(rows, units), 2000) <= 0.05).mean()
    assert as_units < 0.06, f"{as_units:.3f} of null columns are below p = .05 with couples averaged"
    assert as_rows > 0.1, "the case does not show what dependence does"


# Interval and test of a mean --------------------------------------------------------------------------------------


def naive_t(values: np.ndarray, n_boot: int, seed: int) -> tuple[float, np.ndarray]:
    """|t| of one column, and of its resamples, which are drawn as in `core.stats`, one by one."""
    whole = values.std(ddof=0) / np.sqrt(len(values) - 1)
    n = len(values)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot)
    found = []
    for count in counts:
        drawn = np.repeat(values, count)
        error = max(drawn.std(ddof=1) / np.sqrt(n), SPREAD_FLOOR * whole)
        found.append(abs(drawn.mean() - values.mean()) / error)
    return abs(values.mean()) / (values.std(ddof=1) / np.sqrt(n)), np.array(found)


def test_interval_and_test_agree_with_a_naive_bootstrap_t():
    values = np.random.default_rng(1).exponential(size=(12, 3)) - [0.0, 0.5, 0.9]
    low, high = mean_interval(values, n_boot=1000, seed=3)
    p_value = mean_test(values, n_resamples=1000, seed=3)
    for k, column in enumerate(values.T):
        t, resampled = naive_t(column, 1000, seed=3)
        half = max(np.quantile(resampled, 0.95), scipy.stats.t.ppf(0.975, 11)) * column.std(ddof=1) / np.sqrt(12)
        assert (low[k], high[k]) == pytest.approx((column.mean() - half, column.mean() + half))
        reached = ((resampled >= t).sum() + 1) / 1001
        assert p_value[k] == pytest.approx(max(reached, scipy.stats.ttest_1samp(column, 0).pvalue))


@pytest.mark.medium
@pytest.mark.parametrize(
    ("n", "name", "least"),
    # Percentile intervals cover .85, .90; .82, .87, .91.
    [(6, "normal", 0.94), (10, "normal", 0.94), (6, "skewed", 0.91), (10, "skewed", 0.915), (20, "skewed", 0.935)],
)
def test_intervals_hold_their_coverage(n, name, least):
    generator = np.random.default_rng(n)
    values = generator.normal(size=(n, 4000)) if name == "normal" else generator.exponential(size=(n, 4000)) - 1
    low, high = mean_interval(values, n_boot=2000)
    covered = ((low <= 0) & (high >= 0)).mean()
    assert covered >= least, f"95 % intervals over {n} {name} effects cover the mean in {covered:.1%} of cases"


@pytest.mark.medium
@pytest.mark.parametrize(
    ("n", "name", "most"),
    # Random signs reject .09 of skewed columns at n = 10, .08 at n = 20.
    [(6, "normal", 0.055), (20, "normal", 0.06), (10, "skewed", 0.08), (20, "skewed", 0.065), (50, "skewed", 0.06)],
)
def test_the_test_of_the_mean_holds_its_size(n, name, most):
    generator = np.random.default_rng(n)
    values = generator.normal(size=(n, 4000)) if name == "normal" else generator.exponential(size=(n, 4000)) - 1
    share = (mean_test(values, 2000) <= 0.05).mean()
    assert share <= most, f"{share:.3f} of null columns of {n} {name} effects fall below p = .05"


@pytest.mark.medium
def test_the_test_finds_an_effect_among_many():
    # One of 1024 heads has an effect: it must be able to pass a correction over all of them.
    values = np.random.default_rng(0).normal(size=(50, 1024))
    values[:, 7] += 1.5
    p_value = mean_test(values, n_resamples=10 * 1024 * 20)
    assert p_value[7] < 0.05 / 1024, "a large effect cannot pass the correction over 1024 heads"
    assert scipy.stats.false_discovery_control(p_value)[7] < 0.05
    alone = mean_test(values[:, 7], n_resamples=10 * 1024 * 20)
    assert alone[0] == p_value[7], "a column's p-value depends on its neighbors"


def test_interval_and_test_say_the_same():
    values = np.random.default_rng(4).exponential(size=(9, 400)) - 0.45
    low, high = mean_interval(values, n_boot=4000)
    p_value = mean_test(values, n_resamples=4000)
    clear = np.abs(p_value - 0.05) > 0.01  # resamples of the test stop early
    assert ((low > 0) | (high < 0))[clear].tolist() == (p_value < 0.05)[clear].tolist()
    assert 0.1 < (p_value < 0.05).mean() < 0.9


def test_an_outlier_in_the_same_direction_does_not_hide_an_effect():
    # A resample without the larger value has no spread; without a floor it would count as reaching any t.
    assert mean_test([0.4, 0.4, 0.4, 0.5, 0.4])[0] < 0.05


def test_few_units_never_give_a_small_p_value():
    sure = np.array([1.0, 1.001, 0.999, 1.0005, 0.9995])
    for n in (2, 3, 4, 5):
        assert mean_test(sure[:n], n_resamples=100_000)[0] >= smallest_mean_p(n) == pytest.approx(float(n) ** (1 - n))
    assert mean_test([3.0]).tolist() == [1.0], "one unit tells nothing about others"


def test_constant_columns():
    values = np.repeat([[0.0, 0.1, -2.0]], 6, axis=0)
    low, high = mean_interval(values)
    assert low == pytest.approx([0.0, 0.1, -2.0]) and high == pytest.approx([0.0, 0.1, -2.0])
    assert mean_test(values).tolist() == [1.0, smallest_mean_p(6), smallest_mean_p(6)]


def test_one_outlier_does_not_make_the_interval_absurd():
    # Without a floor of the resamples' spread it would reach to ±30.
    values = np.r_[np.random.default_rng(0).normal(scale=1e-3, size=9), 1.0]
    low, high = mean_interval(values)
    assert -1 < low[0] < 0 < 0.1 < high[0] < 1, f"interval [{low[0]:.2f}, {high[0]:.2f}] of a mean of .1"


def test_interval_and_test_ignore_scale_and_repeat_themselves():
    values = sample(n=10, k=3)
    assert mean_test(values * 1e-12) == pytest.approx(mean_test(values))
    ends, small = np.array(mean_interval(values)), np.array(mean_interval(values * 1e-12))
    assert small == pytest.approx(ends * 1e-12)
    assert np.array_equal(ends, mean_interval(values)) and np.array_equal(mean_test(values), mean_test(values))


# Ratios -----------------------------------------------------------------------------------------------------------


def test_ratio_interval_agrees_with_testing_each_ratio():
    generator = np.random.default_rng(2)
    below = 1 + 0.3 * generator.normal(size=15)
    above = 0.5 * below + 0.2 * generator.normal(size=15)
    (low,), (high,) = ratio_interval(above, below, seed=1)
    # The ends are those ratios whose difference numerator − ratio · denominator lies exactly c standard errors from 0.
    ratio = above.mean() / below.mean()
    rest = above - ratio * below
    (_,), (top,) = mean_interval(rest, seed=1)
    critical = top / (rest.std(ddof=1) / np.sqrt(15))
    for end in (low, high):
        difference = above - end * below
        assert abs(difference.mean()) / (difference.std(ddof=1) / np.sqrt(15)) == pytest.approx(critical)
    assert low < ratio < high


@pytest.mark.medium
def test_ratio_intervals_cover():
    generator = np.random.default_rng(3)
    below = 1 + 0.3 * generator.normal(size=(10, 4000))
    low, high = ratio_interval(0.5 * below + 0.3 * generator.normal(size=(10, 4000)), below, n_boot=2000)
    covered = ((low <= 0.5) & (high >= 0.5)).mean()
    assert covered > 0.94, f"95 % intervals of a ratio cover it in {covered:.1%} of cases"


def test_ratio_without_a_sure_denominator_has_no_interval():
    above = np.ones(6) + np.arange(6) / 10
    for below in (np.array([1.0, -1, 2, -2, 1, -1]), np.zeros(6)):
        low, high = ratio_interval(above, below)
        assert np.isnan([low[0], high[0]]).all(), "a ratio to a denominator that may be 0 may be anything"
    low, high = ratio_interval(above[:1], above[:1])
    assert np.isnan([low[0], high[0]]).all()
    # One denominator for all columns.
    both = ratio_interval(np.c_[above, 2 * above], above)
    assert np.array(both) == pytest.approx(np.array([[1, 2], [1, 2]]))


# Areas ----------------------------------------------------------------------------------------------------------------


def test_area_under_curve_by_hand():
    assert area_under_curve([1.0, 1.0, 1.0], [0, 1, 64]) == pytest.approx(1.0)
    assert area_under_curve([0.0, 1.0], [0, 10]) == pytest.approx(0.5)
    # From 0 to 0.8 over the first quarter (area 0.1), then 0.8 to 1 over the rest (area 0.675).
    assert area_under_curve([[0, 0.8, 1], [0, 0, 0]], [0, 4, 16]) == pytest.approx([0.775, 0.0])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: mean_interval(np.zeros((0, 3))), "no pair"),
        (lambda: mean_interval([1.0, 2.0], level=95), "between 0 and 1"),
        (lambda: mean_test([1.0, np.nan]), "missing or infinite"),
        (lambda: unit_means([1.0, 2.0], ["a", None]), "needs one unit"),
        (lambda: unit_means([1.0, 2.0], ["a"]), "needs one unit"),
        (lambda: ratio_interval([1.0, 2.0], [1.0]), "do not match"),
        (lambda: area_under_curve([1.0, 2.0], [4, 4]), "increasing sizes"),
    ],
)
def test_bad_input_gets_a_sentence(call, sentence):
    with pytest.raises(VlmtraceError, match=sentence):
        call()
