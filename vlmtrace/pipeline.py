"""The command line: run a notebook as a stage of a run, check names before anything starts, draw the report.

    python -m vlmtrace run notebooks/04_module_patching.ipynb --run default --task rendered_svo -p seed=0
    python -m vlmtrace check --model tiny-blip --tasks "rendered_states rendered_svo"
    python -m vlmtrace report --run default

Nothing here loads a model: notebooks run in a kernel of their own.
"""

from __future__ import annotations

import ast
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

from vlmtrace import paths
from vlmtrace.errors import VlmtraceError, one_of
from vlmtrace.progress import TERMINAL
from vlmtrace.runs import open_run

#: How much of a traceback the terminal shows; the rest is in the executed notebook.
TRACEBACK_LINES = 12

WIDGET = "application/vnd.jupyter.widget-view+json"


# Parameters ----------------------------------------------------------------------------------------------------


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """Names and defaults in the notebook's cell tagged `parameters`.

    Raises:
        VlmtraceError: there is no such cell, or a default is not a literal.
    """
    import nbformat

    if not notebook.is_file():
        raise VlmtraceError(f"There is no notebook {notebook}: look into {paths.relative(paths.ROOT / 'notebooks')}.")
    for cell in nbformat.read(notebook, as_version=4).cells:
        if "parameters" in cell.metadata.get("tags", []):
            break
    else:
        raise VlmtraceError(f"{notebook} has no cell tagged 'parameters': tag the one that holds them.")
    found = {}
    for statement in ast.parse(cell.source).body:
        try:
            (target,) = statement.targets
            found[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError) as error:
            raise VlmtraceError(
                f"Line {statement.lineno} of the parameters of {notebook} is not 'name = literal': derived values "
                "belong into the next cell."
            ) from error
    return found


def read_value(name: str, text: str, default: Any) -> Any:
    """The value that the command line's text means for a parameter with this default.

    >>> read_value("run", "1", "default"), read_value("seed", "1", 0), read_value("tasks", "a b", ["c"])
    ('1', 1, ['a', 'b'])
    """
    if isinstance(default, str):
        return text
    if isinstance(default, list):
        return text.replace(",", " ").split()
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if default is not None and not isinstance(value, type(default)):
        raise VlmtraceError(f"{name}={text} is not of the kind of its default, {default!r}: correct it.")
    return value


def read_parameters(notebook: Path, given: Mapping[str, str]) -> dict[str, Any]:
    """What papermill is to inject: the given values, read as their defaults are; empty ones keep the default.

    Raises:
        VlmtraceError: a parameter that the notebook does not declare (papermill would only warn), or a bad value.
    """
    declared = declared_parameters(notebook)
    for name in given:
        one_of(name, declared, f"parameter of {notebook.name}")
    return {name: read_value(name, text, declared[name]) for name, text in given.items() if text != ""}


# Notebooks -----------------------------------------------------------------------------------------------------


