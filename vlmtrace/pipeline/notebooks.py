"""Execute a notebook into the folder of its run."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.progress import TERMINAL
from vlmtrace.pipeline.parameters import declared_parameters, read_parameters
from vlmtrace.pipeline.runs import open_run

#: How much of a traceback the terminal shows; the rest is in the executed notebook.
TRACEBACK_LINES = 12

WIDGET = "application/vnd.jupyter.widget-view+json"


def run_notebook(notebook: Path, given: Mapping[str, str]) -> Path:
    """Execute one notebook into its run's folder, in a kernel of its own.

    Args:
        notebook: its path
        given: parameters as text, `run` among them; an empty text keeps the notebook's default
    Returns:
        the executed copy: `notebooks/<task>-<notebook>` in the run's folder
    Raises:
        VlmtraceError: a mistake in the parameters, or one that a cell of the notebook found
        click.ClickException: any other error in a cell
    """
    from vlmtrace.pipeline.kernels import OwnKernelManager

    with kernel_environment(), contextlib.chdir(notebook.parent):
        return execute(notebook, given, OwnKernelManager)


def execute(notebook: Path, given: Mapping[str, str], kernels: type) -> Path:
    """Execute a notebook, in the present folder and environment, by this class of kernels; see `run_notebook`.

    The executed copy appears under `notebooks/` of the run when every cell went through. A failed one goes to
    `notebooks/failed/`, and what an earlier execution left stays as it is.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    parameters = read_parameters(notebook, given)
    run = open_run(parameters.get("run") or declared_parameters(notebook)["run"])
    task = parameters.get("task", "")
    executed = run.executed_notebook(notebook.stem, task)
    running = executed.with_name(f".{executed.stem}.running.ipynb")
    failed = executed.parent / "failed" / executed.name
    executed.parent.mkdir(parents=True, exist_ok=True)

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns about comments that it cannot parse
    label = f"[{' '.join([notebook.stem, *([task] if task else [])])}]"
    click.echo(f"{label} started")
    started = time.monotonic()
    try:
        papermill.execute_notebook(
            notebook,
            running,
            parameters,
            kernel_name="python3",
            progress_bar=False,
            extra_arguments=["--log-level=ERROR"],  # the kernel's remarks about itself
            kernel_manager_class=kernels,
        )
    except PapermillExecutionError as error:
        failed.parent.mkdir(exist_ok=True)
        os.replace(running, failed)
        raise failure_of(error, label, failed) from error
    finally:
        if running.exists() and sys.exc_info()[0] is not None:
            running.unlink()
    drop_progress_bars(running)
    os.replace(running, executed)
    failed.unlink(missing_ok=True)
    click.echo(f"{label} done in {time.monotonic() - started:.0f} s")
    return executed


@contextlib.contextmanager
def kernel_environment() -> Iterator[None]:
    """The environment that kernels inherit: this package, and where the terminal is."""
    before = dict(os.environ)
    package = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [before.get("PYTHONPATH")])])
    os.environ.pop("MPLBACKEND", None)  # pictures belong into the notebook, whatever is set for scripts
    if sys.stderr.isatty():
        os.environ[TERMINAL] = os.ttyname(sys.stderr.fileno())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def drop_progress_bars(notebook: Path) -> None:
    """Remove bars from an executed notebook: a bar that has finished is only a broken control to the reader."""
    import nbformat

    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_progress_bar(output)]
    nbformat.write(content, notebook)


def is_progress_bar(output: Mapping[str, Any]) -> bool:
    """Whether a cell's output is a bar of tqdm."""
    data = output.get("data", {})
    return WIDGET in data and re.search(r"\d+%\||\d+it \[", data.get("text/plain", "")) is not None


def failure_of(error: Any, label: str, failed: Path) -> Exception:
    """A mistake of the user's: its sentence. Anything else: the end of the traceback, and where to read on."""
    if error.ename == VlmtraceError.__name__:
        return VlmtraceError(f"{label} {error.evalue}")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)).splitlines()
    return click.ClickException(
        "\n".join(
            [
                f"{label} stopped with {error.ename} in cell {error.exec_count}; the end of its traceback:",
                *(f"    {line}" for line in lines[-TRACEBACK_LINES:]),
                f"The notebook as far as it got: {failed}",
            ]
        )
    )
