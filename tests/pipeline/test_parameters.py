"""What a run or a notebook is given is checked before anything starts: one sentence each, and no kernel."""

import json
import re

import nbformat
import pytest
from click.testing import CliRunner
from fixtures.refused_commands import forbid_kernels, refused
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.cli import main
from vlmtrace.pipeline.notebook_files import declared_parameters
from vlmtrace.pipeline.parameters import read_parameters, read_value

PARAMETERS = """
model = "tiny-blip"
task = "rendered_svo"
tasks = ["rendered_svo"]
questions = "rendered_open"
root = ""
question = ""
prefix = ""
samples = 120
per_category = None
level = None
noise = 0.5
flag = True
seed = 0
run = "default"
device = "cpu"
dtype = "float32"
device_map = ""
quantization = ""
attn_implementation = ""
max_pixels = None
image_size = ""
"""


@pytest.fixture(autouse=True)
def no_kernel(tmp_path, monkeypatch):
    """Runs lie in a folder of the test's, and no kernel may start."""
    forbid_kernels(tmp_path, monkeypatch)


@pytest.fixture
def notebook(tmp_path):
    cells = [new_code_cell(PARAMETERS.strip(), metadata={"tags": ["parameters"]}), new_code_cell("1 / 0")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "n.ipynb")
    return tmp_path / "n.ipynb"


# vlmtrace run


