"""Where a run keeps its tables and figures, and what it remembers about them.

A run is a folder, `data/runs/<name>`: tables, those of a task in a folder of its own, figures, executed notebooks, and
`run.json`, which says of every stage what it read and wrote, with which parameters and versions:

    run = open_run("default")
    effects = run.table("module_patching", "rendered_svo")
    made_with = run.record()["stages"]["rendered_svo/04_module_patching"]["parameters"]

Who changes tables and record holds the lock of `Run.changing`, so that processes that work on one run at a time lose
nothing of each other's. What a notebook does in a run is a `Stage` (`vlmtrace.pipeline.stage`), begun by `Run.stage`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vlmtrace.core import paths
from vlmtrace.core.arguments import NotebookParameter, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import locked, read_table_and_digest, write_json
from vlmtrace.core.schema import check_read
from vlmtrace.core.stored import StoredTable, open_stored
from vlmtrace.pipeline.records import plain, plain_name, read_record, versions
from vlmtrace.pipeline.stage import Stage

if TYPE_CHECKING:
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

    @checked
    def stored(self, table: str, task: str | None = None) -> StoredTable:
        """Open a table that stays on disk and is read some pairs at a time.

        Args:
            table: its name in the table contract
            task: the task; None for tables over all tasks

        Raises:
            VlmtraceError: as `table`
        """
        path = self.path(table, task)
        return check_read(table, open_stored(path), paths.relative(path))

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
