"""Tables on disk say what pandas says of the same rows, however few of them are in memory at a time."""

import numpy as np
import pandas as pd
import pytest
from fixtures.contract import complete

from vlmtrace.core import stored
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_read
from vlmtrace.core.stored import StoredTable, in_memory, open_stored, values_of
from vlmtrace.core.stored_rows import agreeing, plain_text
from vlmtrace.methods.attribution.gradients import mean_head_effects
from vlmtrace.methods.circuits import head_table, notice_rule
from vlmtrace.methods.circuits.cells import pair_effects


def effects(n_pairs: int = 14, seed: int = 0) -> pd.DataFrame:
    """Two corruptions, all rows of a pair together; prompts of different lengths."""
    rows = [
        (f"pair-{pair:02d}", f"unit-{pair // 2:02d}", corruption, layer, head, position)
        for corruption in ("image", "text")
        for pair in range(n_pairs)
        for layer in range(2)
        for head in range(3)
        for position in range(4 + pair % 3)
    ]
    table = pd.DataFrame(rows, columns=["sample_id", "unit", "corruption", "layer", "head", "position"])
    noise = np.random.default_rng(seed).normal(size=(3, len(table)))
    table = table.assign(block="text_encoder", module="cross_attention", token="word")
    table["token_role"] = table["position"].map({1: "correct", 2: "correct"}).fillna("noun")
    table = table.assign(patching_effect=noise[0], logit_diff=noise[1].astype(np.float32))
    return complete("head_patching", table.assign(p_diff=noise[2].astype(np.float32)))


def on_disk(table: pd.DataFrame, folder, name: str = "table") -> StoredTable:
    table.to_parquet(folder / f"{name}.parquet", index=False)
    return open_stored(folder / f"{name}.parquet")


@pytest.fixture(params=[10_000, 100, 7], ids="{} rows at a time".format)
def few_rows(request, monkeypatch):
    """Rows in memory at a time: all, some pairs, less than a pair."""
    monkeypatch.setattr(stored, "BATCH_ROWS", request.param)
    return request.param


def test_rows_come_back_as_they_were(tmp_path, few_rows):
    table = effects()
    found = on_disk(table, tmp_path)
    pd.testing.assert_frame_equal(found.read(), pd.read_parquet(tmp_path / "table.parquet"))
    assert len(found) == len(table) and list(found.columns) == list(table.columns) and not found.empty
    pd.testing.assert_frame_equal(found.head(3), found.read().head(3))
    assert found.unique("corruption") == ["image", "text"] == values_of(table, "corruption")


def test_a_pair_is_never_taken_apart(tmp_path, few_rows):
    batches = list(on_disk(effects(), tmp_path).batches())
    assert (len(batches) > 5) == (few_rows < 1000)
    seen = set()
    for batch in batches:
        pairs = set(zip(batch["sample_id"], batch["corruption"], strict=True))
        assert not seen & pairs, f"{seen & pairs} stand in several batches"
        seen |= pairs
    assert len(seen) == 28


@pytest.mark.filterwarnings("ignore:.*independent pairs")
def test_statistics_of_heads_are_the_same_to_the_last_bit(tmp_path, few_rows):
    table = effects()
    found = on_disk(table, tmp_path).assign(task="t")
    whole = found.read()
    options = {"n_boot": 50, "n_permutations": 200}
    pd.testing.assert_frame_equal(head_table(found, **options), head_table(whole, **options), check_exact=True)
    pd.testing.assert_frame_equal(notice_rule(found), notice_rule(whole), check_exact=True)
    pd.testing.assert_frame_equal(pair_effects(found), pair_effects(whole), check_exact=True)
    half = whole[["task", "sample_id"]].drop_duplicates()[::2]
    chosen = whole[whole["sample_id"].isin(half["sample_id"])]
    pd.testing.assert_frame_equal(
        head_table(found.only(half), **options), head_table(chosen, **options), check_exact=True
    )