@pytest.mark.parametrize(
    ("parameter", "sentence"),
    [
        ("task=../../x", "Unknown task '../../x'"),
        ("task=rendered_svo'; import os #", "Unknown task"),
        ('task="rendered_svo"', "Unknown task"),
        ("task=a\nb", r"task holds the character '\\n'|Unknown task"),
        ("task=..", "Unknown task"),
        ("task=" + "x" * 5000, "Unknown task"),
        ("seed=True", "seed=True is not of the kind of its default, 0"),
        ("seed=1e3", "seed=1e3 is not of the kind of its default"),
        ("seed=1.0", "not of the kind"),
        ("seed=-1", "seed=-1 is not a whole number of at least 0"),
        ("seed=" + str(2**70), "seed=1180591620717411303424 is too large"),
        ("seed=" + "9" * 5000, "seed=9{40}… is not of the kind"),
        ("seed=٣", "seed=٣ is not of the kind"),
        ("seed=__import__('os')", "not of the kind"),
        ("seed=" + "(" * 20000, "not of the kind"),
        ("seed=" + "-" * 50000 + "1", "not of the kind"),
        ("seed=" + "[" * 150 + "]" * 150, "not of the kind"),
        ("seed={[]: 1}", "not of the kind"),
        ("seed=\x00", "not of the kind"),
        ("samples=-1", "samples=-1 is not a whole number of at least 1"),
        ("samples=0", "samples=0 is not a whole number of at least 1"),
        ("samples=10**9", "not of the kind"),
        ("samples=1000000000", "samples=1000000000 is too large: the most is 10000000"),
        ("per_category=many", "per_category=many is not a whole number"),
        ("per_category=1.5", "per_category=1.5 is not a whole number"),
        ("per_category=[1]", r"per_category=\[1\] is not a whole number"),
        ("per_category={1: 2}", "is neither text nor a number"),
        ("level=-1", "level=-1 is not a number of at least 0"),
        ("level=high", "level=high is not a number"),
        ("noise=1e999", "noise=1e999 is not a finite number"),
        ("noise=nan", "not of the kind"),
        ("seed=0x10", "seed=0x10 is not of the kind"),
        ("tasks= , ,", "TASKS is empty"),
        ("tasks=csv rendered_swo", "Unknown task 'rendered_swo'"),
        ("tasks=csv,csv", "names a task twice"),
        ("flag=1", "flag=1 is not of the kind of its default, True"),
        ("__class__=1", "Unknown parameter of n.ipynb '__class__'"),
        ("sampels=1", "Unknown parameter of n.ipynb 'sampels'"),
        ("seed", "-p seed is not NAME=VALUE"),
        ("run=../x", "A run cannot be called '../x'"),
        ("run=" + "x" * 256, "use at most 100 characters"),
        ("run=con", "Windows cannot make a folder of this name"),
        ("run=..", "A run cannot be called '..'"),
        ("model=no such model", "Unknown model 'no such model'"),
        ("model=../there is none", "Unknown model '../there is none'"),
        ("model=" + "x/" * 3000, "Unknown model"),
        ("device=foo bar", "DEVICE='foo bar' is not a device"),
        ("device=meta", "DEVICE='meta' is not a device"),
        ("dtype=int8", "Unknown dtype 'int8'"),
        ("device_map=everywhere", "Unknown device_map 'everywhere'"),
        ("quantization=8bit", "Unknown quantization '8bit'"),
        ("attn_implementation=flash", "Unknown attn_implementation 'flash'"),
        ("max_pixels=0", "max_pixels=0 is not a whole number of at least 1"),
        ("max_pixels=many", "max_pixels=many is not a whole number"),
        ("image_size=large", "image_size='large' is no width and height"),
        ("root=/no/such/place", "There is nothing at /no/such/place"),
        ("questions=rendered_opne", "Unknown set of questions 'rendered_opne'"),
        ("question=What is it?", "must hold {a} and {b} once each"),
        ("question={a} or {a}?", "must hold {a} and {b} once each"),
        ("prefix=a\x07b", r"prefix holds the character '\\x07'"),
        ("prefix=a\udcffb", r"prefix holds the character '\\udcff'"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_bad_parameter_is_refused_before_a_kernel_starts(notebook, parameter, sentence):
    assert re.search(sentence, refused("run", notebook, "-p", parameter))
    assert not (notebook.parent / "runs").exists(), "something was written"


def test_a_parameter_that_is_given_twice_is_refused(notebook):
    assert refused("run", notebook, "-p", "seed=1", "-p", "seed=2").startswith("seed is given twice")
    assert refused("run", notebook, "--run", "a", "-p", "run=b").startswith("run is given twice")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"seed": "0"}, {"seed": 0}),
        ({"samples": "9"}, {"samples": 9}),
        ({"per_category": "None"}, {"per_category": None}),
        ({"per_category": "8"}, {"per_category": 8}),
        ({"level": "2"}, {"level": 2}),
        ({"noise": "1"}, {"noise": 1.0}),
        ({"noise": "-0.5"}, {"noise": -0.5}),
        ({"flag": "False"}, {"flag": False}),
        ({"prefix": 'It\'s "{a}" – so\nthere'}, {"prefix": 'It\'s "{a}" – so\nthere'}),
        ({"question": "{b} or {a}?"}, {"question": "{b} or {a}?"}),
        ({"task": "csv", "run": "x_1.2-3"}, {"task": "csv", "run": "x_1.2-3"}),
    ],
    ids=str,
)
def test_a_good_parameter_has_its_value(notebook, given, found):
    assert read_parameters(notebook, given) == found
    assert all(type(read_parameters(notebook, given)[name]) is type(value) for name, value in found.items())


def test_a_task_of_ones_own_is_one_that_has_a_folder_in_the_run(notebook):
    with pytest.raises(VlmtraceError, match="Unknown task 'mine'"):
        read_parameters(notebook, {"task": "mine", "run": "r"})
    (paths.RUNS / "r/mine").mkdir(parents=True)
    assert read_parameters(notebook, {"task": "mine", "run": "r"})["task"] == "mine"


def test_a_path_is_that_of_the_folder_in_which_it_was_typed(notebook, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("vlmtrace.pipeline.cli.run_notebook", lambda path, given: seen.append(given))
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["run", str(notebook), "-p", "root=data"]).exit_code == 0
    assert seen == [{"root": str(tmp_path / "data")}]


@pytest.mark.parametrize("text", ["1", "x", "", "[]", "None", "9" * 5000, "(" * 10**5, "\0", "٣", "1_0", "0x10", "1j"])
@pytest.mark.parametrize("default", [0, 0.5, True, None, "text", ["a"]])
def test_any_text_is_a_value_of_the_defaults_kind_or_a_sentence(text, default):
    try:
        value = read_value("name", text, default)
    except VlmtraceError as error:
        assert "\n" not in str(error) and len(str(error)) < 200
    else:
        assert default is None or type(value) is type(default)


