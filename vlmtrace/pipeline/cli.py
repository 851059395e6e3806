"""The command line: everything that `make` drives, and single notebooks.

    python -m vlmtrace all --model tiny-blip --tasks "rendered_states rendered_svo" --run default
    python -m vlmtrace explore
    python -m vlmtrace run notebooks/04_module_patching.ipynb --run default --task rendered_svo -p seed=0
    python -m vlmtrace report --run default

Each option can also be given in the environment, as VLMTRACE_MODEL, VLMTRACE_TASKS, …: that is how `make` hands on its
variables, so that no character in them can be misread by a shell. Nothing here loads a model: notebooks run in kernels
of their own.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.checks import (
    LOADING,
    MOST_SAMPLES,
    MOST_SEED,
    check_data,
    check_device,
    check_loading,
    check_model,
    check_number,
    check_positions,
    check_tasks,
    check_text,
    split_names,
)
from vlmtrace.pipeline.model_files import is_decoder_only
from vlmtrace.pipeline.notebooks import run_notebook
from vlmtrace.pipeline.parameters import read_parameters
from vlmtrace.pipeline.runs import open_run
from vlmtrace.pipeline.runs_beside import NONE, runs_of_all, runs_of_explore
from vlmtrace.pipeline.stages import stages

if TYPE_CHECKING:
    from vlmtrace.pipeline.schedule import Settings

#: The tasks of a run that names none.
TASKS = "rendered_states rendered_faces rendered_svo"

#: What the option of this name is for.
BESIDE = "A run of another model to compare with; empty: the one that run.json remembers; -: none."

#: More notebooks at a time than any machine has cores for.
MOST_JOBS = 1024


class Interrupted(click.ClickException):
    """Ctrl-C."""

    exit_code = 130  # as shells have it for SIGINT


class Commands(click.Group):
    """Prints a VlmtraceError, and what the system refuses, as a sentence without a traceback."""

    def invoke(self, context: click.Context) -> Any:
        """Run a command."""
        try:
            check_home()
            return super().invoke(context)
        except VlmtraceError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever reads the output has enough: click ends in silence
                raise
            place = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(
                f"The system refuses: {place}{error.strerror or error}. Look at the permissions and the disk."
            ) from error
        except KeyboardInterrupt as error:
            from vlmtrace.pipeline.kernels import ignore_interruptions

            ignore_interruptions()  # the process ends now; a traceback of its threads would hide the sentence
            raise Interrupted("interrupted; what is finished is kept, and the same command continues there.") from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Activation patching of vision-language models, notebook by notebook (see README.md)."""


def check_home() -> None:
    """Raise a sentence if VLMTRACE_HOME is set to what is no folder."""
    if os.environ.get("VLMTRACE_HOME") and not paths.ROOT.is_dir():
        raise VlmtraceError(f"VLMTRACE_HOME={os.environ['VLMTRACE_HOME']} is not a folder: make it, or name another.")


def option(name: str, default: str, text: str) -> Callable:
    """An option that the environment can give, too; an empty text there gives the default."""
    variable = f"VLMTRACE_{name.upper()}"
    argument = "run_name" if name == "run" else name
    return click.option(
        f"--{name.replace('_', '-')}", argument, default=default, show_default=bool(default), envvar=variable, help=text
    )


def run_options(command: Callable) -> Callable:
    """The options that say what a run is made of."""
    for name, default, text in reversed(
        [
            ("model", "tiny-blip", "A bundled model, a directory written by save_pretrained, or a hub id."),
            ("revision", "", "Branch, tag or commit of a model on the hub."),
            ("tasks", TASKS, "Separated by blanks."),
            ("root", "", "Where a data set lies; empty: data/raw/<task>."),
            ("question", "", "For the task folder: the question, with {a} and {b} for the options."),
            ("instruction", "", 'Put behind every prompt, such as "Answer with one word."'),
            ("answer_prefix", "", 'The beginning of every answer, such as "The answer is".'),
            ("same_size", "", "yes: bring both images of a pair to one size where the model needs that."),
            ("samples", "", "Pairs of each task; empty: as in notebook 01."),
            (
                "positions",
                "",
                "Where to patch: all, text (images by region); empty: all where that is affordable.",
            ),
            ("seed", "0", "Of everything that is drawn."),
            ("run", "", "The run: a folder under data/runs; empty: default, or the model's name."),
            ("device", "cpu", "A torch device."),
            ("dtype", "", "float32, bfloat16, float16, float64, or auto: as the checkpoint is; empty: float32."),
            ("device_map", "", "auto, balanced or sequential: spread the model over GPUs, host memory and disk."),
            ("quantization", "", "bitsandbytes-8bit, bitsandbytes-4bit or torchao-int8; empty: as the checkpoint is."),
            ("attn_implementation", "", "sdpa or eager; empty: as transformers chooses."),
            ("max_pixels", "", "Make larger images smaller; empty: no bound."),
            ("image_size", "", "Resample every image to this width and height, such as 448x336; empty: its own."),
        ]
    ):
        command = option(name, default, text)(command)
    return command


