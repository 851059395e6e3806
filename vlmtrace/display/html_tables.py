"""Tables as HTML in which data stay data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from vlmtrace.core.arguments import checked

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler


@checked
def formatted(
    table: pd.DataFrame,
    formats: str | Mapping[Any, str | Callable[[Any], str]] | None = None,
    precision: int | None = None,
    na_rep: str | None = None,
) -> Styler:
    """A table with formatted numbers, as a cell's output shows it.

    pandas' own `table.style` writes words into the page as they are: a category that is named as a piece of HTML would
    be obeyed. Here cells, row labels and column labels are escaped.

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
    styler = table.style.format(formats, precision=precision, na_rep=na_rep, escape="html")
    return styler.format_index(escape="html", axis=0).format_index(escape="html", axis=1)
