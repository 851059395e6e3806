"""Parts become one table on disk with the rows, types and file of the parts joined in memory."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.stored import open_stored
from vlmtrace.pipeline import stored_parts
from vlmtrace.pipeline.stored_parts import gathered, in_order, joined, write_parquet


def part(number: int, n: int = 3) -> pd.DataFrame:
    rows = {"sample_id": [f"s{number}"] * n, "position": range(n), "effect": [0.1 * number] * n}
    return pd.DataFrame({**rows, "note": [None if number == 0 else f"n{number}"] * n})


def test_parts_are_joined_as_pandas_joins_them(tmp_path):
    found = gathered((part(number) for number in range(4)), tmp_path, "parts")
    expected = pd.concat([part(number) for number in range(4)], ignore_index=True)
    expected.to_parquet(tmp_path / "in_memory.parquet", index=False)
    expected = pd.read_parquet(tmp_path / "in_memory.parquet")
    (tmp_path / "in_memory.parquet").unlink()
    pd.testing.assert_frame_equal(found.read().fillna(""), expected.fillna(""), check_dtype=False)
    assert not list(tmp_path.iterdir()), "the file of the parts has kept a name"
    write_parquet(found, tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), expected)


def test_the_file_does_not_depend_on_the_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_parts, "BATCH_ROWS", 5)
    whole = pd.concat([part(number) for number in range(1, 7)], ignore_index=True)
    for name, size in (("a", 3), ("b", 7), ("c", 18)):
        parts = (whole[start : start + size] for start in range(0, len(whole), size))
        write_parquet(gathered(parts, tmp_path, "parts"), tmp_path / f"{name}.parquet")
    one, two, three = ((tmp_path / f"{name}.parquet").read_bytes() for name in "abc")
    assert one == two == three
    groups = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [5, 5, 5, 3]


def test_joined_tables_and_chosen_rows_are_written(tmp_path):
    tables = [gathered([part(number)], tmp_path, "parts").assign(task=task) for number, task in ((1, "a"), (2, "b"))]
    both = joined(tables)
    assert both.columns == ["sample_id", "position", "effect", "note", "task"]
    write_parquet(both.only(task="b"), tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), part(2).assign(task="b"))
    with pytest.raises(VlmtraceError, match="Join tables before rows are chosen"):
        joined([both.only(task="b")])
    with pytest.raises(VlmtraceError, match="no tables to join"):
        joined([])


def test_a_table_without_rows_is_written(tmp_path):
    part(1).head(0).to_parquet(tmp_path / "empty.parquet", index=False)
    expected = pd.read_parquet(tmp_path / "empty.parquet")
    empty = open_stored(tmp_path / "empty.parquet")
    for table in (empty, joined([empty, empty]), empty.only(sample_id="s1")):
        write_parquet(table, tmp_path / "again.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "again.parquet"), expected)
    write_parquet(empty.assign(task="a"), tmp_path / "again.parquet")
    assert list(pd.read_parquet(tmp_path / "again.parquet")) == [*expected, "task"]


@pytest.mark.parametrize("value", [None, np.nan, 3, "text"])
@pytest.mark.parametrize("column", ["new", "note", "position", "sample_id"])
def test_columns_of_one_value_are_written(tmp_path, column, value):
    table = gathered([part(1), part(2)], tmp_path, "parts").assign(**{column: value})
    write_parquet(table, tmp_path / "table.parquet")
    expected = pd.concat([part(1), part(2)], ignore_index=True).assign(**{column: value})
    expected.to_parquet(tmp_path / "pandas.parquet", index=False)
    expected = pd.read_parquet(tmp_path / "pandas.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), expected)


def test_parts_that_come_in_any_order_are_put_in_order():
    asked = []

    def again(number: int) -> pd.DataFrame:
        asked.append(number)
        return part(number)

    found = [table["sample_id"].iloc[0] for table in in_order([(n, part(n)) for n in (2, 0, 1, 4, 3)], again)]
    assert found == ["s0", "s1", "s2", "s3", "s4"]
    assert asked == [2, 4], "what came before its turn is read again, and nothing else"


def test_no_part_gets_a_sentence(tmp_path):
    with pytest.raises(VlmtraceError, match="parts has no rows"):
        gathered([], tmp_path, "parts")
