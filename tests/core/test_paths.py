"""The data folder is where VLMTRACE_HOME says, whatever folder a process works in later."""

import os
import subprocess
import sys

import pytest

from vlmtrace.core import paths, progress
from vlmtrace.pipeline.notebooks import kernel_environment


@pytest.mark.parametrize("given", ["home", "./home/../home", "~/home", ""])
def test_home_is_an_absolute_path(tmp_path, given):
    (tmp_path / "home").mkdir()
    environment = {**os.environ, "VLMTRACE_HOME": given, "HOME": str(tmp_path), "PYTHONPATH": str(paths.ROOT)}
    script = "from vlmtrace.core import paths; print(paths.RUNS)"
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True)
    expected = tmp_path / "home" if given else paths.ROOT
    assert done.stdout.strip() == str(expected / "data/runs"), done.stderr


def test_kernels_work_in_the_same_home(monkeypatch):
    monkeypatch.setenv("VLMTRACE_HOME", "relative")
    with kernel_environment():
        assert os.environ["VLMTRACE_HOME"] == str(paths.ROOT)
    assert os.environ["VLMTRACE_HOME"] == "relative"


@pytest.mark.parametrize("device", ["/no/such/terminal", "/", "a\0b"])
def test_a_terminal_that_is_gone_stops_no_work(monkeypatch, device):
    monkeypatch.setattr(progress.os, "environ", {progress.TERMINAL: device, "TQDM_DISABLE": "1"})
    assert list(progress.progress([1, 2], "counting")) == [1, 2]
