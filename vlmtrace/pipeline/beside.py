"""Which run a run is compared with, as its run.json remembers it, and whether two runs can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmtrace.core.files import write_json
from vlmtrace.pipeline.runs import Run

#: The tables over all tasks that a comparison reads.
TABLES = ("heads", "head_functions")


def remembered(record: Mapping[str, Any]) -> str:
    """The name of the run that a run was compared with; "" where it was not.

    Args:
        record: the contents of its run.json
    """
    return str(record.get("beside", ""))


def remember(run: Run, name: str) -> None:
    """Keep the name of the run to compare with in run.json, so that whatever draws the report next compares, too.

    Args:
        run: that is reported
        name: of the other run; "": none
    """
    with run.changing():
        record = run.record()
        if remembered(record) != name:
            write_json({**record, "beside": name}, run.folder / "run.json")


def patched_tasks(run: Run) -> list[str]:
    """List the tasks whose modules a run has patched, sorted.

    Args:
        run: whose folder is searched
    """
    return sorted(path.parent.name for path in run.folder.glob("*/module_patching.parquet"))


def lacking(run: Run) -> str:
    """Say what of a run's tables a comparison would miss.

    Args:
        run: to compare

    Returns:
        the names of the tables; "" where all are there
    """
    return " and ".join(table for table in TABLES if not run.path(table).is_file())


def same_model(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two runs are of the same weights, whatever their folders are called.

    Args:
        one: the contents of a run.json
        other: of another

    Returns:
        whether the fingerprints are the same; where a record has none, whether the full names are
    """
    prints = [record.get("model_fingerprint") for record in (one, other)]
    if all(prints):
        return prints[0] == prints[1]
    names = [record["parameters"].get("model") for record in (one, other)]
    return bool(names[0]) and names[0] == names[1]
