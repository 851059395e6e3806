"""How numbers are written where people read them: in the report, in tables that notebooks show, and in sentences.

No number is written with an exponent, and no 0 has a sign: "−0.00" would look like a finding, "6.95e-08" like a
quantity.
"""

from __future__ import annotations

import math

import pandas as pd

#: What stands for a number that is missing.
NOTHING = "–"


def number(value: float | None, digits: int = 2) -> str:
    """Write a number with a true minus sign.

    Args:
        value: the number; a missing one (NaN or None) becomes a dash
        digits: after the point

    Returns:
        the text

    Example:
        >>> number(-0.256), number(-0.001), number(float("nan")), number(6.95e-08), number(float("-inf"))
        ('−0.26', '0.00', '–', '0.00', '−∞')
    """
    if value is None or pd.isna(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    # Adding 0 turns the −0 that rounding may leave into 0.
    return f"{round(float(value), digits) + 0:.{digits}f}".replace("-", "−")


def interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """Write an interval.

    Args:
        low: its lower end
        high: its upper end
        digits: after the point

    Returns:
        the text; a dash where it has no ends

    Example:
        >>> interval(-0.001, 0.47), interval(float("nan"), float("nan"))
        ('[0.00, 0.47]', '–')
    """
    if low is None or high is None or pd.isna(low) or pd.isna(high):
        return NOTHING
    return f"[{number(low, digits)}, {number(high, digits)}]"


def percent(value: float | None) -> str:
    """Write a share in percent, with a decimal only where it says more: near 0 % and 100 %.

    Args:
        value: the share, 0 to 1, or beyond; a missing one becomes a dash

    Returns:
        the text

    Example:
        >>> percent(0.5), percent(0.996), percent(1.0), percent(1.755), percent(0.0001), percent(float("nan"))
        ('50 %', '99.6 %', '100 %', '176 %', '0 %', '–')
    """
    if value is None or pd.isna(value):
        return NOTHING
    digits = int(0.0005 <= value < 0.01 or 0.99 < value < 1)
    return f"{number(100 * value, digits)} %"


def small(value: float | None, digits: int = 3) -> str:
    """Write a number of which only small ones matter, such as a p-value.

    Args:
        value: not below 0; a missing one becomes a dash
        digits: after the point

    Returns:
        the text; what rounds to 0 and is not 0 is said to be below the smallest number that can be written

    Example:
        >>> small(0.034), small(6.95e-08), small(0.0)
        ('0.034', '< 0.001', '0.000')
    """
    if value is None or pd.isna(value):
        return NOTHING
    least = 10.0**-digits
    return f"< {least:.{digits}f}" if 0 < value < least / 2 else number(value, digits)


#: Numbers that sentences write as words.
_WORDS = "no one two three four five six seven eight nine ten eleven twelve".split()


def count(value: int, noun: str, plural: str = "") -> str:
    """Write how many there are of something.

    Args:
        value: how many
        noun: of one
        plural: of several; "": with an s

    Returns:
        up to twelve in words

    Example:
        >>> count(1, "head"), count(7, "head"), count(54, "unit")
        ('one head', 'seven heads', '54 units')
    """
    said = _WORDS[value] if 0 <= value < len(_WORDS) else str(value)
    return f"{said} {noun if value == 1 else plural or noun + 's'}"
