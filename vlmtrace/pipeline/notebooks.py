"""Execute a notebook into the folder of its run."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from vlmtrace.core import paths
from vlmtrace.core.errors import NotForThisModel, VlmtraceError
from vlmtrace.core.files import locked, make_folder, refusals_as_sentences
from vlmtrace.core.progress import TERMINAL
from vlmtrace.pipeline.notebook_files import declared_parameters
from vlmtrace.pipeline.parameters import read_parameters
from vlmtrace.pipeline.runs import open_run

#: How much of a traceback the terminal shows; the rest is in the executed notebook.
TRACEBACK_LINES = 12

#: Seconds that a kernel may take to start: on a machine that is busy, its imports alone take more than a minute.
START_TIMEOUT = 300

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
    from vlmtrace.pipeline.kernels import OwnKernelManager, kernel_threads

    read_parameters(notebook, given)  # a mistake is said before anything starts
    with kernel_environment(), contextlib.chdir(notebook.parent), kernel_threads(1) as pool:
        return pool.submit(execute, notebook, given, OwnKernelManager).result()


def execute(notebook: Path, given: Mapping[str, str], kernels: type) -> Path:
    """Execute a notebook, in the present folder and environment, by this class of kernels; see `run_notebook`.

    The executed copy appears under `notebooks/` of the run when every cell went through. A failed one goes to
    `notebooks/failed/`, and what an earlier execution left stays as it is.
    """
    parameters = read_parameters(notebook, given)
    run = open_run(parameters.get("run") or declared_parameters(notebook)["run"])
    task = parameters.get("task", "")
    executed = run.executed_notebook(notebook.stem, task)
    label = f"[{' '.join([notebook.stem, *([task] if task else [])])}]"
    busy = (
        f"{label} Another process runs this stage of {run.name!r}: wait until it has finished, or choose another RUN."
    )
    make_folder(executed.parent)
    with locked(run.folder / ".locks" / f"{executed.stem}.lock", busy):
        return _execute_alone(notebook, parameters, kernels, executed, label)


def _execute_alone(notebook: Path, parameters: dict[str, Any], kernels: type, executed: Path, label: str) -> Path:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    running = executed.with_name(f".{executed.stem}.running.ipynb")
    failed = executed.parent / "failed" / executed.name
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns about comments that it cannot parse
    click.echo(f"{label} started")
    started = time.monotonic()
    try:
        with refusals_as_sentences(executed):
            papermill.execute_notebook(
                _literally(notebook),
                _literally(running),
                parameters,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                start_timeout=START_TIMEOUT,
                extra_arguments=["--log-level=CRITICAL"],  # the kernel's remarks about itself
                kernel_manager_class=kernels,
            )
            drop_progress_bars(running)
            os.replace(running, executed)
    except PapermillExecutionError as error:
        _keep(running, failed)
        raise failure_of(error, label, failed) from error
    except DeadKernelError as error:
        _keep(running, failed)
        raise VlmtraceError(
            f"{label} The kernel ended in the middle: it was killed, or memory ran out. What is finished is kept, and "
            "the same command continues there; if it ends again, use fewer SAMPLES or a smaller model."
        ) from error
    except RuntimeError as error:
        if "Kernel" not in str(error):
            raise
        raise VlmtraceError(
            f"{label} The kernel of {sys.executable} does not start ({error}): look at its packages."
        ) from error
    finally:
        if sys.exc_info()[0] is not None:
            running.unlink(missing_ok=True)
    failed.unlink(missing_ok=True)
    click.echo(f"{label} done in {time.monotonic() - started:.0f} s")
    return executed


def _literally(path: Path) -> str:
    """A path for papermill, which fills in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _keep(running: Path, failed: Path) -> None:
    """Put a notebook that stopped where its reader is told to look."""
    make_folder(failed.parent)
    with refusals_as_sentences(failed), contextlib.suppress(FileNotFoundError):
        os.replace(running, failed)


@contextlib.contextmanager
def kernel_environment() -> Iterator[None]:
    """The environment that kernels inherit: this package, where the terminal is, and nothing of the user's IPython.

    Start-up files could fail or change the folder, and a home that cannot be written could hold no connection file.
    """
    before = dict(os.environ)
    package = str(Path(__file__).resolve().parents[2])
    with tempfile.TemporaryDirectory(prefix="vlmtrace-", ignore_cleanup_errors=True) as own:
        os.environ["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [before.get("PYTHONPATH")])])
        for name, folder in {"IPYTHONDIR": "ipython", "JUPYTER_RUNTIME_DIR": "runtime"}.items():
            os.environ[name] = str(Path(own) / folder)
            os.mkdir(os.environ[name], 0o700)
        if before.get("VLMTRACE_HOME"):
            os.environ["VLMTRACE_HOME"] = str(paths.ROOT)  # kernels work in another folder
        for name in ("MPLBACKEND", "PYTHONSTARTUP"):  # pictures belong into the notebook, whatever is set for scripts
            os.environ.pop(name, None)
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
    for kind in (VlmtraceError, NotForThisModel):
        if error.ename == kind.__name__:
            return kind(f"{label} {error.evalue}")
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
