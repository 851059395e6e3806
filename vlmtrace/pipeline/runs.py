"""Where a run keeps its tables and figures, what it remembers about them, and how a sweep resumes.

A run is a folder, `data/runs/<name>`. A notebook is one stage of it:

    stage = open_run("default").stage("04_module_patching", task, model=vlm, seed=0)
    selected = stage.read("selected")
    effects = stage.resume(vt.patch_modules, vlm, selected, corruption="image")
    stage.finish(module_patching=effects)

`read` refuses a table that was made with another seed or model, or from tables that have changed since. `resume`
works in parts that are kept until `finish`, so that what an interruption leaves behind is not computed twice.
`finish` writes the tables, whole or not at all, and records in `run.json` how they came about.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import shutil
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vlmtrace.core import paths
from vlmtrace.core.arguments import Count, NotebookParameter, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import locked, make_folder, read_table_and_digest, write_atomically, write_json
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import check_read, check_written
from vlmtrace.pipeline.checkpoints import Checkpoints, chunks, digest_of, file_digest, package_digest
from vlmtrace.pipeline.cluster.connection import current
from vlmtrace.pipeline.model_files import check_sites, model_digest
from vlmtrace.pipeline.records import plain, plain_name, read_record, upstream, versions
from vlmtrace.pipeline.stages import SHARED, stages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vlmtrace.models.vlm import VLM


#: A run's name is part of paths that must not become too long for any system.
LONGEST_NAME = 100


@checked
def open_run(name: str) -> Run:
    """The run of this name; its folder appears when something is written.

    Args:
        name: letters, digits, ".", "_" and "-"

    Returns:
        the run, whether or not anything has been written yet

    Raises:
        VlmtraceError: the name cannot be a folder's.

    Example:
        >>> open_run("default").path("selected", "rendered_svo").name
        'selected.parquet'
    """
    name = str(name)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise VlmtraceError(
            f"A run cannot be called {name[:80]!r}: use letters, digits, '.', '_' and '-', "
            "beginning with neither '.' nor '-'."
        )
    if len(name) > LONGEST_NAME:
        raise VlmtraceError(f"A run cannot be called {name[:40]}…: use at most {LONGEST_NAME} characters.")
    if re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name, re.IGNORECASE) or name.endswith("."):
        raise VlmtraceError(f"A run cannot be called {name!r}: Windows cannot make a folder of this name.")
    return Run(name)


class Run:
    """One run: a folder with tables, figures, executed notebooks and run.json.

    Attributes:
        name: the run's name
        folder: data/runs/<name>
    """

    @checked
    def __init__(self, name: str):
        self.name = name
        self.folder = paths.RUNS / name

    def __repr__(self) -> str:
        return f"<Run {self.name} in {paths.relative(self.folder)}>"

    @checked
    def path(self, table: str, task: str | None = None) -> Path:
        """Where a table lies, whether or not it is there.

        Args:
            table: its name in the table contract, such as "selected"
            task: the task; None for tables over all tasks

        Raises:
            VlmtraceError: either cannot be the name of a file
        """
        folder = self.folder / plain_name(task, "task") if task else self.folder
        return folder / f"{plain_name(table, 'table')}.parquet"

    @checked
    def executed_notebook(self, stage: str, task: str | None = None) -> Path:
        """Where the executed copy of a stage's notebook lies."""
        plain_name(f"{task}-{stage}" if task else stage, "notebook")
        return self.folder / "notebooks" / (f"{task}-{stage}.ipynb" if task else f"{stage}.ipynb")

    @checked
    def table(self, table: str, task: str | None = None) -> pd.DataFrame:
        """Read a table.

        Args:
            table: its name in the table contract
            task: the task; None for tables over all tasks

        Returns:
            the table, with the columns that the contract promises

        Raises:
            VlmtraceError: it is not there, cannot be read, or breaks the table contract.
        """
        return self.table_and_digest(table, task)[0]

    @checked
    def table_and_digest(self, table: str, task: str | None = None) -> tuple[pd.DataFrame, str]:
        """Read a table as `table` does; the digest is that of the very file that was read."""
        path = self.path(table, task)
        found, digest = read_table_and_digest(path)
        return check_read(table, found, paths.relative(path)), digest

    def record(self) -> dict[str, Any]:
        """What run.json says: the parameters of the latest stage, versions, and one entry per stage.

        Raises:
            VlmtraceError: the file is damaged, or vlmtrace did not write it
        """
        return read_record(self.folder / "run.json", self.name)

    def changing(self) -> contextlib.AbstractContextManager[None]:
        """Wait until no other process changes the run's tables and record, and keep others from it meanwhile."""
        return locked(self.folder / ".run.lock")

    @checked
    def stage(
        self, name: str, task: str | None = None, model: VLM | None = None, **parameters: NotebookParameter
    ) -> Stage:
        """Begin a stage.

        Args:
            name: the stage's name, that of its notebook
            task: the task that it works on; None for all
            model: the model that it uses; its name and the digest of its weights are recorded
            parameters: what the result depends on besides; recorded in run.json and compared with those of the stages
                that wrote what this one reads
        """
        return Stage(self, name, task, model, parameters)

    @checked
    def update(self, stage: str, entry: Mapping[str, Any]) -> None:
        """Merge one stage's entry into run.json, safely beside other processes that do the same."""
        with self.changing():
            self.merge(stage, entry)

    @checked
    def merge(self, stage: str, entry: Mapping[str, Any]) -> None:
        """Merge one stage's entry into run.json, by who holds the lock of `changing`."""
        record = self.record()
        record["stages"][stage] = dict(entry)
        # Made with whatever parameters: `make` says afterwards what it made the stage from, see `remember`.
        record.get("made_from", {}).pop(stage, None)
        known = {name: value for name, value in entry["parameters"].items() if name in ("model", "seed", "tasks")}
        record["parameters"].update(known)
        if "fingerprint" in entry["parameters"]:
            record["model_fingerprint"] = entry["parameters"]["fingerprint"]
        record["versions"] = versions()
        write_json(record, self.folder / "run.json")

    @checked
    def remember(self, stage: str, made_from: Mapping[str, Any]) -> None:
        """Note in run.json what a stage's result was made from; see `vlmtrace.pipeline.schedule`."""
        with self.changing():
            record = self.record()
            record.setdefault("made_from", {})[stage] = plain(made_from)
            write_json(record, self.folder / "run.json")