# Not a notebook


def cell(source, kind=new_code_cell, tags=("parameters",)):
    return nbformat.writes(new_notebook(cells=[kind(source, metadata={"tags": list(tags)})])).encode()


NO_NOTEBOOKS = {
    "empty": (b"", "is not a Jupyter notebook"),
    "text": (b"# a readme", "is not a Jupyter notebook"),
    "binary": (bytes(range(256)), "is not a Jupyter notebook"),
    "a list": (b"[]", "is not a Jupyter notebook"),
    "a number": (b"3", "is not a Jupyter notebook"),
    "another shape": (b'{"cells": 3, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', "is not a Jupyter notebook"),
    "metadata a list": (b'{"cells": [], "metadata": [], "nbformat": 4, "nbformat_minor": 5}', "is not a Jupyter note"),
    "cells of text": (b'{"cells": ["a"], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', "is not a Jupyter note"),
    "of the future": (b'{"cells": [], "metadata": {}, "nbformat": 9, "nbformat_minor": 0}', "is not a Jupyter note"),
    "deep": (b"[" * 10**5, "is not a Jupyter notebook"),
    "no parameters": (cell("a = 1", tags=()), "has no cell tagged 'parameters'"),
    "parameters in prose": (cell("a = 1", new_markdown_cell), "has no cell tagged 'parameters'"),
    "a syntax error": (cell("a = = 1"), "are not Python"),
    "magic": (cell("%matplotlib inline\na = 1"), "are not Python"),
    "long number": (cell("a = " + "9" * 5000), "are not Python"),
    "deep literal": (cell("a = " + "-" * 50000 + "1"), "are not Python|is not 'name = literal'"),
    "no run": (cell("a = 1"), "declares no parameter run"),
    "run a number": (cell("run = 3"), "declares no parameter run"),
    "of R": (
        json.dumps({"cells": [], "metadata": {"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}},
                    "nbformat": 4, "nbformat_minor": 5}).encode(),
        "is a notebook of 'R'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "sentence"), NO_NOTEBOOKS.values(), ids=NO_NOTEBOOKS)
def test_what_is_no_notebook_is_one_sentence(tmp_path, content, sentence):
    (tmp_path / "n.ipynb").write_bytes(content)
    assert re.search(rf"n\.ipynb.* ?({sentence})", refused("run", tmp_path / "n.ipynb"))


def test_a_place_without_a_notebook_is_one_sentence(tmp_path):
    assert "is a folder, not a notebook" in refused("run", tmp_path)
    assert "There is no notebook" in refused("run", tmp_path / "gone.ipynb")
    assert "cannot be read (File name too long)" in refused("run", f"{tmp_path}/{'x' * 5000}/n.ipynb")
    loop = tmp_path / "loop.ipynb"
    loop.symlink_to(loop)
    assert "loop.ipynb" in refused("run", loop)


def test_a_notebook_that_holds_everything_is_one_sentence(tmp_path):
    with open(tmp_path / "n.ipynb", "wb") as file:
        file.truncate(2**27)
    assert "has 128 MB, and a notebook may have 64: clear its outputs" in refused("run", tmp_path / "n.ipynb")


def test_a_notebook_of_the_third_format_is_read(tmp_path):
    old = {"metadata": {}, "nbformat": 3, "nbformat_minor": 0, "worksheets": [{"metadata": {}, "cells": [
        {"cell_type": "code", "input": 'run = "x"', "language": "python", "outputs": [], "prompt_number": 1,
         "collapsed": False, "metadata": {"tags": ["parameters"]}}]}]}  # fmt: skip
    (tmp_path / "n.ipynb").write_text(json.dumps(old))
    assert declared_parameters(tmp_path / "n.ipynb") == {"run": "x"}


def test_a_root_that_begins_with_nobodys_home_is_not_there():
    with pytest.raises(VlmtraceError, match="There is nothing at ~nobody of this name/images: correct root"):
        read_parameters(paths.ROOT / "notebooks" / "01_preprocess.ipynb", {"root": "~nobody of this name/images"})
