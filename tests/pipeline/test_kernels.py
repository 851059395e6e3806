"""Kernels are of this very Python, whatever kernels are installed; warm ones fork, and end with their parent."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from vlmtrace.core import paths
from vlmtrace.pipeline.kernels import RUNNING, can_be_warm, end_kernels, warm_kernels
from vlmtrace.pipeline.notebooks import execute, kernel_environment, run_notebook

pytestmark = pytest.mark.medium

needs_forks = pytest.mark.skipif(not can_be_warm(), reason="kernels are forked on Linux only")


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")

    def written(*cells, name="10_try.ipynb"):
        first = new_code_cell('run = "r"', metadata={"tags": ["parameters"]})
        notebook = new_notebook(cells=[first, *map(new_code_cell, cells)])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, tmp_path / name)
        return tmp_path / name

    return written


def printed(executed):
    cells = nbformat.read(executed, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


def test_another_pythons_kernel_of_the_same_name_is_not_used(write, tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    assert printed(run_notebook(write("import sys; print(sys.executable)"), {})) == f"{sys.executable}\n"


@needs_forks
def test_a_warm_kernel_starts_with_everything_imported_and_shows_pictures(write):
    look = "import sys; print('torch' in sys.modules, 'vlmtrace.methods.patching.sweeps' in sys.modules)"
    draw = "from matplotlib import pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    paper = "from vlmtrace.display.style import new_figure\nf = new_figure(height=1)\nf.subplots().plot([1, 2])\nf"
    notebook = write(look, draw, paper)
    with kernel_environment(), contextlib.chdir(notebook.parent), warm_kernels() as kernels:
        executed = execute(notebook, {}, kernels)
    cells = nbformat.read(executed, as_version=4).cells
    assert printed(executed) == "True True\n"
    pictures = [output for cell in cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert len(pictures) == 2, "a figure of pyplot or of the package was not shown"
    assert not RUNNING, "a kernel was left running"


@needs_forks
def test_kernels_know_nothing_of_each_other(write):
    first = write("x = 1\nimport os\nos.environ['LEFT'] = '1'")
    second = write("import os\nprint('x' in globals(), 'LEFT' in os.environ)", name="11_try.ipynb")
    with kernel_environment(), contextlib.chdir(first.parent), warm_kernels() as kernels:
        execute(first, {}, kernels)
        assert printed(execute(second, {}, kernels)) == "False False\n"


@needs_forks
def test_kernels_end_when_they_are_told_to(write):
    notebook = write("import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)")
    script = (
        "import contextlib, sys, threading\n"
        "from pathlib import Path\n"
        "from vlmtrace.pipeline.kernels import warm_kernels\n"
        "from vlmtrace.pipeline.notebooks import execute, kernel_environment\n"
        "if __name__ == '__main__':\n"
        "    notebook = Path(sys.argv[1])\n"
        "    with kernel_environment(), contextlib.chdir(notebook.parent), warm_kernels() as kernels:\n"
        "        execute(notebook, {}, kernels)\n"
    )
    runner = notebook.parent / "runner.py"
    runner.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(paths.ROOT), "VLMTRACE_HOME": str(notebook.parent)}
    process = subprocess.Popen([sys.executable, runner, notebook], env=environment, stdout=subprocess.DEVNULL)
    try:
        kernel = int(soon(lambda: (notebook.parent / "pid").read_text()))
        process.send_signal(signal.SIGKILL)
        process.wait()
        soon(lambda: not alive(kernel) or None)
    finally:
        process.kill()


def test_ending_no_kernel_is_no_error():
    end_kernels()


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = (paths.Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def soon(look, seconds=60):
    """What `look` gives once it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            found = look()
            if found:
                return found
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")