class Stage:
    """One notebook's work in a run: what it reads, computes in parts, draws and writes. Made by `Run.stage`."""

    @checked
    def __init__(self, run: Run, name: str, task: str | None, model: VLM | None, parameters: Mapping[str, Any]):
        self.run, self.name, self.task, self.model = run, plain_name(name, "stage"), task, model
        self.key = f"{plain_name(task, 'task')}/{name}" if task else name
        self.parameters = dict(parameters)
        if model is not None:
            self.parameters |= {"model": model.name, "fingerprint": model.fingerprint()}
            if model.revision is not None:
                self.parameters["revision"] = model.revision
        self.started = time.monotonic()
        self.reads: dict[str, str] = {}
        self.figures: list[dict[str, str]] = []
        self.facts: dict[str, Any] = {}
        self.parts_folder = run.folder / ".parts" / self.key.replace("/", "-")

    @checked
    def read(self, table: str, task: str | None = None) -> pd.DataFrame:
        """Read a table that an earlier stage of the run wrote.

        Args:
            table: its name in the table contract
            task: the task; None for this stage's

        Raises:
            VlmtraceError: it is missing or breaks the table contract; or it was made with another model or seed than
                this stage is told to use, or from tables that have changed since, so that the two would not belong
                together; or it names layers or heads that the model does not have
        """
        path = self.run.path(table, task or self.task)
        found, digest = self.run.table_and_digest(table, task or self.task)
        self._check_upstream(path, digest)
        check_sites(found, self.model, paths.relative(path))
        self.reads[self._name(path)] = digest
        return found

    def note(self, **facts: Any) -> None:
        """Record something else about this stage in run.json, such as the source of its data."""
        self.facts |= plain(facts)

    @checked
    def figure(self, figure: Figure, name: str, caption: str = "") -> Figure:
        """Save a figure as PNG and PDF under the run's figures.

        Args:
            figure: any matplotlib figure
            name: of the files; the task is put before it
            caption: what the report prints below the figure

        Returns:
            the figure, to be shown as a cell's result
        """
        # Here, since drawing takes a second to import, and the command line does not draw.
        from matplotlib import pyplot as plt

        from vlmtrace.display.style import save_figure

        stem = plain_name(f"{self.task}-{name}" if self.task else name, "figure")
        save_figure(figure, self.run.folder / "figures" / stem)
        self.figures = [entry for entry in self.figures if entry["name"] != stem]
        self.figures.append({"name": stem, "caption": caption})
        plt.close(figure)  # else a notebook would show it twice
        return figure

    @checked
    def resume(
        self,
        function: Callable[..., pd.DataFrame],
        model: VLM,
        pairs: pd.DataFrame,
        chunk: Count = 16,
        **options: Any,
    ) -> pd.DataFrame:
        """Compute `function(model, pairs, **options)` in parts that survive an interruption, here or on a cluster.

        A part belongs to the function, its options, the model (its weights and number type, and its files: processor,
        tokenizer), the rows, images and masks it was made from, and the versions of this package and of what it
        computes with: where any of these differ, or the file is damaged, it is computed again. Parts are deleted when
        the stage finishes.

        Where a connection to a cluster is open (`vt.connect`, or CLUSTER of make), workers compute the parts that are
        missing and write the same files.

        Args:
            function: such as `vt.patch_heads`: from a model and a pairs table to a table; for workers it must stand at
                the top of a module that they can import
            model: its first argument
            pairs: its second argument
            chunk: pairs per part
            options: its further arguments

        Returns:
            the concatenation of the parts, in the order of `pairs`

        Raises:
            VlmtraceError: there are no pairs; or parts could not be computed on the cluster, after all others were
        """
        made_by = [model.fingerprint(), model_digest(model.name), str(getattr(model, "dtype", "")), versions()]
        code = package_digest()
        key = digest_of(function.__module__, function.__name__, options, made_by, code)
        parts = Checkpoints(self.parts_folder / function.__name__, key)
        title = " ".join([function.__name__, *(str(value) for value in options.values() if isinstance(value, str))])
        pieces = list(chunks(pairs, chunk))
        if not pieces:
            raise VlmtraceError(f"{self.key} has no pairs left to work on: raise SAMPLES or look at what 03 left out.")
        tables = {number: table for number, rows in enumerate(pieces) if (table := parts.get(rows)) is not None}
        missing = {number: rows for number, rows in enumerate(pieces) if number not in tables}
        found = len(pairs) - sum(len(rows) for rows in missing.values())
        connection = current() if missing else None
        if connection is None:
            made: Generator[tuple[int, pd.DataFrame], None, None] = (
                (number, parts.put(rows, function(model, rows, **options))) for number, rows in missing.items()
            )
        else:
            from vlmtrace.pipeline.cluster.parts import compute_parts

            made = compute_parts(connection, parts, function, model, options, code, missing)
        with contextlib.closing(made), counter(len(pairs), title, "pairs", found, steady=True) as advance:
            for number, table in made:
                tables[number] = table
                advance(len(pieces[number]))
        return pd.concat([tables[number] for number in range(len(pieces))], ignore_index=True)

    @checked
    def finish(self, **tables: pd.DataFrame) -> None:
        """Write the stage's tables, record how they were made, delete the parts and say what comes next.

        Args:
            tables: by their names in the table contract

        Raises:
            VlmtraceError: a table breaks the contract, or the disk is full or read-only; then nothing is written
        """
        for name, table in tables.items():
            check_written(name, table)
        make_folder(self.run.folder)
        # Under one lock, so that tables and record are of one process where two finish the same stage at a time.
        with self.run.changing(), ExitStack() as stack:
            writes = {}
            for name, table in tables.items():
                path = self.run.path(name, self.task)
                temporary = stack.enter_context(write_atomically(path, durable=True))
                table.to_parquet(temporary, index=False)
                writes[self._name(path)] = file_digest(temporary)
            seconds = round(time.monotonic() - self.started, 2)
            self.run.merge(self.key, self._entry(writes, seconds))
        shutil.rmtree(self.parts_folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # other stages still keep parts there, or there never were any
            self.parts_folder.parent.rmdir()
        for name, table in tables.items():
            print(f"Wrote {paths.relative(self.run.path(name, self.task))}: {len(table):,} rows.")
        pipeline = [name for name, spec in stages().items() if spec.target == "all"]
        following = [name for name in pipeline if name > self.name][:1] if self.name in pipeline else []
        print(f"{self.name} took {seconds:.0f} s." + (f" Next: {following[0]}." if following else ""))

    def _entry(self, writes: Mapping[str, str], seconds: float) -> dict[str, Any]:
        return {
            "parameters": plain(self.parameters),
            "reads": self.reads,
            "writes": dict(writes),
            "figures": self.figures,
            **self.facts,
            "seconds": seconds,
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": versions(),
        }

    def _name(self, path: Path) -> str:
        return path.relative_to(self.run.folder).with_suffix("").as_posix()

    def _check_upstream(self, path: Path, digest: str) -> None:
        """Refuse a table that does not belong with this stage; a table that no stage wrote (one's own) always does."""
        stages = self.run.record()["stages"]
        mine = plain(self.parameters)
        for writer, entry in upstream(self._name(path), stages):
            for name, words in SHARED.items():
                theirs = entry["parameters"].get(name)
                if name in mine and theirs is not None and theirs != mine[name]:
                    raise VlmtraceError(
                        f"Run {self.run.name!r} was made with {words} {theirs} ({writer}), not {mine[name]}: "
                        f"choose another run, or run {writer} again with {words} {mine[name]} first."
                    )
            for table, read in entry["reads"].items():
                source = self.run.folder / f"{table}.parquet"
                if source.is_file() and file_digest(source) != read:
                    raise VlmtraceError(
                        f"Run {self.run.name!r}: {table} has changed since {writer} read it, so {self._name(path)} "
                        f"is out of date: run {writer} again first."
                    )
            if entry["writes"].get(self._name(path), digest) != digest:
                print(f"{self._name(path)} was changed after {writer} wrote it, by hand or by another program.")
