"""The table contract: what keeps it passes unchanged, what breaks it is refused by one sentence."""

import ast
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fixtures.contract import complete

import vlmtrace
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import (
    TABLES,
    check_columns,
    check_read,
    check_written,
    tables_markdown,
    validate_pairs,
    written_by,
)
from vlmtrace.pipeline.stages import stages

PACKAGE = Path(vlmtrace.__file__).parent


def objects(*values):
    """A column that may hold what a column of text cannot: half a character."""
    return pd.Series(values, dtype=object)


def test_a_good_table_passes_unchanged(random_pairs):
    pd.testing.assert_frame_equal(validate_pairs(random_pairs), random_pairs)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda t: t.drop(columns="category"), "no column 'category'"),
        (
            lambda t: t.rename(columns={"clean_image": "clean_img"}),
            "no column 'clean_image': rename 'clean_img'",
        ),
        # A column that is needed itself is no misspelled one.
        (lambda t: t.drop(columns="clean_prompt"), "no column 'clean_prompt': it has sample_id, "),
        (lambda t: t.drop(columns="clean_image"), "no column 'clean_image': it has sample_id, "),
        (lambda t: t.drop(columns="correct_answer"), "no column 'correct_answer': it has sample_id, "),
        (
            lambda t: t.drop(columns="category").assign(**{f"column {i}": i for i in range(50)}),
            r"no column 'category': it has sample_id, .* and \d+ more\.",
        ),
        (
            lambda t: t.drop(columns="clean_image").assign(clean_images=[["a.png", "b.png"]] * len(t)),
            "has 'clean_images' and no column 'clean_image': name in it the first image",
        ),
        (
            lambda t: t.assign(clean_image=[Path(path) for path in t["clean_image"]]),
            r"must hold text, not .*Path.*: write them as text \(str\)\.",
        ),
        (lambda t: t.assign(clean_image=[{"bytes": b"x"}] * len(t)), "holds images: write them to files with vt.save"),
        (
            lambda t: t.assign(clean_object_masks=[["a.png", "b.png"]] * len(t)),
            "clean_object_masks lists 2 masks, and clean_images no images",
        ),
        (lambda t: t.assign(sample_id="pair-3"), "sample_id 'pair-3' more than once .7 rows"),
        (lambda t: pd.concat([t, t[["category"]]], axis=1), "has the column 'category' more than once: rename or drop"),
        (
            lambda t: t.assign(clean_prompt=objects("a \ud800 or b?", *t["clean_prompt"][1:])),
            r"column 'clean_prompt', row 'pair-0', holds half a character.*\\ud800.*: write it anew",
        ),
        (lambda t: t.assign(note=objects("\udfff", *range(7))), "column 'note', row 'pair-0', holds half"),
        (lambda t: t.assign(sample_id=objects("\ud800", *t["sample_id"][1:])), "column 'sample_id', row 0, holds half"),
        (
            lambda t: pd.concat([t, pd.DataFrame(0, index=t.index, columns=range(200_000))], axis=1),
            "has 200,0.. columns, more than 5,000: give one row per sample",
        ),
        (
            lambda t: t.assign(correct_first="yes"),
            "'correct_first' of the pairs table must hold true or false, not 'yes'",
        ),
        (lambda t: t.assign(category=3), "'category' of the pairs table must hold text, not 3"),
        (
            lambda t: t.assign(clean_prompt=["", *t["clean_prompt"][1:]]),
            "column 'clean_prompt', row 'pair-0', is empty",
        ),
        (
            lambda t: t.assign(correct_answer=[*t["correct_answer"][:-1], None]),
            "column 'correct_answer', row 'pair-7', is empty",
        ),
        (lambda t: t.iloc[:0], "has no rows: build it with load_pairs"),
    ],
)
def test_broken_tables(random_pairs, spoil, sentence):
    with pytest.raises(VlmtraceError, match=sentence):
        validate_pairs(spoil(random_pairs.copy()))


def test_columns_of_ones_own_may_hold_anything(random_pairs):
    own = random_pairs.assign(seen_combination="True", split=3, weight=[object()] * len(random_pairs))
    pd.testing.assert_frame_equal(validate_pairs(own), own)


