"""Rows of a stored table in memory: text as categories, which of them begin a group, which are sought."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vlmtrace.core.parquet import plain_column

if TYPE_CHECKING:
    import pyarrow as pa


def categories(piece: pa.Table) -> pd.DataFrame:
    """Rows as a DataFrame with text as categories."""
    import pyarrow as pa

    piece = piece.unify_dictionaries()
    columns = {
        name: column.to_pandas() if pa.types.is_dictionary(column.type) else plain_column(column)
        for name, column in zip(piece.column_names, piece.columns, strict=True)
    }
    return pd.DataFrame(columns, index=range(piece.num_rows))


def plain_text(batch: pd.DataFrame) -> pd.DataFrame:
    """Categories as the text that they stand for."""
    changed = {}
    for name, values in batch.items():
        if isinstance(values.dtype, pd.CategoricalDtype):
            kind = values.cat.categories.dtype
            # Without a single value pandas cannot see that the categories are text.
            changed[name] = values.astype("str" if pd.api.types.is_object_dtype(kind) and values.isna().all() else kind)
    return batch.assign(**changed) if changed else batch


def group_starts(frame: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """Whether each row differs from the one before in any of these columns; the first does."""
    starts = np.zeros(len(frame), dtype=bool)
    starts[:1] = True
    for name in columns:
        codes = frame[name].cat.codes if isinstance(frame[name].dtype, pd.CategoricalDtype) else frame[name]
        values = pd.factorize(codes)[0]
        starts[1:] |= values[1:] != values[:-1]
    return starts


def agreeing(table: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray:
    """Whether each row of the table agrees with one of `rows` in all of its columns; nothing agrees with a gap."""
    rows = rows.dropna()
    mine, theirs = np.zeros(len(table), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
    for name in rows.columns:
        known = pd.Index(rows[name].unique())
        values = table[name]
        if isinstance(values.dtype, pd.CategoricalDtype):
            of_category = np.append(known.get_indexer(values.cat.categories), -1)
            codes = of_category[values.cat.codes.to_numpy()]
        else:
            codes = known.get_indexer(values)
        mine = np.where((codes < 0) | (mine < 0), -1, mine * len(known) + codes)
        theirs = theirs * len(known) + known.get_indexer(rows[name])
    return np.isin(mine, theirs)
