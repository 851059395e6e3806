"""`vlmtrace all` and `vlmtrace explore` run what is out of date, and nothing else.

Notebooks are declared as the real ones are, but executing one only writes the tables that it declares, as a stage does.
"""

import json
import os
import re
import signal

import pandas as pd
import pytest
from click.testing import CliRunner
from fixtures.stand_in_stages import ONE_TASK, A, B, make, stand_in_home, stand_in_stages

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import write_json
from vlmtrace.pipeline import cli, dependencies, kernels, schedule
from vlmtrace.pipeline import stages as declarations
from vlmtrace.pipeline.runs import open_run


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A data folder, notebooks that can be changed, and a package whose files can be changed."""
    with stand_in_home(tmp_path, monkeypatch) as home:
        yield home


@pytest.fixture
def ran(monkeypatch):
    """What ran, in order; a name in `failing` makes that stage fail."""
    return stand_in_stages(monkeypatch)


@pytest.fixture
def any_device(monkeypatch):
    """A machine that has every device."""
    monkeypatch.setattr(cli, "check_device", lambda name: None)


def test_the_pipeline_runs_once(ran):
    log, said = make(ran)
    assert log == [*ONE_TASK, "report"]
    assert said.splitlines()[-1].startswith("Done. Open ") and said.strip().endswith("index.html in a browser.")
    log, said = make(ran)
    assert log == []
    assert said.startswith("Nothing to do: run default is up to date. Open ")


def test_parameters_reach_the_notebooks(ran, any_device):
    make(
        ran,
        "--seed",
        "3",
        "--run",
        "x",
        "--samples",
        "9",
        "--device",
        "cuda:0",
        "--model",
        "some/model",
        "--revision",
        "v1",
    )
    shared = {"model": "some/model@v1", "seed": "3", "device": "cuda:0", "run": "x"}
    assert ran.given[0] == {**shared, "task": A, "samples": "9"}
    assert ran.given[1] == {**shared, "task": A}, "only the first stage is told how many pairs to make"
    assert [given for given in ran.given if "tasks" in given] == [{**shared, "tasks": A}]


def test_what_large_models_need_reaches_the_notebooks(ran):
    told = {
        "dtype": "bfloat16",
        "device_map": "auto",
        "quantization": "bitsandbytes-4bit",
        "attn_implementation": "eager",
        "max_pixels": "90000",
        "image_size": "448x336",
    }
    make(ran, *(word for name, value in told.items() for word in (f"--{name.replace('_', '-')}", value)))
    loads = [given for given in ran.given if "dtype" in given]
    assert len(loads) >= 4 and all(told.items() <= given.items() for given in loads)


@pytest.mark.parametrize(("said", "given"), [("yes", "True"), ("no", None), ("", None)])
def test_same_size_reaches_the_first_notebook(ran, said, given):
    make(ran, "--same-size", said)
    assert ran.given[0].get("same_size") == given


def test_a_place_and_a_question_reach_what_needs_them(ran, tmp_path):
    (tmp_path / "my data").mkdir()
    make(ran, "--root", str(tmp_path / "my data"), "--question", "Is it {a} or {b}?", tasks="folder rendered_svo")
    first = {given["task"]: given for given in ran.given if "task" in given and "root" in given}
    assert set(first) == {"folder"}, "the rendered world asks for no place"
    assert first["folder"]["root"] == str(tmp_path / "my data")
    assert first["folder"]["question"] == "Is it {a} or {b}?"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("--seed", "1"), [*ONE_TASK, "report"]),
        (("--model", "other/model", "--run", "default"), [*ONE_TASK, "report"]),
        (("--same-size", "yes"), [*ONE_TASK, "report"]),
        (("--samples", "5"), [*ONE_TASK, "report"]),
        (("--device", "cuda"), []),
        (("--dtype", "bfloat16"), [*ONE_TASK, "report"]),
        (("--max-pixels", "90000"), [*ONE_TASK, "report"]),
        (("--device-map", "auto"), []),
    ],
)
def test_a_changed_parameter_makes_again_what_depends_on_it(ran, any_device, change, expected):
    make(ran)
    assert make(ran, *change)[0] == expected
    assert make(ran, *change)[0] == []


def test_what_comes_out_the_same_makes_nothing_else_again(ran, home):
    make(ran)
    notebook = home / "notebooks" / "04_module_patching.ipynb"
    notebook.write_text(notebook.read_text().replace("patch_modules", "patch_modules  "))
    assert make(ran)[0] == [f"04 {A}", "report"], "06 does not read what 04 writes"
    notebook = home / "notebooks" / "05_head_patching.ipynb"
    notebook.write_text(notebook.read_text().replace("patch_heads", "patch_heads  "))
    assert make(ran)[0] == [f"05 {A}", "report"], "the same table came out, so that 06 would find nothing new"
    ran.content = "other numbers"
    notebook.write_text(notebook.read_text().replace("patch_heads  ", "patch_heads   "))
    assert make(ran)[0] == [f"05 {A}", "06", "report"]


def test_a_further_task_runs_that_task_and_the_circuits(ran):
    make(ran)
    assert make(ran, tasks=f"{A} {B}")[0] == [stage.replace(A, B) for stage in ONE_TASK] + ["report"]
    assert make(ran, tasks=f"{A} {B}")[0] == []


def test_replaced_weights_are_noticed_whatever_their_date(ran, home):
    make(ran)
    (home / "models/tiny-blip/model.safetensors").write_bytes(b"others!")
    assert make(ran)[0] == [*ONE_TASK, "report"]


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("core/schema", [*ONE_TASK, "report"]),
        ("tasks/mit_states", [f"01 {A}", "report"]),
        ("methods/evaluation/answers", [f"02 {A}", "report"]),
        ("methods/evaluation/selection", [f"03 {A}", "06", "report"]),
        ("methods/patching/sweeps", [f"05 {A}", "06", f"04 {A}", "report"]),
        ("models/blip", [f"01 {A}", f"02 {A}", f"05 {A}", "06", f"04 {A}", "report"]),
        ("methods/circuits/heads", ["06", "report"]),
        ("display/style", ["report"]),
        ("pipeline/report", ["report"]),
    ],
)
def test_changed_code_makes_again_what_its_numbers_decide_about(ran, monkeypatch, module, expected):
    make(ran)
    changed, original = (dependencies.PACKAGE / f"{module}.py"), dependencies.modules_of
    changed = changed if changed.exists() else dependencies.PACKAGE / module / "__init__.py"

    class Changed(type(changed)):
        def read_bytes(self):
            return super().read_bytes() + b"# changed\n"

    monkeypatch.setattr(
        dependencies,
        "modules_of",
        lambda package=dependencies.PACKAGE: {
            name: Changed(path) if path == changed else path for name, path in original(package).items()
        },
    )
    assert make(ran)[0] == expected


def test_a_table_that_was_edited_is_made_again_and_that_is_said(ran):
    make(ran)
    pd.DataFrame({"something": ["else"]}).to_parquet(open_run("default").path("selected", A))
    log, said = make(ran)
    assert log == [f"03 {A}", "report"]
    line = f"{A}/selected was changed after {A}/03_select_samples wrote it, by hand or by another program: "
    assert said.splitlines()[0] == f"{line}it is made again."


def test_a_stage_that_was_run_by_hand_with_other_parameters_is_made_again_and_that_is_said(ran):
    make(ran)
    run = open_run("default")
    stage = run.stage("03_select_samples", A, per_category=2)
    stage.finish(mine=pd.DataFrame({"other": [1]}))
    log, said = make(ran)
    assert log == [f"03 {A}", "report"]
    assert said.splitlines()[0].startswith(f"{A}/03_select_samples was run without make, or was interrupted: it is")
    assert make(ran)[0] == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stages": []}', "null", '{"parameters": {}, "stages": {"a": 1}}'])
def test_a_damaged_record_is_one_sentence_and_stays(ran, content):
    make(ran)
    record = open_run("default").folder / "run.json"
    before = record.read_text()
    record.write_text(content)
    log, said = make(ran, fails=True)
    assert log == [] and said.startswith("Error: ") and len(said.splitlines()) == 1 and "run.json is not" in said
    assert record.read_text() == content
    record.write_text(before)
    assert make(ran)[0] == []


@pytest.mark.parametrize(
    "made_from", [{}, {"a": 3}, {f"{A}/03_select_samples": "half"}, {f"{A}/03_select_samples": None}]
)
def test_half_of_what_make_remembers_makes_the_rest_again(ran, made_from):
    make(ran)
    run = open_run("default")
    record = run.record()
    write_json(
        {**record, "made_from": {**record["made_from"], f"{A}/03_select_samples": 1, **made_from}},
        run.folder / "run.json",
    )
    assert make(ran)[0] == [f"03 {A}", "report"], "03 comes out the same, so that nothing after it runs"
    write_json({**run.record(), "made_from": {}}, run.folder / "run.json")
    assert make(ran)[0] == [*ONE_TASK, "report"]
    assert make(ran)[0] == []


@pytest.mark.parametrize("when", [0, 2**33])
def test_dates_do_not_matter(ran, home, when):
    make(ran)
    for path in [*home.rglob("*")]:
        os.utime(path, (when, when))
    assert make(ran)[0] == [], "a date decided"


def test_deleted_tables_in_between_are_made_again(ran):
    make(ran)
    for table in ("pairs", "evaluated", "head_patching"):
        open_run("default").path(table, A).unlink()
    assert make(ran)[0] == [f"01 {A}", f"02 {A}", f"05 {A}", "report"]


def test_a_disk_that_refuses_is_one_sentence_before_anything_runs(ran, home):
    (home / "runs").write_text("a file in place of the folder")
    log, said = make(ran, fails=True)
    assert log == [] and "cannot be written, because a file lies where a folder must be" in said
    assert len(said.splitlines()) == 1


def test_explorers_of_both_bundled_models(ran):
    log, said = make(ran, target="explore")
    both = (
        ["00", "07", "09", "10", "11", "12", "13", "14", "15"],
        ["00", "07", "08", "09", "10", "11", "12", "13", "14", "15"],
    )
    assert log == [*both[0], *both[1], "report", "report tiny-llava"], "tiny-blip has no visual lens"
    assert "runs/default/report/index.html" in said and "runs/tiny-llava/report/index.html" in said
    assert make(ran, target="explore")[0] == []
    assert {given["model"] for given in ran.given if given["run"] == "tiny-llava"} == {"tiny-llava"}


def test_explorers_of_a_model_of_ones_own(ran, tmp_path):
    every = ["00", "07", "08", "09", "10", "11", "12", "13", "14", "15", "report llava"]
    assert make(ran, "--model", "some/llava", target="explore")[0] == every
    assert make(ran, "--model", "Salesforce/blip-vqa-base", target="explore")[0] == [
        "00",
        "07",
        "09",
        "10",
        "11",
        "12",
        "13",
        "14",
        "15",
        "report blip-vqa-base",
    ]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.json").write_text('{"model_type": "blip"}')
    mine = ["00", "07", "09", "10", "11", "12", "13", "14", "15", "report mine"]
    assert make(ran, "--model", str(tmp_path / "mine"), target="explore")[0] == mine


def test_a_run_of_tiny_llava_is_set_beside_one_of_tiny_blip(ran):
    log, _ = make(ran, "--model", "tiny-llava")
    assert log == [*ONE_TASK, *ONE_TASK, "report", "report tiny-llava"] or sorted(log) == sorted(
        [*ONE_TASK, "report", *ONE_TASK, "report tiny-llava"]
    )
    assert [given["model"] for given in ran.given].count("tiny-blip") == 6
    assert make(ran)[0] == [], "the run of tiny-blip must be the one that make all makes"


def test_explorers_leave_the_pipeline_alone(ran):
    make(ran)
    make(ran, target="explore")
    assert make(ran)[0] == []


def test_another_run_leaves_the_first_alone(ran):
    make(ran)
    assert make(ran, "--seed", "1", "--run", "other")[0] == [*ONE_TASK, "report other"]
    assert make(ran)[0] == [], "the second run made the first one out of date"


def test_a_lost_or_changed_table_is_made_again(ran):
    make(ran)
    open_run("default").path("head_patching", A).unlink()
    assert make(ran)[0] == [f"05 {A}", "report"]
    pd.DataFrame({"something": ["else"]}).to_parquet(open_run("default").path("selected", A))
    assert make(ran)[0] == [f"03 {A}", "report"]


def test_a_run_that_stopped_continues_there(ran):
    ran.failing = {"04"}
    log, said = make(ran, fails=True)
    assert log[-1] == f"04 {A}" and said.splitlines()[-1] == "Error: a sentence."
    ran.failing = set()
    assert make(ran)[0] == [f"04 {A}", "report"]


def test_what_a_model_cannot_be_asked_is_said_and_left_out(ran):
    everything = make(ran, target="explore")[0]
    ran.refused = {everything[0][:2]}
    log, said = make(ran, "--seed", "1", target="explore")
    assert log == everything, "the stages behind it and the report are made all the same"
    assert said.count("mine has no edges here. The stage is left out.") == 2, "once for each model"
    refused = [one for one in everything if one[:2] in ran.refused]
    assert make(ran, "--seed", "1", target="explore")[0] == refused, "it is asked again, as another model may lie there"


def test_a_failure_lets_what_runs_beside_it_finish(ran):
    ran.failing = {"04"}
    log, _ = make(ran, "--jobs", "2", fails=True)
    assert {f"04 {A}", f"05 {A}"} <= set(log)
    ran.failing = set()
    again = make(ran)[0]
    assert f"04 {A}" in again and f"05 {A}" not in again, "05 had finished"


@pytest.mark.parametrize("wrong", [("--model", "wrong"), ("--tasks", "wrong"), ("--samples", "0"), ("--jobs", "many")])
def test_a_wrong_name_stops_before_anything_is_touched(ran, wrong):
    make(ran)
    log, said = make(ran, *wrong, fails=True)
    assert log == [] and said.startswith("Error: ") and len(said.splitlines()) == 1
    assert make(ran)[0] == [], "a mistyped name made the run out of date"


@pytest.mark.parametrize("beside", ["nope", "default", "a b"])
def test_what_cannot_be_compared_with_is_said_before_anything_runs(ran, beside):
    log, said = make(ran, "--beside", beside, fails=True)
    assert log == [] and said.startswith("Error: ") and len(said.splitlines()) == 1


def test_tasks_run_beside_each_other(ran):
    log, _ = make(ran, "--jobs", "4", tasks=f"{A} {B} rendered_faces")
    assert len(log) == 17 and log[-2:] == ["06", "report"]
    for task in (A, B, "rendered_faces"):
        own = [stage for stage in log if stage.endswith(task)]
        assert own[:3] == [f"01 {task}", f"02 {task}", f"03 {task}"]


def test_what_others_wait_for_goes_first(ran):
    """The last stage waits for every 05: with one at a time, no 04 stands before them."""
    log, _ = make(ran, "--jobs", "1", tasks=f"{A} {B}")
    order = [stage[:2] for stage in log]
    assert order[:8] == ["01", "01", "02", "02", "03", "03", "05", "05"], log
    assert sorted(order[8:]) == ["04", "04", "06", "re"] and log[-1] == "report", log


@pytest.mark.parametrize(("slow", "fast"), [(A, B), (B, A)])
def test_among_equals_the_slower_task_goes_first(ran, slow, fast):
    ran.takes = {slow: 9, fast: 1}
    log, _ = make(ran, "--jobs", "1", tasks=f"{A} {B}")
    assert [stage[3:] for stage in log[2:8]] == [slow, fast] * 3, log


def test_the_report_is_imported_while_a_core_is_idle(ran, monkeypatch):
    imported = []
    monkeypatch.setattr(schedule, "import_report", lambda: imported.append(list(ran.log)))
    make(ran, "--jobs", "2", tasks=A)
    assert imported and len(imported[0]) < len(ran.log), "not before the last stage"


def test_a_run_is_made_by_one_process_at_a_time(ran):
    with schedule.alone_on(open_run("default")):
        log, said = make(ran, fails=True)
    assert log == [] and re.fullmatch(r"Error: Another process is making run 'default': .*\n", said)
    assert make(ran)[0][-1] == "report"


def test_an_interruption_is_one_sentence_and_leaves_no_kernel(ran, monkeypatch):
    ended = []
    monkeypatch.setattr(kernels, "end_kernels", lambda: ended.append(True))

    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(schedule, "wait", interrupted)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # what the command ignores, pytest must hear
    done = CliRunner().invoke(cli.main, ["all", "--tasks", A])
    assert done.exit_code == 130 and "interrupted; what is finished is kept" in done.output
    assert ended


def test_two_stages_cannot_write_the_same_table(home):
    notebook = home / "notebooks" / "05_head_patching.ipynb"
    notebook.write_text(notebook.read_text().replace('"head_patching"', '"module_patching"'))
    with pytest.raises(VlmtraceError, match="04_module_patching and 05_head_patching declare"):
        declarations.stages()


@pytest.mark.parametrize(
    "broken", ['{"per": "task"}', '{"target": "some", "per": "task", "reads": [], "writes": []}', "3"]
)
def test_a_declaration_that_cannot_be_understood_names_its_notebook(home, broken):
    path = home / "notebooks" / "10_mine.ipynb"
    path.write_text(json.dumps({"cells": [], "metadata": {"vlmtrace": json.loads(broken)}}))
    with pytest.raises(VlmtraceError, match=r"10_mine\.ipynb does not declare itself as a stage"):
        declarations.stages()


def test_a_notebook_that_declares_nothing_is_no_stage(home):
    (home / "notebooks" / "10_mine.ipynb").write_text(json.dumps({"cells": [], "metadata": {}}))
    assert "10_mine" not in declarations.stages()