# Kinds


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("integer", [1, 2], [1.5]),
        ("integer", [1.0, np.nan], ["1"]),
        ("integer", pd.array([1, None], dtype="Int64"), [True]),
        ("number", np.array([0.5], dtype=np.float32), ["0.5"]),
        ("number", [1, 2], [True]),
        ("text", ["a", None], [1]),
        ("text", pd.Categorical(["a", "b"]), ["a", 1]),
        ("boolean", [True, False], [0, 1]),
        ("boolean", [True, None], ["True"]),
    ],
)
def test_kinds_are_loose_but_not_blind(kind, good, bad):
    column = next(column for column in TABLES["evaluated"].columns if column.kind == kind)
    assert column.fits(pd.Series(good)) and not column.fits(pd.Series(bad))
    assert column.fits(pd.Series([None, None], dtype=object)), "a column without values is of any kind"


# Reading and writing


def test_a_written_table_that_breaks_the_contract_is_a_sentence():
    table = complete("heads", pd.DataFrame({"head": [0, 1]}))
    assert check_written("heads", table) is table
    with pytest.raises(VlmtraceError, match="The heads table has no column 'q_value'"):
        check_written("heads", table.drop(columns="q_value"))
    with pytest.raises(VlmtraceError, match="'layer' of the heads table must hold whole numbers, not 'first'"):
        check_written("heads", table.assign(layer="first"))


def test_a_table_read_from_elsewhere_names_its_file():
    with pytest.raises(VlmtraceError, match=r"The pairs table \(data/x\.parquet\) has no column 'sample_id'"):
        check_read("pairs", pd.DataFrame({"a": [1]}), "data/x.parquet")


def test_a_table_that_the_contract_does_not_know_is_ones_own():
    own = pd.DataFrame({"a": [1]})
    assert check_written("mine", own) is own and check_read("mine", own) is own


def test_only_some_tables_may_have_no_columns():
    assert check_written("head_functions", pd.DataFrame()).empty
    with pytest.raises(VlmtraceError, match="it has no columns"):
        check_written("heads", pd.DataFrame())


# The contract itself


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_column_is_explained(table):
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    assert table.meaning.startswith("One row per") and table.meaning.endswith(".")
    for column in table.columns:
        assert column.meaning and not column.meaning.endswith("."), f"{table.name}.{column.name}"
        assert bool(column.unit) or column.kind != "number", f"{table.name}.{column.name} is a number without a unit"


@pytest.mark.parametrize("stage", stages().values(), ids=stages())
def test_stages_write_the_tables_that_the_contract_gives_them(stage):
    assert set(stage.writes) == set(written_by(stage.name))
    assert all(TABLES[name].per_task == (stage.per == "task") for name in written_by(stage.name))


def test_every_table_is_written_by_a_stage_or_handed_over():
    assert {table.notebook for table in TABLES.values()} <= {*stages(), ""}


def test_the_page_has_a_section_for_every_table_and_a_row_for_every_column():
    page = tables_markdown()
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == list(TABLES)
    assert page.count("\n| `") == sum(len(table.columns) for table in TABLES.values())
    assert "| `patching_effect` | number | share of LD_clean − LD_corrupt |" in page


