"""Tables that were put on top of each other: whether their groups hold every pair once."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from vlmtrace.core.errors import VlmtraceError

#: By what stands twice, the sentence that says so.
_TWICE = {
    "pair": "A pair stands twice in a group: group by a column that tells the tables apart, by=[…].",
    "layer": "A layer stands twice in a pair: group by a column that tells the tables apart, by=[…].",
    "option": "An option stands twice in a pair: group by a column that tells the tables apart, by=[…].",
}


def refuse_repeated(table: pd.DataFrame, columns: Sequence[str], what: str = "pair") -> None:
    """Raise a sentence if a group has a pair twice, which an average would count as one.

    Tables of several models, or of several ways to ask, can be put on top of each other; where no column of the groups
    tells them apart, numbers of both would be averaged.

    Args:
        table: with the column sample_id
        columns: what tells rows of a pair apart, the columns of the groups among them
        what: stands twice: "pair", "layer" or "option"

    Raises:
        VlmtraceError: two rows of a pair have the same values in all these columns
    """
    if table.duplicated([*columns, "sample_id"]).any():
        raise VlmtraceError(_TWICE[what])