def test_means_are_those_of_pandas(tmp_path, few_rows):
    table = effects()
    table.loc[table["sample_id"] == "pair-03", "patching_effect"] = np.nan
    found = on_disk(table, tmp_path)
    by = ["corruption", "layer", "token_role"]
    expected = table.groupby(by, sort=False)["patching_effect"].mean()
    pd.testing.assert_series_equal(found.means(by, "patching_effect"), expected, rtol=1e-12)
    image = found.only(corruption="image")
    per_head = mean_head_effects(table[table["corruption"] == "image"])
    pd.testing.assert_series_equal(mean_head_effects(image), per_head, rtol=1e-12)
    both = mean_head_effects(table)
    pd.testing.assert_series_equal(mean_head_effects(found), both, rtol=1e-12)


def test_chosen_rows(tmp_path, few_rows):
    table = pd.concat([effects().assign(task=task) for task in "ab"], ignore_index=True)
    found = on_disk(table, tmp_path)
    rows = pd.DataFrame({"task": ["a", "b", "b"], "sample_id": ["pair-01", "pair-02", "nobody"]})
    chosen = found.only(rows).only(corruption="text")
    kept = (table["task"] + table["sample_id"]).isin(["apair-01", "bpair-02"]) & (table["corruption"] == "text")
    assert len(chosen) == kept.sum() > 0
    assert (chosen.read()["patching_effect"].to_numpy() == table.loc[kept, "patching_effect"].to_numpy()).all()
    assert found.only(sample_id="nobody").empty and list(found.only(sample_id="nobody").read()) == list(table)
    with pytest.raises(VlmtraceError, match="no column 'seed' to choose rows by"):
        found.only(seed=1).read()


@pytest.mark.parametrize("sought", [5, None, np.nan, 0.5])
@pytest.mark.parametrize("column", ["sample_id", "corruption", "token_role", "layer", "task", "note"])
def test_a_value_of_another_kind_chooses_what_it_chooses_of_pandas(tmp_path, column, sought, monkeypatch):
    monkeypatch.setattr(stored, "BATCH_ROWS", 100)
    table = effects().assign(note=None, task="a")
    table.loc[:20, ["layer", "token_role"]] = None
    found = on_disk(table.drop(columns="task"), tmp_path).assign(task="a")
    expected = stored.choose(table, **{column: sought})
    assert len(stored.choose(found, **{column: sought})) == len(expected)
    assert len(stored.choose(found, **{column: sought}).read()) == len(expected)


def test_a_batch_without_a_text_is_text(tmp_path, monkeypatch):
    table = pd.DataFrame({"sample_id": list("aabb"), "note": [None, None, "x", "y"], "more": ["x", None, None, None]})
    monkeypatch.setattr(stored, "BATCH_ROWS", 2)
    found = on_disk(table, tmp_path)
    pd.testing.assert_frame_equal(found.read(), pd.read_parquet(tmp_path / "table.parquet"))
    pd.testing.assert_frame_equal(found.only(note="nobody").read(), found.read().head(0))


@pytest.mark.parametrize("value", [None, np.nan, 3, 2.5, "text", True])
@pytest.mark.parametrize("column", ["new", "layer", "token_role", "sample_id", "corruption"])
def test_a_column_of_one_value_is_added_or_replaced_as_pandas_does(tmp_path, monkeypatch, column, value):
    monkeypatch.setattr(stored, "BATCH_ROWS", 50)
    table = effects(4)
    found = on_disk(table, tmp_path)
    assert found.holds_pairs_together()
    found = found.assign(**{column: value})
    expected = pd.read_parquet(tmp_path / "table.parquet").assign(**{column: value})
    pd.testing.assert_frame_equal(found.read(), expected)
    together = pd.concat([plain_text(batch) for batch in found.batches()], ignore_index=True)
    pd.testing.assert_frame_equal(together, expected)
    assert len(found.only(**{column: value})) == (0 if pd.isna(value) else len(table))


def test_what_cannot_be_assigned_gets_a_sentence(tmp_path):
    found = on_disk(effects(4), tmp_path)
    with pytest.raises(VlmtraceError, match="was given a list: give a text, a number, or None"):
        found.assign(new=[1, 2])
    with pytest.raises(VlmtraceError, match="Rows were chosen by 'corruption'"):
        found.only(corruption="image").assign(corruption="text")


