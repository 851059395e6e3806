"""A stage: what one notebook reads, computes in parts that survive an interruption, draws and writes.

    stage = open_run("default").stage("04_module_patching", task, model=vlm, seed=0)
    selected = stage.read("selected")
    effects = stage.resume(vt.patch_modules, vlm, selected, corruption="image")
    stage.finish(module_patching=effects)

`read` refuses a table that was made with another seed or model, or from tables that have changed since. `resume`
works in parts that are kept until `finish`, so that what an interruption leaves behind is not computed twice; `scan`
and `resume_stored` do the same with tables that stay on disk. `finish` writes the tables, whole or not at all, and
records in `run.json` how they came about.

A stage asks its run for the places of tables and for the record (`RunFolder`); the run (`vlmtrace.pipeline.runs`)
begins stages, so this module does not import it.
"""

from __future__ import annotations

import contextlib
import datetime
import shutil
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vlmtrace.core import paths
from vlmtrace.core.arguments import Count, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import make_folder, write_atomically
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import check_written
from vlmtrace.core.stored import StoredTable
from vlmtrace.pipeline.checkpoints import Checkpoints, chunks, digest_of, file_digest, package_digest
from vlmtrace.pipeline.cluster.connection import current
from vlmtrace.pipeline.model_files import check_sites, model_digest
from vlmtrace.pipeline.records import plain, plain_name, versions
from vlmtrace.pipeline.run_folder import RunFolder, check_upstream
from vlmtrace.pipeline.stages import stages
from vlmtrace.pipeline.stored_parts import gathered, in_order, write_parquet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vlmtrace.models.vlm import VLM


class Stage:
    """One notebook's work in a run: what it reads, computes in parts, draws and writes. Made by `Run.stage`."""

    @checked
    def __init__(self, run: RunFolder, name: str, task: str | None, model: VLM | None, parameters: Mapping[str, Any]):
        self.run, self.name, self.task, self.model = run, plain_name(name, "stage"), task, model
        self.key = f"{plain_name(task, 'task')}/{name}" if task else name
        self.parameters = dict(parameters)
        if model is not None:
            self.parameters |= {"model": model.name, "fingerprint": model.fingerprint()}
            if loading := _loading(model):
                self.parameters["loading"] = loading
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
        check_upstream(self.run, self._name(path), digest, self.parameters)
        check_sites(found, self.model, paths.relative(path))
        self.reads[self._name(path)] = digest
        return found

    @checked
    def scan(self, table: str, task: str | None = None) -> StoredTable:
        """Open a table that an earlier stage wrote, to be read some pairs at a time.

        It is checked as `read` checks a table, but never held in memory as a whole.

        Args:
            table: its name in the table contract
            task: the task; None for this stage's

        Returns:
            the table; `read()` reads it whole, `only(…)` chooses rows

        Raises:
            VlmtraceError: as `read`
        """
        path = self.run.path(table, task or self.task)
        found = self.run.stored(table, task or self.task)
        check_upstream(self.run, self._name(path), found.digest, self.parameters)
        for batch in found.batches(["block", "layer", "head"], whole_pairs=False):
            check_sites(batch, self.model, paths.relative(path))
        self.reads[self._name(path)] = found.digest
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

        A part belongs to the function, its options, the model (its weights, how it was loaded, and its files: processor
        and tokenizer), the rows, images and masks it was made from, and the versions of this package and of what it
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
        pieces, parts = self._pieces(function, model, pairs, chunk, options)
        with contextlib.closing(self._made(pieces, parts, function, model, options)) as made:
            tables = dict(made)
        return pd.concat([tables[number] for number in range(len(pieces))], ignore_index=True)

    @checked
    def resume_stored(
        self,
        function: Callable[..., pd.DataFrame],
        model: VLM,
        pairs: pd.DataFrame,
        chunk: Count = 16,
        **options: Any,
    ) -> StoredTable:
        """Compute as `resume` does, but leave the result on disk: memory holds a part at a time.

        Args:
            function: such as `vt.patch_heads`: from a model and a pairs table to a table
            model: its first argument
            pairs: its second argument
            chunk: pairs per part
            options: its further arguments

        Returns:
            the parts in the order of `pairs`, as a table that is read some pairs at a time; `read()` reads it whole

        Raises:
            VlmtraceError: there are no pairs, or the disk refuses
        """
        pieces, parts = self._pieces(function, model, pairs, chunk, options)

        def again(number: int) -> pd.DataFrame:
            found = parts.get(pieces[number])
            return parts.put(pieces[number], function(model, pieces[number], **options)) if found is None else found

        with contextlib.closing(self._made(pieces, parts, function, model, options)) as made:
            return gathered(in_order(made, again), self.parts_folder, f"{self.key}: {function.__name__}")

    def _pieces(
        self, function: Callable[..., pd.DataFrame], model: VLM, pairs: pd.DataFrame, chunk: int, options: Any
    ) -> tuple[list[pd.DataFrame], Checkpoints]:
        """The rows of every part, and where the parts are kept."""
        loaded = [str(getattr(model, "dtype", "")), _loading(model)]
        made_by = [model.fingerprint(), model_digest(model.name), *loaded, versions()]
        key = digest_of(function.__module__, function.__name__, options, made_by, package_digest())
        pieces = list(chunks(pairs, chunk))
        if not pieces:
            raise VlmtraceError(f"{self.key} has no pairs left to work on: raise SAMPLES or look at what 03 left out.")
        return pieces, Checkpoints(self.parts_folder / function.__name__, key)

    def _made(
        self,
        pieces: list[pd.DataFrame],
        parts: Checkpoints,
        function: Callable[..., pd.DataFrame],
        model: VLM,
        options: Mapping[str, Any],
    ) -> Generator[tuple[int, pd.DataFrame], None, None]:
        """Every part with its number: those that are kept as they are found, the others as they are computed."""
        title = " ".join([function.__name__, *(str(value) for value in options.values() if isinstance(value, str))])
        connection = current()
        if connection is None:
            made = _compute_here(parts, function, model, options, pieces)
        else:
            from vlmtrace.pipeline.cluster.parts import compute_parts

            made = compute_parts(connection, parts, function, model, options, package_digest(), pieces)
        with contextlib.closing(made), counter(sum(map(len, pieces)), title, "pairs", steady=True) as advance:
            for number, table, is_found in made:
                yield number, table
                advance(len(pieces[number]), is_found)

    @checked
    def finish(self, **tables: pd.DataFrame | StoredTable) -> None:
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
                write_parquet(table, temporary)
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


def _loading(model: VLM) -> str:
    """How a model was loaded, as far as it decides about numbers; "" where that is not known."""
    found = getattr(model, "loading", "")
    return found if isinstance(found, str) else ""


def _compute_here(
    parts: Checkpoints,
    function: Callable[..., pd.DataFrame],
    model: VLM,
    options: Mapping[str, Any],
    pieces: list[pd.DataFrame],
) -> Generator[tuple[int, pd.DataFrame, bool], None, None]:
    """The number and table of every part, and whether it was kept: first all that are, then the others."""
    missing = []
    for number, rows in enumerate(pieces):
        if (table := parts.get(rows)) is None:
            missing.append(number)
        else:
            yield number, table, True
    for number in missing:
        yield number, parts.put(pieces[number], function(model, pieces[number], **options)), False
