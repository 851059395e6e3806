"""Statistics against numbers worked out by hand and against scipy's independent implementations."""

import numpy as np
import pytest
import scipy.stats

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.stats import (
    area_under_curve,
    bootstrap_mean,
    percentile_interval,
    resampled_means,
    sign_flip_test,
    smallest_p,
)


def sample(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, k)) + np.linspace(0, 1, k)


def test_exact_sign_flip_by_hand():
    # Of 8 sign patterns, |±1 ±2 ±3| reaches 6 in two, 0 (= 1 + 2 − 3) in all; |±1 ±2 ±1| reaches 2 in six.
    values = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, -3.0, -1.0]])
    assert sign_flip_test(values).tolist() == [2 / 8, 1.0, 6 / 8]


def test_exact_sign_flip_agrees_with_scipy():
    values = sample(n=9, k=5)

    def mean(x, axis):
        return np.mean(x, axis=axis)

    theirs = scipy.stats.permutation_test((values,), mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_test(values) == pytest.approx(theirs.pvalue, abs=1e-12), "exact p-values differ from scipy's"


def test_random_sign_flips_approach_the_exact_test():
    values = sample(n=12, k=4)
    exact, random = (
        sign_flip_test(values, n_permutations=2**12),
        sign_flip_test(values, n_permutations=2**12 - 1),
    )
    assert random == pytest.approx(exact, abs=0.03), "random sign patterns do not estimate the exact p-value"


def test_smallest_p_is_reached_and_never_zero():
    sure = np.ones((30, 1))
    assert sign_flip_test(sure, n_permutations=999)[0] == smallest_p(30, 999) == 1 / 1000
    assert sign_flip_test(sure[:5])[0] == smallest_p(5) == 2 / 32


def test_rounding_breaks_no_tie():
    whole = np.random.default_rng(0).integers(-20, 20, size=(10, 50)).astype(float)
    # Tenths do not add up exactly in binary; sums that tie as whole numbers must tie as tenths.
    assert sign_flip_test(whole / 10).tolist() == sign_flip_test(whole).tolist()


def test_sign_flip_of_zeros_is_one_and_ignores_scale():
    assert sign_flip_test(np.zeros((20, 2))).tolist() == [1.0, 1.0]
    values = sample(n=10, k=3)
    assert sign_flip_test(values * 1e-12).tolist() == sign_flip_test(values).tolist()


def test_sign_flip_holds_its_level_without_an_effect():
    p = sign_flip_test(np.random.default_rng(1).normal(size=(30, 2000)), n_permutations=2000)
    share = (p <= 0.05).mean()
    assert 0.035 < share < 0.065, f"{share:.3f} of null columns fall below p = 0.05"


def test_bootstrap_agrees_with_scipy():
    values = sample(n=40, k=3)
    theirs = scipy.stats.bootstrap(
        (values,),
        np.mean,
        axis=0,
        method="percentile",
        n_resamples=20_000,
        random_state=np.random.default_rng(1),
    ).confidence_interval
    low, high = bootstrap_mean(values, n_boot=20_000)
    assert low == pytest.approx(theirs.low, abs=0.02)
    assert high == pytest.approx(theirs.high, abs=0.02)


def test_bootstrap_of_two_pairs_by_hand():
    # The mean of two draws from {0, 1} is 0, ½, 1 with probability ¼, ½, ¼.
    means = resampled_means(np.array([0.0, 1.0]), n_boot=40_000)[:, 0]
    shares = [(means == value).mean() for value in (0, 0.5, 1)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.01)
    low, high = percentile_interval(means[:, None], level=0.4)
    assert (low[0], high[0]) == (0.5, 0.5)


def test_bootstrap_interval_covers_the_mean():
    values = np.random.default_rng(2).normal(loc=3.0, size=(50, 1000))
    low, high = bootstrap_mean(values, n_boot=2000)
    coverage = ((low <= 3) & (high >= 3)).mean()
    assert 0.91 < coverage < 0.97, f"95 % intervals cover the true mean in {coverage:.1%} of cases"


def test_same_seed_same_interval_and_columns_keep_their_order():
    values = sample(n=20, k=4)
    first, again = bootstrap_mean(values, seed=3), bootstrap_mean(values, seed=3)
    assert np.array_equal(first, again)
    # Rows are drawn whole, so a column's interval does not depend on its neighbors.
    alone, _ = bootstrap_mean(values[:, 2], seed=3)
    assert alone[0] == pytest.approx(first[0][2])


def test_one_pair_has_no_interval():
    low, high = bootstrap_mean(np.ones((1, 2)))
    assert np.isnan(low).all() and np.isnan(high).all()


def test_area_under_curve_by_hand():
    assert area_under_curve([1.0, 1.0, 1.0], [0, 1, 64]) == pytest.approx(1.0)
    assert area_under_curve([0.0, 1.0], [0, 10]) == pytest.approx(0.5)
    # From 0 to 0.8 over the first quarter (area 0.1), then 0.8 to 1 over the rest (area 0.675).
    assert area_under_curve([[0, 0.8, 1], [0, 0, 0]], [0, 4, 16]) == pytest.approx([0.775, 0.0])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: bootstrap_mean(np.zeros((0, 3))), "no pair"),
        (lambda: sign_flip_test([1.0, np.nan]), "missing or infinite"),
        (lambda: bootstrap_mean([1.0, 2.0], level=95), "between 0 and 1"),
        (lambda: area_under_curve([1.0, 2.0], [4, 4]), "increasing sizes"),
    ],
)
def test_bad_input_gets_a_sentence(call, sentence):
    with pytest.raises(VlmtraceError, match=sentence):
        call()
