"""What a stage needs of its run, and which of the run's tables it refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.stored import StoredTable
from vlmtrace.pipeline.checkpoints import file_digest
from vlmtrace.pipeline.records import plain, upstream
from vlmtrace.pipeline.stages import SHARED


@runtime_checkable
class RunFolder(Protocol):
    """What a stage needs of its run; `vlmtrace.pipeline.runs.Run` says what each does.

    Attributes:
        name: the run's name
        folder: data/runs/<name>
    """

    name: str
    folder: Path

    def path(self, table: str, task: str | None = None) -> Path:
        """Where a table lies."""

    def table_and_digest(self, table: str, task: str | None = None) -> tuple[pd.DataFrame, str]:
        """A table and the digest of its file."""

    def stored(self, table: str, task: str | None = None) -> StoredTable:
        """A table that stays on disk."""

    def record(self) -> dict[str, Any]:
        """What run.json says."""

    def changing(self) -> contextlib.AbstractContextManager[None]:
        """The lock of whoever changes tables and record."""

    def merge(self, stage: str, entry: Mapping[str, Any]) -> None:
        """Put a stage's entry into run.json, by who holds the lock."""


def check_upstream(run: RunFolder, table: str, digest: str, parameters: Mapping[str, Any]) -> None:
    """Refuse a table that does not belong with a stage; a table that no stage wrote (one's own) always does.

    Args:
        run: that holds the table
        table: its name within the run
        digest: of its file
        parameters: of the stage that reads it

    Raises:
        VlmtraceError: it was made with another model or seed, or from tables that have changed since
    """
    mine = plain(parameters)
    for writer, entry in upstream(table, run.record()["stages"]):
        for name, words in SHARED.items():
            theirs = entry["parameters"].get(name)
            if name in mine and theirs is not None and theirs != mine[name]:
                raise VlmtraceError(
                    f"Run {run.name!r} was made with {words} {theirs} ({writer}), not {mine[name]}: "
                    f"choose another run, or run {writer} again with {words} {mine[name]} first."
                )
        for source, read in entry["reads"].items():
            file = run.folder / f"{source}.parquet"
            if file.is_file() and file_digest(file) != read:
                raise VlmtraceError(
                    f"Run {run.name!r}: {source} has changed since {writer} read it, so {table} is out of date: run "
                    f"{writer} again first."
                )
        if entry["writes"].get(table, digest) != digest:
            print(f"{table} was changed after {writer} wrote it, by hand or by another program.")