def calls_with_columns():
    """Every check of a table of the contract whose columns are written out: file, table, column."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 3:
                columns, name = node.args[1:]
                checks = node.func.id in ("check_table", "check_columns") and isinstance(name, ast.Constant)
                if checks and isinstance(columns, (ast.List, ast.Tuple)):
                    written = {element.value for element in columns.elts if isinstance(element, ast.Constant)}
                    yield from ((path, name.value, column) for column in written if name.value in TABLES)


def test_code_asks_for_columns_that_the_contract_has():
    found = list(calls_with_columns())
    assert len(found) > 20, "the search finds nothing any more"
    for path, table, column in found:
        known = [known.name for known in TABLES[table].columns]
        assert column in known, f"{path.relative_to(PACKAGE)} asks the {table} table for {column!r}"


# Tables that were tampered with


def patched_heads(n=2):
    """Rows of head_patching that keep the contract."""
    rows = pd.DataFrame({"sample_id": [f"s{i}" for i in range(n)], "head": 0, "position": 1})
    return complete("head_patching", rows)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"corruption": ["image", "sound"]}, "'corruption' .* must hold image or text, not 'sound'"),
        ({"module": "mpl"}, "'module' .* must hold residual or mlp or self_attention or cross_attention, not 'mpl'"),
        ({"block": "decoder"}, "'block' .* must hold vision_encoder or .*, not 'decoder'"),
        ({"direction": "forwards"}, "'direction' .* must hold denoising or noising, not 'forwards'"),
        ({"layer": [0, -1]}, "'layer' .* must hold numbers of at least 0, not -1"),
        ({"head": [-3.0, 1.0]}, "'head' .* must hold numbers of at least 0, not -3"),
        ({"head": [np.inf, 1.0]}, "'head' .* must hold whole numbers, not inf"),
        ({"logit_diff": [np.inf, 1.0]}, "'logit_diff' .* must hold finite numbers, not inf"),
        ({"patching_effect": [-np.inf, 1.0]}, "'patching_effect' .* must hold finite numbers, not -inf"),
        ({"logit_diff": [0.1, np.nan]}, "'logit_diff', row 's1', is empty"),
        ({"layer": [1.0, np.nan]}, "'layer', row 's1', is empty"),
        ({"token": [None, "a"]}, "'token', row 's0', is empty"),
        ({"layer": ["1", "2"]}, "'layer' .* must hold whole numbers, not '1'"),
        ({"token": [["a"], ["b"]]}, r"'token' .* must hold text, not \['a'\]"),
        ({"logit_diff": [b"x" * 999, b"y"]}, "'logit_diff' .* must hold numbers, not b'x+…"),
        (
            {"sample_id": "s0"},
            "holds a row twice .corruption 'image', sample_id 's0', .* position 1; 1 too many",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_table_that_was_tampered_with_is_a_sentence(change, sentence):
    assert check_read("head_patching", patched_heads()).shape == patched_heads().shape
    broken = patched_heads().assign(**change)
    with pytest.raises(VlmtraceError, match=rf"head_patching table.*{sentence}|{sentence}") as caught:
        check_read("head_patching", broken, "data/x.parquet")
    assert "data/x.parquet" in str(caught.value) and "\n" not in str(caught.value)


def test_an_effect_may_be_missing_where_the_contract_says_so():
    table = patched_heads().assign(patching_effect=[np.nan, 0.5])
    assert check_read("head_patching", table) is table


def test_both_directions_of_one_head_are_no_row_twice():
    both = pd.concat([patched_heads().assign(direction=name) for name in ("denoising", "noising")])
    assert check_read("head_patching", both) is both


@pytest.mark.parametrize("name", ["pairs", "evaluated", "selected", "module_patching", "head_patching", "heads"])
def test_a_table_without_rows_says_what_to_run(name):
    empty = complete(name, pd.DataFrame({"a": [1]})).iloc[:0]
    with pytest.raises(VlmtraceError, match=rf"The {name} table \(x\) has no rows: run {TABLES[name].notebook} again"):
        check_read(name, empty, "x")


def test_a_table_that_may_be_empty_is_taken_without_rows():
    empty = complete("universal_heads", pd.DataFrame({"a": [1]})).iloc[:0]
    assert check_read("universal_heads", empty) is empty


def test_two_columns_of_one_name_are_a_sentence():
    table = patched_heads()
    twice = pd.concat([table, table[["layer"]]], axis=1)
    with pytest.raises(VlmtraceError, match="head_patching table has 2 columns 'layer': keep one of them"):
        check_read("head_patching", twice)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_keys_and_values_of_the_contract_fit_together(table):
    names = {column.name for column in table.columns} | {"task", "direction"}
    assert set(table.key) <= names, "a key names a column that the contract lacks"
    for column in table.columns:
        assert column.kind == "text" or not column.values
        assert column.kind in ("integer", "number") or column.least is None
        for value in column.values:
            assert value in column.meaning or len(column.values) == 2, (
                f"{table.name}.{column.name} does not tell {value}"
            )


def test_of_a_column_of_videos_it_is_said_what_can_be_done():
    with pytest.raises(VlmtraceError, match="'clean_image': a video is not read: save frames of it as images"):
        check_columns(pd.DataFrame({"clean_video": ["a.mp4"]}), ["clean_image"], "pairs")