def cluster_options(command: Callable) -> Callable:
    """The options of the commands whose parts a cluster can compute."""
    text = "A file of YAML: partition, walltime, memory, … (docs/cluster.md)."
    command = option("cluster_config", "", text)(command)
    text = "local:4 (workers on this machine), slurm, or tcp://host:port of a dask scheduler; empty: none."
    return option("cluster", "", text)(command)


def making_options(command: Callable) -> Callable:
    """The options of the commands that make a run."""
    command = cluster_options(command)
    command = option("beside", "", BESIDE)(command)
    command = option("jobs", "", "Notebooks at a time; empty: 2, or 1 on a GPU, which would hold a model for each.")(
        command
    )
    return run_options(command)


@main.command("all")
@making_options
def all_command(jobs: str, beside: str, cluster: str, cluster_config: str, **given: str) -> None:
    """Take every task from images to its circuits: tables, figures, executed notebooks, report.

    What is up to date is not made again. A run of tiny-llava is compared with one of tiny-blip, which is made where it
    is missing; a run that was made otherwise is compared with as it is.
    """
    mine = settings(**given)
    made, compared = runs_of_all(mine, beside)
    make("all", made, mine, compared, jobs, cluster, absolute("cluster_config", cluster_config))


@main.command("explore")
@making_options
def explore_command(jobs: str, beside: str, cluster: str, cluster_config: str, **given: str) -> None:
    """Run the notebooks that need no other stage: open questions, the explorer, edges, priors, case studies.

    Without a model of your own, both bundled models are explored, each in its run.
    """
    mine = settings(**given)
    made, compared = runs_of_explore(mine, beside)
    make("explore", made, mine, compared, jobs, cluster, absolute("cluster_config", cluster_config))


def settings(run_name: str, tasks: str, **given: str) -> Settings:
    """What a run is made of, checked: a wrong name stops here, before anything is touched."""
    from vlmtrace.pipeline.schedule import Settings  # schedules need kernels; other commands start without them

    run_name = run_name or default_run(given["model"])
    check(run_name=run_name, tasks=tasks, **given)
    for name in ("model", "root"):
        given[name] = absolute(name, given[name])
    return Settings(run=run_name, tasks=tuple(split_names(tasks)), **given)


def absolute(name: str, value: str) -> str:
    """A path that was typed in this folder, as one that kernels, which work in another, find, too.

    Args:
        name: of the parameter: model, root or cluster_config
        value: a path, or what is none
    """
    try:
        if not value or (name == "model" and (paths.MODELS / value / "config.json").is_file()):
            return value
        path = paths.from_home(value)
        return str(path.resolve()) if path.exists() else value
    except (OSError, ValueError, RuntimeError):  # what no path can be is said where it is checked
        return value


def default_run(model: str) -> str:
    """The run of a model that names none: `default` for tiny-blip, otherwise the model's name.

    >>> default_run("tiny-blip"), default_run("llava-hf/llava-1.5-7b-hf"), default_run("/my models/my blip/")
    ('default', 'llava-1.5-7b-hf', 'my-blip')
    """
    if model == "tiny-blip":
        return "default"
    name = absolute("model", model).split("@")[0].rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:80]


