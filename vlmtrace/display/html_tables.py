"""Tables as HTML in which data stay data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vlmtrace.core.arguments import checked

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler


#: Digits after the point where none are asked for: as many as pandas writes.
DIGITS = 6

#: A zero with a sign, as a format leaves it behind.
_SIGNED_ZERO = re.compile(r"^-(0(?:\.0*)?%?)$")


@checked
def formatted(
    table: pd.DataFrame,
    formats: str | Mapping[Any, str | Callable[[Any], str]] | None = None,
    precision: int | None = None,
    na_rep: str | None = None,
) -> Styler:
    """A table with formatted numbers, as a cell's output shows it.

    pandas' own `table.style` writes words into the page as they are: a category that is named as a piece of HTML would
    be obeyed. Here cells, row labels and column labels are escaped. Numbers are written without an exponent, unless a
    format asks for one, and a 0 without a sign: "-0.00" would look like a finding.

    Args:
        table: the table
        formats: how cells are written, for all or by column; see pandas.io.formats.style.Styler.format
        precision: digits after the point
        na_rep: what stands for a missing value; None: as pandas writes it

    Returns:
        pandas' Styler, to hide its index, to color it or to give it a caption

    Example:
        >>> import pandas as pd
        >>> import vlmtrace as vt
        >>> table = pd.DataFrame({"share": [0.256]}, index=["<b>color</b>"])
        >>> page = vt.formatted(table, "{:.0%}").to_html()
        >>> "26%" in page, "&lt;b&gt;color&lt;/b&gt;" in page, "<b>" in page
        (True, True, False)
    """
    digits = DIGITS if precision is None else precision
    written: Any = formats
    if isinstance(formats, str):
        written = _with(formats)
    elif isinstance(formats, Mapping):
        others = {column: _number(digits) for column in table.columns if column not in formats}
        written = others | {name: _with(form) if isinstance(form, str) else form for name, form in formats.items()}
    else:
        written = _number(digits)
    styler = table.style.format(written, na_rep=na_rep, escape="html")
    return styler.format_index(escape="html", axis=0).format_index(escape="html", axis=1)


def _with(form: str) -> Callable[[Any], str]:
    return lambda value: _SIGNED_ZERO.sub(r"\1", form.format(value))


def _number(digits: int) -> Callable[[Any], Any]:
    """Write floats with this many digits, and leave all else to pandas."""
    write = _with(f"{{:.{digits}f}}")
    return lambda value: write(value) if isinstance(value, (float, np.floating)) else value
