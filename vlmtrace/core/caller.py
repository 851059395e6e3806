"""Warnings that point at the line of whoever called the package."""

from __future__ import annotations

import sys
import warnings

#: Packages whose frames lie between a caller and what warns: this one, and those whose decorators wrap its functions.
BETWEEN = frozenset(("vlmtrace", "torch", "contextlib", "functools"))


def warn(message: str) -> None:
    """Warn, with the line outside this package that led here, however many of its functions lie between.

    Args:
        message: one sentence

    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn("A pair is left out.")
    >>> str(caught[0].message)
    'A pair is left out.'
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
