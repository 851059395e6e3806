"""The command line: parameters are checked, notebooks run into their run's folder, mistakes are one sentence."""

import re
import subprocess
import sys

import nbformat
import pytest
from click.testing import CliRunner
from nbformat.v4 import new_code_cell, new_notebook

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline import cli as pipeline
from vlmtrace.pipeline.cli import main
from vlmtrace.pipeline.parameters import declared_parameters, read_parameters, read_value

PARAMETERS = """
model = "tiny-blip"  # a = sign in a comment
task = "rendered_svo"
samples = 120
per_category = None  # None: as many as there are
noise = 0.5
run = "default"
"""


@pytest.fixture(autouse=True)
def runs_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


def write_notebook(folder, *cells, parameters=PARAMETERS, name="04_module_patching.ipynb"):
    first = new_code_cell(parameters.strip(), metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[first, *map(new_code_cell, cells)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / name
    nbformat.write(notebook, path)
    return path


def command(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


# Parameters


def test_declared_parameters_are_read_with_their_defaults(tmp_path):
    assert declared_parameters(write_notebook(tmp_path)) == {
        "model": "tiny-blip",
        "task": "rendered_svo",
        "samples": 120,
        "per_category": None,
        "noise": 0.5,
        "run": "default",
    }


@pytest.mark.parametrize("line", ["n = len(model)", "import os", "a = b = 1", "print(1)"])
def test_a_parameters_cell_holds_literals_only(tmp_path, line):
    with pytest.raises(VlmtraceError, match="is not 'name = literal'"):
        declared_parameters(write_notebook(tmp_path, parameters=line))


def test_a_notebook_without_a_parameters_cell_is_refused(tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell("a = 1")]), tmp_path / "n.ipynb")
    with pytest.raises(VlmtraceError, match="no cell tagged 'parameters'"):
        declared_parameters(tmp_path / "n.ipynb")


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("7", "word", "7"),
        ("7", 0, 7),
        ("7", None, 7),
        ("word", None, "word"),
        ("None", None, None),
        ("0.25", 1.0, 0.25),
        ("a b,c", ["x"], ["a", "b", "c"]),
    ],
)
def test_a_value_is_read_as_its_default_is(text, default, value):
    assert read_value("name", text, default) == value


@pytest.mark.parametrize(("text", "default"), [("many", 120), ("1.5", 120), ("[1]", 0.5)])
def test_a_value_of_another_kind_is_refused(text, default):
    with pytest.raises(VlmtraceError, match=re.escape(f"samples={text} is not of the kind of its default")):
        read_value("samples", text, default)


@pytest.mark.parametrize("text", ["", "# a readme", "{}", '{"cells": 3}', "[]"])
def test_what_is_no_notebook_is_refused_in_a_sentence(tmp_path, text):
    (tmp_path / "n.ipynb").write_text(text)
    with pytest.raises(VlmtraceError, match=r"n\.ipynb (is not a Jupyter notebook|has no cell tagged)"):
        declared_parameters(tmp_path / "n.ipynb")


def test_an_undeclared_parameter_is_refused_and_says_which_exist(tmp_path):
    with pytest.raises(VlmtraceError, match=r"Unknown parameter of 04.* 'sample': choose one of model, task, samples"):
        read_parameters(write_notebook(tmp_path), {"sample": "3"})


def test_an_empty_value_keeps_the_default(tmp_path):
    assert read_parameters(write_notebook(tmp_path), {"samples": "", "noise": "1.0"}) == {"noise": 1.0}


# Notebooks (each starts a kernel)


