"""run.json of another shape is one sentence, whoever reads it, and stays as it is."""

import json

import pandas as pd
import pytest
from click.testing import CliRunner
from fixtures.contract import complete
from matplotlib.figure import Figure

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.cli import main
from vlmtrace.pipeline.records import upstream
from vlmtrace.pipeline.report import write_report
from vlmtrace.pipeline.runs import open_run

STAGE = {"parameters": {}, "reads": {}, "writes": {}, "figures": []}


def with_stage(**changes):
    return {"parameters": {}, "stages": {"t/02_evaluate": {**STAGE, **changes}}}


def without(name):
    return {"parameters": {}, "stages": {"s": {key: value for key, value in STAGE.items() if key != name}}}


SHAPES = {
    "list": [],
    "text": "stages",
    "number": 3,
    "null": None,
    "empty object": {},
    "no parameters": {"stages": {}},
    "stages a list": {"parameters": {}, "stages": []},
    "stage a text": {"parameters": {}, "stages": {"s": "done"}},
    "stage leads elsewhere": {"parameters": {}, "stages": {"../../x": STAGE}},
    "stage with many slashes": {"parameters": {}, "stages": {"a/b/c": STAGE}},
    "model a number": {"parameters": {"model": 3}, "stages": {}},
    "versions a list": {"parameters": {}, "stages": {}, "versions": []},
    "beside a number": {"parameters": {}, "stages": {}, "beside": 3},
    "made_from a list": {"parameters": {}, "stages": {}, "made_from": []},
    **{f"no {name}": without(name) for name in STAGE},
    "parameters a list": with_stage(parameters=[]),
    "digest a number": with_stage(writes={"t/evaluated": 3}),
    "table leads elsewhere": with_stage(reads={"../../etc/passwd": "d"}),
    "table is absolute": with_stage(reads={"/etc/passwd": "d"}),
    "figures a text": with_stage(figures="a"),
    "figure a text": with_stage(figures=["a"]),
    "figure without caption": with_stage(figures=[{"name": "a"}]),
    "figure leads elsewhere": with_stage(figures=[{"name": "../../x", "caption": ""}]),
    "seconds a text": with_stage(seconds="long"),
    "finished a number": with_stage(finished=3),
    "tasks a text": with_stage(parameters={"tasks": "all"}),
    "a task leads elsewhere": with_stage(parameters={"tasks": [".."]}),
}


@pytest.fixture(autouse=True)
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    run = open_run("r")
    stage = run.stage("01_preprocess", "t", seed=0)
    stage.finish(pairs=complete("pairs", pd.DataFrame({"sample_id": ["a"]})))
    return run


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_record_of_another_shape_is_a_sentence_and_stays(run, shape):
    content = json.dumps(shape)
    (run.folder / "run.json").write_text(content)
    table = run.path("pairs", "t").read_bytes()
    new = complete("pairs", pd.DataFrame({"sample_id": ["b"]}))
    uses = {
        "read": lambda: run.stage("02_evaluate", "t").read("pairs"),
        "finish": lambda: run.stage("01_preprocess", "t").finish(pairs=new),
        "remember": lambda: run.remember("t/01_preprocess", {}),
        "report": lambda: write_report(run),
    }
    for name, use in uses.items():
        with pytest.raises(VlmtraceError, match=r"run\.json is not a record of vlmtrace \(.+\): put back") as caught:
            use()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500, name
        assert (run.folder / "run.json").read_text() == content, f"{name} changed run.json"
        assert run.path("pairs", "t").read_bytes() == table, f"{name} changed a table"


@pytest.mark.parametrize("content", [b"", b"{", b'{"stages": {"t/01', b"[" * 10**5, b"\xff\x00", b"9" * 5000])
def test_a_damaged_record_is_a_sentence_of_the_command_line(run, content):
    (run.folder / "run.json").write_bytes(content)
    done = CliRunner().invoke(main, ["report", "--run", "r"])
    assert done.exit_code == 1 and done.output.startswith("Error: ") and len(done.output.splitlines()) == 1
    assert "run.json is not valid JSON" in done.output and (run.folder / "run.json").read_bytes() == content


def test_a_folder_in_place_of_the_record_is_a_sentence(run):
    (run.folder / "run.json").unlink()
    (run.folder / "run.json").mkdir()
    with pytest.raises(VlmtraceError, match=r"run\.json cannot be read"):
        run.record()


def test_what_an_editor_puts_before_a_record_does_not_matter(run):
    path = run.folder / "run.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert list(run.record()["stages"]) == ["t/01_preprocess"]


def test_a_circle_in_a_record_ends(run):
    one = {**STAGE, "reads": {"y": "1"}, "writes": {"x": "2"}}
    circle = {"a": one, "b": {**STAGE, "reads": {"x": "2"}, "writes": {"y": "1"}}}
    assert [name for name, _ in upstream("x", circle)] == ["b", "a"]
    own = {"a": {**STAGE, "reads": {"x": "1"}, "writes": {"x": "1"}}}
    assert [name for name, _ in upstream("x", own)] == ["a"]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a\nb", "x" * 300, "a\0b"])
@pytest.mark.parametrize("use", ["table", "stage", "figure"])
def test_a_name_that_leads_out_of_the_run_is_a_sentence(run, use, name):
    stage = run.stage("01_preprocess", "t")
    with pytest.raises(VlmtraceError, match=r"cannot be called .*: its name becomes a file of the run"):
        if use == "table":
            run.path(name)
        elif use == "stage":
            run.stage(name)
        else:
            stage.task = None
            stage.figure(Figure(), name)


@pytest.mark.parametrize("task", ["../x", "a/b", ".", "..", "x" * 300, "a\0b"])
def test_a_task_that_leads_out_of_the_run_is_a_sentence(run, task):
    for use in (
        lambda: run.path("pairs", task),
        lambda: run.stage("01_preprocess", task),
        lambda: run.table("a", task),
    ):
        with pytest.raises(VlmtraceError, match="task cannot be called"):
            use()


@pytest.mark.parametrize("name", ["con", "NUL", "aux.txt", "lpt1", "a.", "..", "x" * 256, "ä", "a\n", "a\0", "٣"])
def test_a_run_has_a_name_that_every_system_can_write(name):
    with pytest.raises(VlmtraceError, match="A run cannot be called") as caught:
        open_run(name)
    assert len(str(caught.value)) < 250