def run_notebook(notebook: Path, given: Mapping[str, str]) -> Path:
    """Execute a notebook into its run's folder.

    The executed copy appears under `notebooks/` of the run when every cell went through. A failed one goes to
    `notebooks/failed/`, and what an earlier execution left stays as it is.

    Args:
        given: parameters as text, `run` among them
    Returns:
        the executed copy
    Raises:
        VlmtraceError: a mistake in the parameters, or one that a cell of the notebook found
        click.ClickException: any other error in a cell
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    parameters = read_parameters(notebook, given)
    run = open_run(parameters.get("run") or declared_parameters(notebook)["run"])
    task = parameters.get("task", "")
    name = f"{task}-{notebook.name}" if task else notebook.name
    executed = run.folder / "notebooks" / name
    running = executed.with_name(f".{executed.stem}.running.ipynb")
    failed = executed.parent / "failed" / name
    executed.parent.mkdir(parents=True, exist_ok=True)

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns about comments that it cannot parse
    label = f"[{' '.join([notebook.stem, *([task] if task else [])])}]"
    click.echo(f"{label} started")
    started = time.monotonic()
    try:
        with kernel_environment():
            papermill.execute_notebook(
                notebook,
                running,
                parameters,
                cwd=notebook.parent,
                kernel_name="python3",
                progress_bar=False,
                extra_arguments=["--log-level=ERROR"],  # the kernel's remarks about itself
            )
    except PapermillExecutionError as error:
        failed.parent.mkdir(exist_ok=True)
        os.replace(running, failed)
        raise explain(error, label, failed) from error
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
    """The environment that the kernel inherits: this Python, this package, and where the terminal is."""
    before = dict(os.environ)
    package = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [before.get("PYTHONPATH")])])
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ.pop("MPLBACKEND", None)  # pictures belong into the notebook, whatever is set for scripts
    if sys.stderr.isatty():
        os.environ[TERMINAL] = os.ttyname(sys.stderr.fileno())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def drop_progress_bars(notebook: Path) -> None:
    """Remove bars from an executed notebook: a bar that has run its course is only a broken control to the reader."""
    import nbformat

    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_progress_bar(output)]
    nbformat.write(content, notebook)


def is_progress_bar(output: Mapping[str, Any]) -> bool:
    data = output.get("data", {})
    return WIDGET in data and re.search(r"\d+%\||\d+it \[", data.get("text/plain", "")) is not None


def explain(error: Any, label: str, failed: Path) -> Exception:
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


# Names ---------------------------------------------------------------------------------------------------------


def check_model(name: str, revision: str = "") -> None:
    """Raise a sentence if no such model can exist: neither bundled, nor a directory, nor like a hub id."""
    bundled = sorted(path.parent.name for path in paths.MODELS.glob("*/config.json"))
    is_local = name in bundled or any((Path(name) / holds).exists() for holds in ("config.json", "snapshots"))
    if is_local and revision:
        raise VlmtraceError(f"REVISION={revision} is for models on the hub: {name} is on this machine, as it is.")
    if is_local or re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name):
        return
    raise VlmtraceError(
        f"Unknown model {name!r}: choose a bundled one ({', '.join(bundled) or 'none is there: run make model'}), "
        "a directory written by save_pretrained, or a hub id such as Salesforce/blip-vqa-base."
    )


def check_tasks(names: list[str]) -> None:
    from vlmtrace.tasks import TASKS

    if not names:
        raise VlmtraceError(f"TASKS is empty: choose from {', '.join(TASKS)}.")
    for name in names:
        one_of(name, TASKS, "task")
    if len(set(names)) < len(names):
        raise VlmtraceError(f"TASKS names a task twice: {' '.join(names)}.")


def check_data(tasks: list[str], root: str, question: str) -> None:
    """Raise a sentence if a task's data are not there, or ROOT or QUESTION is given for nothing."""
    from vlmtrace.tasks import ROOTED, find_root

    rooted = [name for name in tasks if name in ROOTED]
    if root and not rooted:
        raise VlmtraceError(f"ROOT={root} is for {', '.join(ROOTED)}: {' '.join(tasks)} needs none.")
    if question and "folder" not in tasks:
        raise VlmtraceError(f"QUESTION={question} is for the task folder, which TASKS={' '.join(tasks)} lacks.")
    for name in rooted:
        find_root(name, root)


def check_number(name: str, text: str, least: int) -> None:
    if not re.fullmatch(r"\d+", text) or int(text) < least:
        raise VlmtraceError(f"{name}={text} is not a whole number of at least {least}: correct it.")


# Commands ------------------------------------------------------------------------------------------------------


class Interrupted(click.ClickException):
    exit_code = 130  # as shells have it for SIGINT


class Commands(click.Group):
    """Prints a VlmtraceError as its sentence, without a traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except VlmtraceError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt as error:
            raise Interrupted("interrupted; what is finished is kept, and the same command continues there.") from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Activation patching of vision-language models, notebook by notebook (see README.md)."""


@main.command("run")
@click.argument("notebook", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--run", "run_name", default="", help="The run: a folder under data/runs.")
@click.option("--task", default="", help="The task, for notebooks that work on one.")
@click.option("-p", "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="May be repeated.")
def run_command(notebook: Path, run_name: str, task: str, parameters: tuple[str, ...]) -> None:
    """Execute NOTEBOOK into the folder of its run; an empty value keeps the notebook's default."""
    given = {name: value for name, value in (("run", run_name), ("task", task)) if value}
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if not equals:
            raise VlmtraceError(f"-p {parameter} is not NAME=VALUE: correct it.")
        given[name.strip()] = value.strip()
    run_notebook(notebook.resolve(), given)


@main.command("check")
@click.option("--model", required=True)
@click.option("--revision", default="", help="Branch, tag or commit of a model on the hub.")
@click.option("--tasks", required=True, help="Separated by blanks.")
@click.option("--root", default="", help="Where a dataset lies.")
@click.option("--question", default="", help="For the task folder.")
@click.option("--samples", default="")
@click.option("--seed", default="0")
@click.option("--run", "run_name", default="default")
def check_command(
    model: str, revision: str, tasks: str, root: str, question: str, samples: str, seed: str, run_name: str
) -> None:
    """Say in one sentence what is wrong with the parameters of a run, before anything is computed."""
    open_run(run_name)
    check_model(model, revision)
    check_tasks(tasks.split())
    check_data(tasks.split(), root, question)
    check_number("SEED", seed, 0)
    if samples:
        check_number("SAMPLES", samples, 1)


@main.command("report")
@click.option("--run", "run_name", default="default")
@click.option("--beside", default="", help="A run of another model to compare with.")
def report_command(run_name: str, beside: str) -> None:
    """Draw data/runs/RUN/report/index.html from what the run's folder holds."""
    from vlmtrace.report import write_report

    click.echo(f"Wrote {paths.relative(write_report(open_run(run_name), beside or None))}")