def test_agreeing_takes_columns_together():
    table = pd.DataFrame({"a": ["x", "x", "y", "y"], "b": [1, 2, 1, 3]})
    rows = pd.DataFrame({"a": ["x", "y"], "b": [1, 3]})
    assert agreeing(table, rows).tolist() == [True, False, False, True]
    assert agreeing(table.astype({"a": "category"}), rows).tolist() == [True, False, False, True]


@pytest.mark.filterwarnings("ignore:.*independent pairs")
def test_a_table_in_another_order_is_read_whole(tmp_path, few_rows):
    table = effects().sample(frac=1, random_state=0, ignore_index=True)
    found = on_disk(table, tmp_path).assign(task="t")
    assert not found.holds_pairs_together() and len(list(found.batches())) == 1
    means = ["corruption", "layer", "head", "mean_effect", "p_value"]
    options = {"n_boot": 50, "n_permutations": 200}
    ordered = head_table(effects().assign(task="t"), **options)
    heads = head_table(found, **options).sort_values(["corruption", "layer", "head"], ignore_index=True)
    pd.testing.assert_frame_equal(heads[means], ordered[means])


def test_the_contract_is_checked_some_pairs_at_a_time(tmp_path, few_rows):
    assert len(check_read("head_patching", on_disk(effects(), tmp_path)))
    twice = pd.concat([effects(), effects().tail(1)])
    with pytest.raises(VlmtraceError, match="holds a row twice"):
        check_read("head_patching", on_disk(twice, tmp_path))
    wrong = effects().assign(p_correct=2.0)
    wrong.loc[len(wrong) - 1, "p_correct"] = np.inf
    with pytest.raises(VlmtraceError, match=r"'p_correct' of the head_patching table \(here\) must hold finite"):
        check_read("head_patching", on_disk(wrong, tmp_path), "here")
    with pytest.raises(VlmtraceError, match="has no rows: run 05_head_patching again"):
        check_read("head_patching", on_disk(effects().head(0), tmp_path))
    with pytest.raises(VlmtraceError, match="has no column 'layer'"):
        check_read("head_patching", on_disk(effects().drop(columns="layer"), tmp_path))


def test_what_is_no_table_gets_a_sentence(tmp_path):
    with pytest.raises(VlmtraceError, match="There is no table"):
        open_stored(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(VlmtraceError, match="is not a readable parquet table"):
        open_stored(tmp_path / "text.parquet")


def test_damaged_pages_get_a_sentence(tmp_path):
    on_disk(effects(200), tmp_path)
    path = tmp_path / "table.parquet"
    content = bytearray(path.read_bytes())
    content[100:4000] = b"\xff" * 3900
    path.write_bytes(content)
    with pytest.raises(VlmtraceError, match="is not a readable parquet table"):
        open_stored(path).read()


def test_a_table_that_is_replaced_meanwhile_stays_what_it_was(tmp_path):
    found = on_disk(effects(), tmp_path)
    before = found.read()
    (tmp_path / "new.parquet").write_bytes((tmp_path / "table.parquet").read_bytes())
    effects(seed=1).to_parquet(tmp_path / "new.parquet", index=False)
    (tmp_path / "new.parquet").replace(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(found.read(), before)


def test_text_is_text_again():
    table = pd.DataFrame({"a": pd.Categorical(["x", None]), "b": [1, 2]})
    assert plain_text(table)["a"].tolist()[0] == "x" and plain_text(table)["a"].isna().tolist() == [False, True]
    assert in_memory(table) is table


def test_head_gives_as_many_rows_as_asked_for(tmp_path, few_rows):
    found = on_disk(effects(), tmp_path)
    for n in (0, 1, 9, 250):
        pd.testing.assert_frame_equal(found.head(n), found.read().head(n))
    scattered = found.only(layer=1, head=2, position=3)
    pd.testing.assert_frame_equal(scattered.head(20), scattered.read().head(20))
    assert len(scattered.head(10**6)) == len(scattered) == 28 and list(found.only(layer=7).head()) == found.columns
