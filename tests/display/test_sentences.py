"""Parts of sentences: numbers agree with the statistics that they name, and nothing fails for few or no rows."""

import numpy as np
import pandas as pd
import pytest

from vlmtrace.core import stats
from vlmtrace.display.sentences import heads_listed, listed, mean_in_words, mean_of, with_interval


def test_a_mean_counts_each_unit_once():
    rows = pd.DataFrame(
        {"sample_id": ["a", "a", "b", "c"], "unit": ["u", "u", "u", "v"], "effect": [1.0, 3.0, 4.0, 9.0]}
    )
    # Pair a is 2, unit u the mean of 2 and 4, and v is 9.
    mean, low, high = mean_of(rows, "effect")
    (expected_low,), (expected_high,) = stats.mean_interval([3.0, 9.0])
    assert (mean, low, high) == pytest.approx((6.0, expected_low, expected_high))


def test_a_missing_effect_is_left_out():
    rows = pd.DataFrame({"sample_id": ["a", "b"], "effect": [0.5, np.nan]})
    assert mean_in_words(rows, "effect") == "0.50 (no interval)"
    assert mean_in_words(rows[1:], "effect") == "–"


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0.41, 0.35, 0.47), "0.41 [0.35, 0.47]"),
        ((-0.41, -0.47, -0.35), "−0.41 [−0.47, −0.35]"),
        ((0.1, -0.1, 0.3), "0.10 [−0.10, 0.30], not told apart from 0"),
        ((0.1, None, None), "0.10 (no interval)"),
        ((1e-9, -1e-8, 1e-8), "0.00"),
    ],
)
def test_an_interval_that_holds_0_is_told(numbers, expected):
    assert with_interval(*numbers) == expected


def test_a_list_is_cut_only_where_that_saves_names():
    assert listed(list("abcde"), at_most=4) == "a, b, c, d and e"
    assert listed(list("abcdef"), at_most=4) == "a, b, c, d and 2 more"


def test_heads_of_one_module_say_it_once():
    heads = pd.DataFrame({"module": "mlp", "layer": [1, 2], "head": [0, 3]})
    assert heads_listed(heads) == "mlp 1.0 and 2.3"
