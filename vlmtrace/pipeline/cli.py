"""The command line: run a notebook as a stage of a run, check names before anything starts, draw the report.

    python -m vlmtrace run notebooks/04_module_patching.ipynb --run default --task rendered_svo -p seed=0
    python -m vlmtrace check --model tiny-blip --tasks "rendered_states rendered_svo"
    python -m vlmtrace report --run default

Nothing here loads a model: notebooks run in a kernel of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.notebooks import run_notebook
from vlmtrace.pipeline.parameters import check_data, check_model, check_number, check_tasks
from vlmtrace.pipeline.runs import open_run

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
    from vlmtrace.pipeline.report import write_report

    click.echo(f"Wrote {paths.relative(write_report(open_run(run_name), beside or None))}")