def test_a_notebook_runs_into_its_runs_folder(tmp_path, runs_folder):
    notebook = write_notebook(tmp_path, "print(model, task, samples)", "import os; print(os.getcwd())")
    result = command("run", notebook, "--run", "r", "--task", "rendered_faces", "-p", "samples=3", "-p", "model=")
    assert result.exit_code == 0, result.output
    executed = nbformat.read(runs_folder / "r/notebooks/rendered_faces-04_module_patching.ipynb", as_version=4)
    printed = "".join(output.text for cell in executed.cells for output in cell.get("outputs", []))
    assert printed == f"tiny-blip rendered_faces 3\n{tmp_path}\n"
    assert re.search(r"^\[04_module_patching rendered_faces\] done in \d+ s$", result.output, re.MULTILINE)
    left = sorted(path.name for path in (runs_folder / "r/notebooks").iterdir())
    assert left == ["rendered_faces-04_module_patching.ipynb"], "something else was left behind"


@pytest.mark.parametrize("kind", ["VlmtraceError", "NotForThisModel"])
def test_a_mistake_found_in_a_notebook_is_its_sentence_and_leaves_the_last_result(tmp_path, runs_folder, kind):
    kept = runs_folder / "r/notebooks/rendered_svo-04_module_patching.ipynb"
    kept.parent.mkdir(parents=True)
    kept.write_text("the last one")
    notebook = write_notebook(
        tmp_path, f"from vlmtrace.core.errors import {kind}", f"raise {kind}('Row 3 has no image: add it.')"
    )
    result = command("run", notebook, "--run", "r", "--task", "rendered_svo")
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == "Error: [04_module_patching rendered_svo] Row 3 has no image: add it."
    assert "Traceback" not in result.output
    assert kept.read_text() == "the last one"
    assert (kept.parent / "failed" / kept.name).is_file()


def test_an_error_in_a_notebook_shows_the_end_of_its_traceback_and_the_notebook(tmp_path, runs_folder):
    result = command("run", write_notebook(tmp_path, "x = {}\nx['gone']"), "--run", "r")
    assert result.exit_code == 1
    failed = runs_folder / "r/notebooks/failed/04_module_patching.ipynb"
    assert "stopped with KeyError in cell" in result.output and "x['gone']" in result.output
    assert result.output.splitlines()[-1].endswith(str(failed)) and failed.is_file()
    assert "\x1b[" not in result.output, "colors of the traceback end up in logs"


# Names


def test_an_unknown_model_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "models/mine").mkdir(parents=True)
    (tmp_path / "models/mine/config.json").write_text("{}")
    monkeypatch.setattr(paths, "MODELS", tmp_path / "models")
    with pytest.raises(VlmtraceError, match=r"Unknown model 'your': choose a bundled one \(mine\)"):
        pipeline.check_model("your")
    for name in ("mine", "Salesforce/blip-vqa-base", str(tmp_path / "models/mine")):
        pipeline.check_model(name)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tasks", "rendered_swo"], "Unknown task 'rendered_swo': choose one of .*rendered_svo"),
        (["--tasks", ""], "TASKS is empty"),
        (["--tasks", "rendered_svo rendered_svo"], "names a task twice"),
        (["--samples", "0"], "SAMPLES=0 is not a whole number of at least 1"),
        (["--same-size", "maybe"], "SAME_SIZE=maybe says neither yes nor no"),
        (["--samples", "many"], "SAMPLES=many is not a whole number"),
        (["--seed", "-1"], "SEED=-1 is not a whole number of at least 0"),
        (["--run", "a b"], "run cannot be called 'a b'"),
    ],
)
def test_a_bad_parameter_is_one_sentence(arguments, sentence):
    defaults = {"--model": "some/model", "--tasks": "rendered_svo"}
    given = {**defaults, **dict([arguments])}
    result = command("check", *(word for pair in given.items() for word in pair))
    assert result.exit_code == 1
    assert re.search(sentence, result.output) and len(result.output.splitlines()) == 1, result.output


def test_good_parameters_say_nothing():
    result = command("check", "--model", "some/model", "--tasks", "rendered_svo rendered_faces", "--samples", "9")
    assert (result.exit_code, result.output) == (0, "")


def test_the_package_is_a_command():
    done = subprocess.run([sys.executable, "-m", "vlmtrace", "--help"], capture_output=True, text=True, cwd=paths.ROOT)
    assert done.returncode == 0 and {"run", "check", "report"} <= set(done.stdout.split())
