"""Kernels are of this very Python, whatever kernels are installed; warm ones fork, and end with their parent."""

import asyncio
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
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.kernels import (
    RUNNING,
    OwnKernelManager,
    ServersProvisioner,
    can_be_warm,
    end_kernels,
    provisioner_name,
    warm_kernels,
)
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


WHERE = "import os, sys; print(sys.executable, os.getcwd())"


@pytest.mark.parametrize(
    ("place", "python"),
    [
        ("JUPYTER_PATH", "/opt/gone/bin/python"),
        ("HOME", "/bin/false"),
        ("HOME", "/usr/bin/python3"),
        ("JUPYTER_PREFER_ENV_PATH", "/bin/false"),
    ],
)
def test_another_pythons_kernel_of_the_same_name_is_not_used(write, tmp_path, monkeypatch, place, python):
    folder = tmp_path / ("home/.local/share/jupyter" if place != "JUPYTER_PATH" else "jupyter")
    spec = folder / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": [python], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if place == "JUPYTER_PATH":
        monkeypatch.setenv("JUPYTER_PATH", str(folder))
    if place == "JUPYTER_PREFER_ENV_PATH":
        monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    assert printed(run_notebook(write(WHERE), {})) == f"{sys.executable} {tmp_path}\n"


@pytest.mark.parametrize("warm", [False, pytest.param(True, marks=needs_forks)], ids=["own", "warm"])
def test_nothing_of_the_users_ipython_or_home_reaches_a_kernel(write, tmp_path, monkeypatch, warm):
    startup = tmp_path / "home/.ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("import os; os.chdir('/'); sys = 3")
    (startup / "01.py").write_text("import no_such_module")
    (tmp_path / "start.py").write_text("raise SystemExit(3)")
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "start.py"))
    for name in ("HOME", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / ("home" if name == "HOME" else "home/.ipython")))
    notebook = write(WHERE)
    before = sorted((tmp_path / "home/.ipython").rglob("*"))
    if warm:
        with kernel_environment(), contextlib.chdir(notebook.parent), warm_kernels() as kernels:
            executed = execute(notebook, {}, kernels)
    else:
        executed = run_notebook(notebook, {})
    assert printed(executed) == f"{sys.executable} {tmp_path}\n"
    assert sorted((tmp_path / "home/.ipython").rglob("*")) == before, "the kernel wrote into the user's folder"
    assert not (tmp_path / "home/.local").exists(), "a connection file lies in the home"


def test_a_home_that_cannot_be_written_does_not_matter(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/proc/nothing/can/be/made/here")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert printed(run_notebook(write(WHERE), {})) == f"{sys.executable} {tmp_path}\n"


@pytest.mark.parametrize("warm", [False, pytest.param(True, marks=needs_forks)], ids=["own", "warm"])
def test_a_kernel_that_is_killed_is_one_sentence_and_the_run_goes_on_later(write, tmp_path, warm):
    die = "import os, signal\nfrom pathlib import Path\nif not Path('again').exists():\n"
    notebook = write("print('first')", die + "    os.kill(os.getpid(), signal.SIGKILL)")
    with contextlib.ExitStack() as stack:
        stack.enter_context(kernel_environment())
        stack.enter_context(contextlib.chdir(notebook.parent))
        kernels = stack.enter_context(warm_kernels()) if warm else OwnKernelManager
        with pytest.raises(
            VlmtraceError, match=r"^\[10_try\] The kernel ended in the middle: it was killed, or memory"
        ):
            execute(notebook, {}, kernels)
        folder = tmp_path / "runs/r/notebooks"
        assert printed(folder / "failed/10_try.ipynb") == "first\n", "what had gone through is not shown"
        assert [path.name for path in folder.iterdir()] == ["failed"]
        (tmp_path / "again").touch()
        assert printed(execute(notebook, {}, kernels)) == "first\n"
    assert not list((folder / "failed").iterdir())


def test_a_kernel_that_cannot_start_is_one_sentence(write, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(VlmtraceError, match=r"\[10_try\] The kernel of /bin/false does not start"):
        run_notebook(write("1"), {})


def test_a_disk_that_fills_up_while_a_notebook_runs_is_one_sentence(write, tmp_path, monkeypatch):
    from papermill import iorw

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(iorw.LocalHandler, "write", full)
    with pytest.raises(VlmtraceError, match=r"10_try\.ipynb cannot be written, because no space is left"):
        run_notebook(write("1"), {})
    assert not list((tmp_path / "runs/r/notebooks").iterdir())


def test_a_place_with_braces_is_a_place(write, tmp_path):
    (tmp_path / "{a} {0} %s").mkdir()
    notebook = (tmp_path / "10_try.ipynb") if write("print(run)") else None
    moved = notebook.rename(tmp_path / "{a} {0} %s" / "10_{x}.ipynb")
    assert printed(run_notebook(moved, {})) == "r\n"


INTERRUPTED = """
import sys
from vlmtrace.pipeline.cli import main
main(["run", sys.argv[1]])
"""


@pytest.mark.parametrize("times", [1, 5])
def test_pressing_ctrl_c_is_one_sentence_however_often(write, tmp_path, times):
    notebook = write("import time\nopen('started', 'w')\ntime.sleep(600)")
    environment = {**os.environ, "PYTHONPATH": str(paths.ROOT), "VLMTRACE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", INTERRUPTED, notebook]
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            soon((tmp_path / "started").exists)
            for _ in range(times):
                process.send_signal(signal.SIGINT)
                time.sleep(0.15)
            said = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 130
    assert said == "Error: interrupted; what is finished is kept, and the same command continues there.\n"


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


class ServersManager(OwnKernelManager):
    provisioner_name = provisioner_name(ServersProvisioner)


@needs_forks
def test_a_servers_kernel_that_is_ended_before_it_has_begun_leaves_nothing():
    async def begin_and_end():
        manager = ServersManager()
        await manager.start_kernel()
        process = manager.provisioner.process.process
        assert await manager.is_alive(), "it is about to begin"
        await manager.shutdown_kernel(now=True)
        return process

    with warm_kernels():
        process = asyncio.run(begin_and_end())
        process.join(30)
        assert process.exitcode is not None, "the kernel goes on"


@needs_forks
def test_a_servers_kernel_is_ended_from_another_loop():
    """As a server does when it is told to end."""

    async def begin():
        manager = ServersManager()
        await manager.start_kernel()
        await manager.provisioner._has_begun()
        return manager

    with warm_kernels():
        manager = asyncio.run(begin())
        process = manager.provisioner.process.process
        asyncio.run(asyncio.wait_for(manager.provisioner.send_signal(signal.SIGKILL), 10))
        process.join(30)
        assert process.exitcode == -signal.SIGKILL


@needs_forks
def test_a_servers_kernel_that_cannot_begin_is_no_kernel(monkeypatch):
    def refuse(*_):
        raise OSError("no process can be made")

    async def begin():
        manager = ServersManager()
        await manager.start_kernel()
        await asyncio.wait_for(manager.provisioner._has_begun(), 30)
        alive = await manager.is_alive()
        await manager.shutdown_kernel(now=True)
        return alive

    monkeypatch.setattr("multiprocessing.context.ForkServerProcess.start", refuse)
    assert not asyncio.run(begin())
