"""Tables of a run that come from elsewhere: report, comparison and stages take them rightly or say one sentence."""

import itertools

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from fixtures.contract import complete
from fixtures.finished_run import finished_run

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import TABLES
from vlmtrace.pipeline.cli import main
from vlmtrace.pipeline.findings import findings
from vlmtrace.pipeline.first_screen import first_screen
from vlmtrace.pipeline.report import write_report

#: The tables that the report reads, and the task whose table it is.
READ: dict[str, str | None] = dict.fromkeys(
    ["evaluated", "selected", "module_patching", "head_patching", "whole_heads"], "t"
) | dict.fromkeys(["heads", "universal_heads", "head_functions", "faithfulness", "circuits"])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run with all tables that the report reads."""
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    # Drawing takes seconds, hundreds of times.
    monkeypatch.setattr("vlmtrace.pipeline.first_screen.mean_maps", lambda *_: [])
    run = finished_run(figures=False)
    pairs = run.table("selected", "t")["sample_id"]
    rows = itertools.product(pairs, range(2), ["denoising", "noising"])
    sites = pd.DataFrame(rows, columns=["sample_id", "layer", "direction"]).assign(
        block="text_encoder", module="cross_attention", head=0, position=1, patching_effect=0.5, token_role="correct"
    )
    for name in ("module_patching", "head_patching", "whole_heads"):
        both = name == "whole_heads"
        table = sites.assign(block="text_decoder") if both else sites[sites["direction"] == "denoising"]
        complete(name, table).to_parquet(run.path(name, "t"))
    functions = pd.DataFrame({"region": ["object", "background"], "function": "object detection"})
    complete("head_functions", functions).to_parquet(run.path("head_functions"))
    return run


def columns_of_others(table):
    """What changes one column: what it is, and the table."""
    for column in table:
        yield f"without {column}", table.drop(columns=column)
        yield f"{column} all missing", table.assign(**{column: np.nan})
        yield f"{column} as lists", table.assign(**{column: [[1]] * len(table)})
        yield f"{column} as text", table.assign(**{column: "a"})
        yield f"{column} as numbers", table.assign(**{column: -1.5})
        yield f"{column} infinite", table.assign(**{column: np.inf})


def tables_of_others(table):
    """What changes a table as a whole."""
    yield "no rows", table.iloc[:0]
    yield "no columns", pd.DataFrame()
    yield "rows twice", pd.concat([table, table])
    yield "one row", table.iloc[:1]
    yield "another index", table.set_index(table.columns[0])
    yield "columns turned round", table[table.columns[::-1]]
    yield "another table", pd.DataFrame({"a": [1]})
    yield (
        "pairs of others",
        table.assign(sample_id=[f"other-{i}" for i in range(len(table))]) if "sample_id" in table else table,
    )


@pytest.mark.medium
@pytest.mark.parametrize("name", READ)
def test_a_table_of_others_is_right_or_one_sentence(run, name):
    look(run, name, tables_of_others)


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_a_column_of_others_is_right_or_one_sentence(run, name):
    sentences = look(run, name, columns_of_others)
    assert sentences >= 2 * len(TABLES[name].required), "columns that the contract requires were not missed"


def look(run, name, variants):
    """The report's findings on every variant of a table; returns how many were refused by a sentence."""
    path = run.path(name, READ[name])
    table, record = run.table(name, READ[name]), run.record()
    sentences = 0
    for what, variant in variants(table):
        variant.to_parquet(path)
        content = path.read_bytes()
        try:
            first_screen(run, record, findings(run, record))
        except VlmtraceError as error:
            assert "\n" not in str(error) and len(str(error)) < 600, f"{name}, {what}: {error}"
            sentences += 1
        except Exception as error:
            raise AssertionError(f"{name}, {what}: {type(error).__name__}: {error}") from error
        assert path.read_bytes() == content, f"{name}, {what}: the table was changed"
    return sentences


@pytest.mark.parametrize("name", ["selected", "heads"])
def test_a_report_of_a_broken_table_leaves_the_old_report(run, name):
    page = write_report(run)
    before = page.read_text()
    table = run.table(name, READ[name])
    table.drop(columns=TABLES[name].required[-1]).to_parquet(run.path(name, READ[name]))
    done = CliRunner().invoke(main, ["report", "--run", "r"])
    assert done.exit_code == 1 and len(done.output.splitlines()) == 1
    assert f"{name}.parquet) has no column" in done.output and page.read_text() == before


def test_what_lies_beside_the_tables_is_no_table_of_the_run(run):
    for name in (".selected.abc-1.part.parquet", "t/.pairs.abc-1.part.parquet"):
        (run.folder / name).write_bytes(b"half")
    assert ".part." not in write_report(run).read_text()
    (run.folder / "mine.parquet").write_text("a,b\n1,2\n")
    with pytest.raises(VlmtraceError, match=r"mine\.parquet is not a readable parquet table"):
        write_report(run)


@pytest.mark.medium
@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[]", b'{"cells": 3}', b"[" * 10**5])
def test_an_executed_notebook_that_is_none_is_a_sentence(run, content):
    notebook = run.executed_notebook("02_evaluate", "t")
    notebook.parent.mkdir(parents=True, exist_ok=True)
    notebook.write_bytes(content)
    with pytest.raises(VlmtraceError, match=r"t-02_evaluate\.ipynb is not an executed notebook: delete it"):
        write_report(run)
    assert not (run.folder / "report/index.html").exists() and notebook.read_bytes() == content
