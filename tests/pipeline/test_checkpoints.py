"""Checkpoints: parts that can be trusted or are computed again, and digests that tell values apart."""

import datetime
from decimal import Decimal
from uuid import UUID

import pandas as pd
import pytest
from fixtures.walked_stages import pairs

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.checkpoints import Checkpoints, chunks, digest_of, image_state


def damage_page(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 8] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not parquet"),
        lambda path: pairs().to_parquet(path),
        damage_page,
    ],
    ids=["cut short", "empty", "text", "foreign table", "flipped bit"],
)
def test_a_part_that_cannot_be_trusted_is_computed_again(tmp_path, damage):
    parts = Checkpoints(tmp_path, "key")
    rows = pairs(200)
    kept = parts.put(rows, rows[["sample_id", "value"]])
    pd.testing.assert_frame_equal(parts.get(rows), kept)
    (path,) = tmp_path.glob("*.parquet")
    damage(path)
    assert parts.get(rows) is None


def test_chunks_cover_the_rows_in_order():
    found = list(chunks(pairs(5), 2))
    assert [len(part) for part in found] == [2, 2, 1]
    assert list(pd.concat(found)["sample_id"]) == list(pairs()["sample_id"])
    assert list(found[2].index) == [0]


@pytest.mark.parametrize(
    ("one", "other"),
    [(["ab", "c"], ["a", "bc"]), ([1], ["1"]), ([[1], 2], [[1, 2]]), ([0.1], [0.1 + 1e-16 * 2]), ([None], [])],
)
def test_unlike_values_have_unlike_digests(one, other):
    assert digest_of(*one) != digest_of(*other)


def test_equal_values_have_equal_digests():
    assert digest_of({"a": 1, "b": (2,)}, pairs()) == digest_of({"b": (2,), "a": 1}, pairs())


def test_an_image_is_looked_at_where_it_is_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.png").write_bytes(b"one")
    before = image_state(pd.Series(["image.png"]))
    assert before[0][1] == 3, "a path that starts at the working folder"
    (tmp_path / "image.png").write_bytes(b"another")
    assert image_state(pd.Series(["image.png"])) != before
    assert image_state(pd.Series(["gone.png", None, float("nan")], dtype=object)) == [
        ("gone.png", 0, 0, 0), ("None", 0, 0, 0), ("nan", 0, 0, 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "cells",
    [
        pd.date_range("2024-01-01", periods=3),
        pd.date_range("2024-01-01", periods=3, tz="Europe/Vienna"),
        pd.Series([pd.Timestamp("2024-01-01"), pd.NaT, pd.Timestamp("2024-01-01T00:00:00.000000001")]),
        [datetime.date(2024, 1, day) for day in (1, 2, 3)],
        [datetime.time(hour) for hour in (1, 2, 3)],
        pd.to_timedelta([1, 2, 3], unit="s"),
        pd.array([1, None, 3], dtype="Int64"),
        pd.array(["a", None, "c"], dtype="string"),
        pd.Categorical(["a", "b", "c"]),
        pd.period_range("2024-01", periods=3, freq="M"),
        [Decimal("1.5"), Decimal("1.25"), None],
        [UUID(int=1), UUID(int=2), UUID(int=3)],
    ],
    ids=["days", "zone", "moments", "dates", "times", "durations", "integers", "text", "categories", "months",
         "decimals", "names"],
)  # fmt: skip
def test_further_columns_of_own_pairs_belong_to_what_a_part_was_made_from(tmp_path, cells):
    parts, rows = Checkpoints(tmp_path, "key"), pairs(3).assign(taken=cells)
    parts.put(rows, rows[["sample_id", "value"]])
    assert parts.get(rows.copy()) is not None
    assert parts.get(rows.assign(taken=rows["taken"].to_numpy()[::-1])) is None, "another value, another part"


def test_what_cannot_be_told_apart_is_refused_in_a_sentence():
    with pytest.raises(VlmtraceError, match="A value of type object cannot identify a computation"):
        digest_of(pairs().assign(thing=[object() for _ in range(5)]))