def make(
    target: str,
    made: Sequence[Settings],
    mine: Settings,
    beside: str | None,
    jobs: str,
    cluster: str = "",
    cluster_config: str = "",
) -> None:
    """Run what is out of date, draw the reports (mine with the run beside it), and say where they are."""
    from vlmtrace.pipeline.cluster.connection import check_cluster, shared_cluster
    from vlmtrace.pipeline.report_state import make_report
    from vlmtrace.pipeline.schedule import jobs_of, run_jobs

    at_once = check_number("JOBS", jobs, 1, MOST_JOBS) if jobs else 2 if on_cpu(made[0]) else 1
    check_cluster(cluster, cluster_config)
    matters = any(spec.models == "decoder-only" for spec in stages().values() if spec.target == target)
    kinds = [not matters or is_decoder_only(given.model) for given in made]
    ran = run_jobs(
        [job for given, kind in zip(made, kinds, strict=True) for job in jobs_of(target, given, kind)],
        at_once,
        lambda: shared_cluster(cluster, cluster_config, made[0].device),
    )
    for given in made:
        run = open_run(given.run)
        drawn = make_report(run, beside if given is mine else None)
        worked = drawn or any(job.settings.run == given.run for job in ran)
        page = paths.relative(run.folder / "report" / "index.html")
        words = "Done" if worked else f"Nothing to do: run {given.run} is up to date"
        click.echo(f"{words}. Open {page} in a browser.")


def on_cpu(given: Settings) -> bool:
    """Whether several models can be in memory at a time, as no GPU has to hold them."""
    return given.device == "cpu" and not given.device_map


@main.command("run")
@click.argument("notebook", type=click.Path(path_type=Path))
@click.option("--run", "run_name", default="", help="The run: a folder under data/runs.")
@click.option("--task", default="", help="The task, for notebooks that work on one.")
@click.option("-p", "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="May be repeated.")
@cluster_options
def run_command(
    notebook: Path, run_name: str, task: str, parameters: tuple[str, ...], cluster: str, cluster_config: str
) -> None:
    """Execute NOTEBOOK into the folder of its run; an empty value keeps the notebook's default."""
    from vlmtrace.pipeline.cluster.connection import check_cluster, shared_cluster

    given = {name: value for name, value in (("run", run_name), ("task", task)) if value}
    for parameter in parameters:
        name, equals, value = (part.strip() for part in parameter.partition("="))
        if not equals:
            raise VlmtraceError(f"-p {parameter[:80]} is not NAME=VALUE: correct it.")
        if name in given:
            raise VlmtraceError(f"{name[:80]} is given twice: leave one of them out.")
        given[name] = absolute(name, value) if name in ("model", "root") else value
    cluster_config = absolute("cluster_config", cluster_config)
    check_cluster(cluster, cluster_config)
    path = absolute_notebook(notebook)
    read_parameters(path, given)  # a mistake is said before a cluster starts
    with shared_cluster(cluster, cluster_config, given.get("device", "cpu")):
        run_notebook(path, given)


def absolute_notebook(notebook: Path) -> Path:
    """The path of a notebook that was typed in this folder.

    Raises:
        VlmtraceError: it can be no path
    """
    try:
        return notebook.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise VlmtraceError(f"There is no notebook {str(notebook)[:200]!r}: correct its path.") from error


@main.command("check")
@run_options
def check_command(**given: str) -> None:
    """Say in one sentence what is wrong with the parameters of a run, before anything is computed."""
    check(**{**given, "run_name": given["run_name"] or default_run(given["model"])})


def check(run_name: str, model: str, revision: str, tasks: str, root: str, question: str, **others: str) -> None:
    """Raise a sentence if a run cannot be made of this."""
    check_model(model, revision)
    open_run(run_name)
    names = split_names(tasks)
    for name, text in {"ROOT": root, **{name.upper(): text for name, text in others.items()}}.items():
        check_text(name, text)
    check_tasks(names)
    check_data(names, root, question)
    if others["same_size"] not in ("", "yes", "no"):
        raise VlmtraceError(f"SAME_SIZE={others['same_size'][:40]} says neither yes nor no: correct it.")
    check_number("SEED", others["seed"], 0, MOST_SEED)
    if others["samples"]:
        check_number("SAMPLES", others["samples"], 1, MOST_SAMPLES)
    if others["positions"]:
        check_positions(others["positions"])
    check_device(others["device"])
    check_loading({name: others[name] for name in LOADING}, others["device"])


@main.command("report")
@option("run", "default", "The run.")
@option("beside", "", BESIDE)
def report_command(run_name: str, beside: str) -> None:
    """Draw data/runs/RUN/report/index.html from what the run's folder holds."""
    run = open_run(run_name)
    compared = "" if beside == NONE else beside or None
    from vlmtrace.pipeline.report import write_report  # it imports torch, which takes seconds

    if compared:
        from vlmtrace.pipeline.comparison import check_comparable

        check_comparable(run, open_run(compared))
    click.echo(f"Wrote {paths.relative(write_report(run, compared))}")
