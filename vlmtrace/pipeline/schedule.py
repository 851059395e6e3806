"""What `make all` and `make explore` do: run the stages that are out of date, in order, several at a time.

A stage is up to date when what it was made from is what it would be made from now: its notebook, the code that its
tables come from, the model's files, its parameters and the tables that it reads. That, and not the age of files, is
compared; run.json keeps it under "made_from".
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import click

from vlmtrace.core.errors import NotForThisModel
from vlmtrace.core.files import locked
from vlmtrace.pipeline.checkpoints import file_digest
from vlmtrace.pipeline.checks import LOADING
from vlmtrace.pipeline.dependencies import code_digest, modules_used_by
from vlmtrace.pipeline.kernels import OwnKernelManager, kernel_threads, warm_kernels
from vlmtrace.pipeline.model_files import model_digest
from vlmtrace.pipeline.notebook_files import declared_parameters
from vlmtrace.pipeline.notebook_pages import pages_beside
from vlmtrace.pipeline.notebooks import execute, kernel_environment
from vlmtrace.pipeline.records import plain
from vlmtrace.pipeline.runs import Run, open_run
from vlmtrace.pipeline.stages import StageSpec, stages, writer_of
from vlmtrace.tasks import declared


@dataclass(frozen=True)
class Settings:
    """What a run is made of, as `make` is given it.

    Attributes:
        run: the run's name
        model: a bundled model's name, a directory, or a hub id
        revision: of a model on the hub; "": main
        tasks: names of tasks
        root: where a data set lies; "": data/raw/<task>
        question: for the task `folder`; "": as in notebook 01
        instruction: put behind every prompt; "": nothing
        answer_prefix: the beginning of every answer; "": none
        same_size: "yes": bring both images of a pair to one size where the model needs that
        samples: pairs of each task, as text; "": as in notebook 01
        positions: where modules and heads are patched; "": as in the notebooks
        seed: as text
        device: a torch device
        dtype: of the model's numbers; "": as in the notebooks
        device_map: how a model is spread over devices; "": it is not
        quantization: of its weights; "": as they are stored
        attn_implementation: how its attention is computed; "": as transformers chooses
        max_pixels: of an image, as text; "": no bound
        image_size: of every image, such as 448x336; "": its own
    """

    run: str
    model: str = "tiny-blip"
    revision: str = ""
    tasks: tuple[str, ...] = ("rendered_states", "rendered_faces", "rendered_svo")
    root: str = ""
    question: str = ""
    instruction: str = ""
    answer_prefix: str = ""
    same_size: str = ""
    samples: str = ""
    positions: str = ""
    seed: str = "0"
    device: str = "cpu"
    dtype: str = ""
    device_map: str = ""
    quantization: str = ""
    attn_implementation: str = ""
    max_pixels: str = ""
    image_size: str = ""


@dataclass
class Job:
    """One stage of one run, for one task ("" for a stage over all tasks)."""

    spec: StageSpec
    task: str
    settings: Settings
    after: set[tuple[str, str, str]] = field(default_factory=set)

    @property
    def key(self) -> tuple[str, str, str]:
        """Run, task and stage."""
        return (self.settings.run, self.task, self.spec.name)

    @property
    def stage(self) -> str:
        """The job's name in run.json."""
        return f"{self.task}/{self.spec.name}" if self.task else self.spec.name

    @property
    def run(self) -> Run:
        """The run whose folder the job writes to."""
        return open_run(self.settings.run)

    def parameters(self) -> dict[str, str]:
        """What the notebook is given, as text; what is empty keeps the notebook's default."""
        given = self.settings
        task = declared().get(self.task)
        wanted = {
            "model": f"{given.model}@{given.revision}" if given.revision else given.model,
            "seed": given.seed,
            "device": given.device,
            **{name: getattr(given, name) for name in LOADING},
            "run": given.run,
            "task": self.task,
            "tasks": "" if self.task else " ".join(given.tasks),
            # Later stages take all pairs that the first one made; explorers have their own number.
            "samples": given.samples if self.task and not self.spec.reads else "",
            "positions": given.positions,
            "root": given.root if task and task.needs_root else "",
            "question": given.question if task and task.takes_question else "",
            "instruction": given.instruction,
            "answer_prefix": given.answer_prefix,
            "same_size": "True" if given.same_size == "yes" else "",
        }
        known = declared_parameters(self.spec.notebook)
        return {name: value for name, value in wanted.items() if name in known}

    def deciding_parameters(self) -> dict[str, str]:
        """The parameters that decide about the result: where it is computed and where it is kept does not."""
        return {name: text for name, text in self.parameters().items() if name not in ("device", "device_map", "run")}

    def outputs(self) -> list[Path]:
        """The files that the job leaves: its tables, or the executed notebook of a stage without any."""
        tables = [self.run.path(table, self.task or None) for table in self.spec.writes]
        return tables or [self.run.executed_notebook(self.spec.name, self.task)]

    def made_from(self) -> dict[str, Any]:
        """What decides about the result; equal values mean that nothing needs to run again."""
        spec = self.spec
        tables = [
            self.run.path(table, task)
            for table in spec.reads
            for task in ([self.task] if self.task else self.settings.tasks)
        ]
        modules = modules_used_by(spec.notebook, drawing=not spec.writes)
        return {
            "parameters": self.deciding_parameters(),
            "notebook": file_digest(spec.notebook),
            "code": code_digest(modules),
            "model": model_digest(self.settings.model),
            "reads": {_below(self.run, path): file_digest(path) if path.is_file() else None for path in tables},
        }

    def is_up_to_date(self) -> bool:
        """Whether the result is there, as it was written, and would come out the same."""
        record = self.run.record()
        if not all(path.is_file() for path in self.outputs()):
            return False
        written = record["stages"].get(self.stage, {}).get("writes", {})
        tables = [self.run.path(table, self.task or None) for table in self.spec.writes]
        if any(written.get(_below(self.run, path)) != file_digest(path) for path in tables):
            return False
        return record.get("made_from", {}).get(self.stage) == plain(self.made_from())

    def replaced(self) -> list[str]:
        """Sentences about what somebody changed in the run since make worked on it, and what is now made again."""
        record = self.run.record()
        if self.stage not in record["stages"]:
            return []
        if self.stage not in record.get("made_from", {}):
            return [f"{self.stage} was run without make, or was interrupted: it is made again with these parameters."]
        written = record["stages"][self.stage]["writes"]
        tables = {_below(self.run, path): path for path in self.outputs()}
        return [
            f"{name} was changed after {self.stage} wrote it, by hand or by another program: it is made again."
            for name, path in tables.items()
            if name in written and path.is_file() and written[name] != file_digest(path)
        ]

    def execute(self, kernels: type[OwnKernelManager]) -> bool:
        """Run the notebook, and remember what its result was made from.

        Returns:
            whether there is a result: what a model cannot be asked, is said and left out
        """
        made_from = self.made_from()
        for sentence in self.replaced():
            click.echo(sentence)
        try:
            execute(self.spec.notebook, {name: text for name, text in self.parameters().items() if text}, kernels)
        except NotForThisModel as error:
            click.echo(f"{error} The stage is left out.")
            return False
        self.run.remember(self.stage, made_from)
        return True


