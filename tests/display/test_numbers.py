"""One way to write numbers, wherever people read them."""

import re

import numpy as np
import pandas as pd
import pytest

import vlmtrace as vt
from vlmtrace.display.numbers import count, interval, number, percent, small


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0 %"), (1, "100 %"), (0.004, "0.4 %"), (1.755, "176 %"), (-0.2, "−20 %"), (0.0001, "0 %"), (0.996, "99.6 %")],
)
def test_shares_are_said_in_percent(value, said):
    assert percent(value) == said


def test_numbers_have_a_true_minus_sign():
    assert (number(-0.256), number(1.0), number(float("nan"))) == ("−0.26", "1.00", "–")
    assert number(-0.001) == "0.00", "0 has no sign"


@pytest.mark.parametrize("write", [number, percent, small, lambda value: interval(value, value)])
def test_no_number_has_an_exponent_or_a_signed_zero(write):
    generator = np.random.default_rng(0)
    values = np.concatenate([10.0 ** generator.uniform(-300, 12, 500), [0.0, -0.0, 5e-324]])
    for value in [*values, *(() if write is small else -values)]:
        text = write(value)
        assert "e" not in text and not re.search(r"[-−]0(\.0+)?(?![\d.])", text), f"{value!r} was written as {text}"


def test_a_number_that_is_missing_is_a_dash():
    assert {write(None) for write in (number, percent, small)} == {"–"} and interval(None, 1.0) == "–"


def test_few_things_are_counted_in_words():
    assert (count(0, "head"), count(12, "pair"), count(13, "pair")) == ("no heads", "twelve pairs", "13 pairs")
    assert count(2, "body", "bodies") == "two bodies"


def test_tables_of_notebooks_hide_no_exponent_and_no_signed_zero():
    table = pd.DataFrame({"a": [-1e-9, 6.95e-08, -0.5], "b": [1, 2, 3], "c": ["-0.00 is text", "x", "y"]})
    for shown in (vt.formatted(table), vt.formatted(table, precision=2), vt.formatted(table, {"a": "{:.2f}"})):
        cells = re.findall(r"<td[^>]*>([^<]*)</td>", shown.to_html())
        assert float(cells[0]) == 0 and not cells[0].startswith("-") and "e" not in cells[3]
        assert float(cells[6]) == -0.5 and cells[1] == "1" and cells[2] == "-0.00 is text"
    assert ">0%<" in vt.formatted(table[["a"]], "{:.0%}").to_html()
