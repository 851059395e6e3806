"""Tables of other writers are read as plain columns; nothing in a file is executed."""

import decimal
import pickle

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmtrace.core.files import read_table

WORDS = ["a", None, "b"]


@pytest.mark.parametrize(
    "array",
    [
        pa.array(WORDS),
        pa.array(WORDS, pa.large_string()),
        pa.array(WORDS, pa.string_view()),
        pa.array(WORDS).dictionary_encode(),
        pa.array(WORDS, pa.large_string()).dictionary_encode(),
    ],
    ids=lambda array: str(array.type),
)
def test_text_of_any_writer_is_text(tmp_path, array):
    pq.write_table(pa.table({"word": array}), tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet")["word"]
    assert found.dropna().tolist() == ["a", "b"] and found.isna().tolist() == [False, True, False]
    assert not isinstance(found.dtype, pd.CategoricalDtype)


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (pa.array([1, 2], pa.int8()), [1, 2]),
        (pa.array([1, 2], pa.uint64()), [1, 2]),
        (pa.array([0.5, 2], pa.float32()), [0.5, 2]),
        (pa.array([0.5, 2], pa.float16()), [0.5, 2]),
        (pa.array([decimal.Decimal("0.5"), decimal.Decimal("2")]), [0.5, 2]),
        (pa.array([True, False]), [True, False]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_numbers_of_any_writer_are_numbers(tmp_path, array, values):
    pq.write_table(pa.table({"n": array}), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet")["n"].tolist() == values


def test_an_index_with_a_name_is_a_column_and_one_without_is_none(tmp_path):
    table = pd.DataFrame({"sample_id": ["x", "y"], "layer": [3, 4]})
    table.set_index("sample_id").to_parquet(tmp_path / "named.parquet")
    assert read_table(tmp_path / "named.parquet")[["sample_id", "layer"]].equals(table)
    table.set_index(pd.Index([5, 7])).to_parquet(tmp_path / "unnamed.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path / "unnamed.parquet"), table)


def test_types_of_pandas_own_are_read_as_plain_ones(tmp_path):
    table = pd.DataFrame({"n": pd.array([1, 2], dtype="Int64"), "c": pd.Categorical(["a", "b"])})
    table.to_parquet(tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet")
    assert str(found["n"].dtype) == "int64" and found["c"].tolist() == ["a", "b"]


@pytest.mark.parametrize("said", [b"", b"{", b"[]", b'{"index_columns": 3}', b'{"columns": [{"name": {}}]}'])
def test_what_the_file_says_of_pandas_is_not_followed(tmp_path, said):
    table = pa.table({"n": [1]}).replace_schema_metadata({b"pandas": said})
    pq.write_table(table, tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet")["n"].tolist() == [1]


def test_two_columns_of_one_name_are_both_there_for_the_contract_to_refuse(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "t.parquet")
    assert list(read_table(tmp_path / "t.parquet")) == ["a", "a"]


class Executed:
    def __reduce__(self):
        return (print, ("the pickle was executed",))


def test_a_pickle_in_a_file_is_not_executed(tmp_path, capsys):
    said = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(Executed())}
    field = pa.field("n", pa.int64(), metadata=said)
    pq.write_table(pa.table([pa.array([1])], schema=pa.schema([field])), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet")["n"].tolist() == [1]
    assert capsys.readouterr().out == ""


def test_a_table_without_columns_or_rows(tmp_path):
    pd.DataFrame().to_parquet(tmp_path / "none.parquet", index=False)
    pd.DataFrame({"a": pd.Series([], dtype="str")}).to_parquet(tmp_path / "empty.parquet", index=False)
    assert read_table(tmp_path / "none.parquet").shape == (0, 0)
    assert read_table(tmp_path / "empty.parquet").shape == (0, 1)
