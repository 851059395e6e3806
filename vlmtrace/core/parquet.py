"""Parquet tables of any writer as plain ones: text, whole numbers, numbers, true or false."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    import pyarrow as pa


def plain_table(table: pa.Table) -> pd.DataFrame:
    """An Arrow table as a DataFrame with plain columns.

    Args:
        table: as it was read; what it says of pandas' own types is not followed, apart from the name of its index

    Returns:
        the same columns: dictionaries and large strings as text, decimals as numbers, a named index as a column
    """
    # Column by column, as two of one name are for the contract to refuse, not for pyarrow to fail on.
    columns = [plain_column(column) for column in table.columns]
    unnamed = [index for index, name in enumerate(table.column_names) if name in _unnamed_indices(table)]
    kept = [index for index in range(len(columns)) if index not in unnamed]
    found = pd.concat([columns[index] for index in kept], axis=1) if kept else pd.DataFrame(index=range(table.num_rows))
    found.columns = pd.Index([table.column_names[index] for index in kept], dtype=object if not kept else None)
    return found


def plain_column(column: pa.ChunkedArray) -> pd.Series:
    """One column as a Series of a plain type; lists of text become Python's, other containers stay what they are."""
    import pyarrow as pa
    import pyarrow.types as kinds

    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column, kind = (
            pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type),
            kind.storage_type,
        )
    if kinds.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if kinds.is_large_string(kind) or kinds.is_string_view(kind):
        column = column.cast(pa.string()) if column.nbytes < 2**31 else column
    elif kinds.is_decimal(kind) or kinds.is_float16(kind):
        column = column.cast(pa.float64())
    elif (kinds.is_list(kind) or kinds.is_large_list(kind)) and _is_text(kind.value_type):
        return pd.Series(column.to_pylist(), dtype=object)
    elif kinds.is_null(kind):
        return pd.Series([None] * len(column), dtype=object)
    return column.to_pandas()


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow.types as kinds

    return kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind) or kinds.is_null(kind)


def _unnamed_indices(table: pa.Table) -> set[str]:
    """The columns in which pandas keeps an index that has no name."""
    try:
        said = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}"))
        indices = {name for name in said.get("index_columns", []) if isinstance(name, str)}
    except (ValueError, TypeError, AttributeError, RecursionError):  # another writer's, or damaged
        indices = set()
    return {name for name in indices if name.startswith("__index_level_")}