def jobs_of(target: str, settings: Settings, decoder_only: bool) -> list[Job]:
    """The jobs of a target, earlier stages first.

    Args:
        target: "all" or "explore"
        settings: of the run
        decoder_only: whether the model is; others are not asked by stages for decoder-only models
    """
    known = stages()
    found = []
    for spec in known.values():
        if spec.target != target or (spec.models == "decoder-only" and not decoder_only):
            continue
        for task in settings.tasks if spec.per == "task" else ("",):
            writers = [writer_of(table, known) for table in spec.reads]
            after = {
                (settings.run, other, writer.name)
                for writer in writers
                for other in (("",) if writer.per == "run" else (task,) if task else settings.tasks)
            }
            found.append(Job(spec, task, settings, after))
    return found


def run_jobs(
    jobs: Sequence[Job],
    at_once: int,
    cluster: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> list[Job]:
    """Run the jobs that are out of date, and those that read what these write.

    Args:
        jobs: of one run or several
        at_once: how many kernels at a time
        cluster: what the kernels find in their environment, for as long as they run; started where a job has to
    Returns:
        the jobs that ran
    Raises:
        VlmtraceError, click.ClickException: a notebook failed, after those that ran beside it have finished; or
            another process works on the same run
    """
    by_key = {job.key: job for job in jobs}
    ran: list[Job] = []
    with contextlib.ExitStack() as stack:
        for run in {job.settings.run: job.run for job in jobs}.values():
            stack.enter_context(alone_on(run))
        if all(job.is_up_to_date() for job in jobs):
            return ran
        threads = max(1, (os.cpu_count() or 1) // at_once)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # more threads than cores slow small models down
        stack.enter_context(cluster())
        stack.enter_context(kernel_environment())
        kernels = stack.enter_context(warm_kernels())
        # Notebooks expect to run in their own folder; papermill would change it for the whole process each time.
        stack.enter_context(contextlib.chdir(jobs[0].spec.notebook.parent))
        pages = {job.run.executed_notebook(job.spec.name, job.task): job.run for job in jobs}
        finished = stack.enter_context(pages_beside(pages))
        pool = stack.enter_context(kernel_threads(at_once))
        idle = stack.enter_context(ThreadPoolExecutor(1))
        graph = TopologicalSorter({job.key: job.after & by_key.keys() for job in jobs})
        ahead = stages_ahead(jobs)
        # Among equals the stage over all tasks goes first, then the task whose stages took longest so far: what takes
        # longest must not begin last.
        spent = {job.task: 0.0 for job in jobs}
        began: dict[tuple[str, str, str], float] = {}
        graph.prepare()
        ready: list[Job] = []
        working: dict[Future, Job] = {}
        failure: BaseException | None = None
        while graph.is_active() and not (failure and not working):
            ready += [by_key[key] for key in graph.get_ready()]
            while ready and len(working) < at_once and not failure:
                job = max(ready, key=lambda one: (ahead[one.key], not one.task, spent[one.task]))
                ready.remove(job)
                if job.is_up_to_date():
                    graph.done(job.key)
                    ready += [by_key[key] for key in graph.get_ready()]
                else:
                    working[pool.submit(job.execute, kernels)] = job
                    began[job.key] = time.monotonic()
            if not ready and len(working) < at_once:
                idle.submit(import_report)
            done, _ = wait(working, return_when=FIRST_COMPLETED)
            for future in done:
                job = working.pop(future)
                if future.exception() is not None:
                    failure = failure or future.exception()
                    continue
                graph.done(job.key)
                if future.result():
                    ran.append(job)
                    spent[job.task] += time.monotonic() - began[job.key]
                    finished(job.run.executed_notebook(job.spec.name, job.task))
        if failure:
            raise failure
    return ran


def import_report() -> None:
    """Import what the report needs (torch takes seconds), while a core has nothing else to do."""
    importlib.import_module("vlmtrace.pipeline.report")


def stages_ahead(jobs: Sequence[Job]) -> dict[tuple[str, str, str], int]:
    """How many stages wait for each job, one behind the other.

    Those that most stages wait for go first: what nothing waits for fills the cores at the end, while the last stages
    run, which could not begin before all others had finished.

    Args:
        jobs: of one run or several

    Returns:
        by the job's key, the length of the longest chain of jobs behind it
    """
    readers: dict[tuple[str, str, str], list[tuple[str, str, str]]] = {job.key: [] for job in jobs}
    for job in jobs:
        for key in job.after & readers.keys():
            readers[key].append(job.key)
    graph = TopologicalSorter(readers)  # readers first
    ahead: dict[tuple[str, str, str], int] = {}
    for key in graph.static_order():
        ahead[key] = max((1 + ahead[reader] for reader in readers[key]), default=0)
    return ahead


def alone_on(run: Run) -> contextlib.AbstractContextManager[None]:
    """Keep other processes from making the same run at the same time.

    Raises:
        VlmtraceError: one does
    """
    return locked(
        run.folder / ".make.lock",
        busy=f"Another process is making run {run.name!r}: wait until it has finished, or choose another RUN.",
    )


def _below(run: Run, path: Path) -> str:
    return path.relative_to(run.folder).with_suffix("").as_posix()
