"""What run.json may look like: it is read by make, notebooks and the report, and people move, edit and merge it."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import read_json

#: What each stage's entry must hold, and of which type it is.
ENTRY = {"parameters": dict, "reads": dict, "writes": dict, "figures": list}

#: The name of a file or folder that stays where it is put: no part of a path, and not hidden.
PLAIN_NAME = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f]{1,200}")


def plain_name(name: str, subject: str) -> str:
    """Return a name if a file or folder within a run can have it.

    Args:
        name: of a table, a task, a stage or a figure
        subject: what it names, for the sentence

    Raises:
        VlmtraceError: it would lead elsewhere

    >>> plain_name("../pairs", "table")
    Traceback (most recent call last):
    ...
    vlmtrace.core.errors.VlmtraceError: A table cannot be called '../pairs': its name becomes a file of the run, so \
give a short one without slashes.
    """
    if not isinstance(name, str) or not PLAIN_NAME.fullmatch(name):
        raise VlmtraceError(
            f"A {subject} cannot be called {str(name)[:80]!r}: its name becomes a file of the run, so give a short one "
            "without slashes."
        )
    return name


def read_record(path: Path, run: str) -> dict[str, Any]:
    """The content of a run's run.json; of a run that has none, an empty record.

    Args:
        path: of run.json
        run: the run's name

    Raises:
        VlmtraceError: it is not JSON, or not of the shape that vlmtrace writes
    """
    empty = {"run": run, "parameters": {}, "stages": {}}
    if not path.exists() and not path.is_symlink():
        return empty
    return check_record(read_json(path), paths.relative(path))


def check_record(record: Any, origin: str) -> dict[str, Any]:
    """Return a record if it is of the shape that vlmtrace writes.

    Args:
        record: the content of run.json
        origin: its path, for the sentence

    Raises:
        VlmtraceError: it is not
    """

    def refuse(what: str) -> VlmtraceError:
        return VlmtraceError(
            f"{origin} is not a record of vlmtrace ({what}): put back the file that was there, or delete it and run "
            "make all, which makes the run's stages again."
        )

    if not isinstance(record, dict):
        raise refuse(f"a {type(record).__name__} instead of an object")
    for name in ("stages", "parameters", "made_from"):
        if not isinstance(record.get(name, {} if name == "made_from" else None), dict):
            raise refuse(f"{name!r} is {'no object' if name in record else 'missing'}")
    if not isinstance(record["parameters"].get("model", ""), str) or not isinstance(record.get("versions", {}), dict):
        raise refuse("the model or the versions are of another type")
    if not isinstance(record.get("beside", ""), str):
        raise refuse("'beside' is not the name of a run")
    for stage, entry in record["stages"].items():
        if not isinstance(entry, dict):
            raise refuse(f"the stage {stage[:80]!r} is no object")
        for name, kind in ENTRY.items():
            if not isinstance(entry.get(name), kind):
                raise refuse(f"{name!r} of the stage {stage[:80]!r} is missing or no {_WORDS[kind]}")
        for name in ("reads", "writes"):
            for table, digest in entry[name].items():
                if not is_table_name(table) or not isinstance(digest, str):
                    raise refuse(f"{name!r} of the stage {stage[:80]!r} names no table with its digest")
        for figure in entry["figures"]:
            if not (isinstance(figure, dict) and all(isinstance(figure.get(k), str) for k in ("name", "caption"))):
                raise refuse(f"a figure of the stage {stage[:80]!r} lacks a name or a caption")
            if not PLAIN_NAME.fullmatch(figure["name"]):
                raise refuse(f"{figure['name'][:80]!r} is not the name of a figure")
        if not isinstance(entry.get("seconds", 0.0), (int, float)) or not isinstance(entry.get("finished", ""), str):
            raise refuse(f"the stage {stage[:80]!r} does not say when it finished")
        tasks = entry["parameters"].get("tasks", [])
        if not isinstance(tasks, list) or not all(isinstance(t, str) and PLAIN_NAME.fullmatch(t) for t in tasks):
            raise refuse(f"'tasks' of the stage {stage[:80]!r} are no names")
        if not all(PLAIN_NAME.fullmatch(part) for part in stage.split("/")) or stage.count("/") > 1:
            raise refuse(f"{stage[:80]!r} is not the name of a stage")
    return record


_WORDS = {dict: "object", list: "list"}


def is_table_name(name: str) -> bool:
    """Whether this names a table within a run: "pairs", or "<task>/pairs"."""
    parts = name.split("/")
    return len(parts) <= 2 and all(PLAIN_NAME.fullmatch(part) for part in parts)


def upstream(table: str, stages: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The stages that a table came from, earliest first, as a record tells; a circle in it ends the search.

    Args:
        table: its name within the run
        stages: the record's stages

    >>> one = {"reads": {}, "writes": {"pairs": "d"}}
    >>> two = {"reads": {"pairs": "d"}, "writes": {"evaluated": "e"}}
    >>> [stage for stage, _ in upstream("evaluated", {"02": two, "01": one})]
    ['01', '02']
    """
    found: dict[str, Mapping[str, Any]] = {}
    visited: set[str] = set()

    def visit(name: str) -> None:
        for writer, entry in stages.items():
            if name in entry["writes"] and writer not in visited:
                visited.add(writer)
                for source in entry["reads"]:
                    visit(source)
                found[writer] = entry

    visit(table)
    return list(found.items())


def plain(value: Any) -> Any:
    """The value as JSON knows it, so that what was recorded compares equal to what is asked for."""
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def versions() -> dict[str, str]:
    """What computed: Python and the libraries that decide about numbers."""
    found = {"python": platform.python_version()}
    for name in ("vlmtrace", "torch", "transformers", "numpy", "pandas", "scipy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout that was not installed
            found[name] = "not installed"
    return found
