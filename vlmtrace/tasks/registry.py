"""All data sets that are declared: those of this package, and those of packages that are installed beside it."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pandas as pd

from vlmtrace.core.caller import warn
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.tasks.declaration import KINDS, Task

#: Entry points by which another package adds data sets. Each names a `Task`, or a list of them.
GROUP = "vlmtrace.tasks"


@cache
def declared() -> dict[str, Task]:
    """Every data set by its name: the rendered ones, the published ones, the user's own; then those of other packages.

    Returns:
        name → declaration

    Warns:
        UserWarning: a package beside this one declares data sets that cannot be used; one sentence names it. The others
            are not affected
    """
    own = sorted(_of_this_package(), key=lambda task: KINDS.index(task.kind))
    found = {task.name: task for task in own}
    for point in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: (point.value, point.name)):
        try:
            brought = {task.name: task for task in _of_entry_point(point)}
            taken = sorted(found.keys() & brought)
            if taken:
                raise VlmtraceError(f"there is a data set {', '.join(taken)} already")
        except Exception as error:  # whatever another package gets wrong must not stop this one
            package = point.dist.name if point.dist else point.value
            reason = " ".join(str(error).split()).rstrip(".") or "no reason given"
            warn(
                f"The data sets of the package {package} (entry point {point.name} = {point.value}) cannot be used "
                f"({type(error).__name__}: {reason}): update or uninstall {package}."
            )
            continue
        found |= brought
    return found


def _of_this_package() -> Iterator[Task]:
    for module in pkgutil.iter_modules([str(Path(__file__).parent)], f"{__package__}."):
        yield from getattr(importlib.import_module(module.name), "DECLARED", ())


def _of_entry_point(point: importlib.metadata.EntryPoint) -> list[Task]:
    loaded = point.load()
    tasks = [loaded] if isinstance(loaded, Task) else list(loaded)
    for task in tasks:
        if not isinstance(task, Task):
            raise TypeError(f"{point.value} holds {task!r}, which is no vlmtrace.tasks.Task")
        one_of(task.kind, KINDS, "kind of data set")
    return tasks


def task_table() -> pd.DataFrame:
    """All data sets as a table, for the documentation.

    Returns:
        one row per data set: name, kind, gives ("pairs", "questions" or "pairs, questions"), source (its name), url,
        licence, citation, needs (what has to lie on disk; empty: nothing)

    >>> task_table().set_index("name").loc["clevr", ["kind", "gives", "licence"]].tolist()
    ['published', 'questions', 'CC BY 4.0']
    """
    rows = [
        {
            "name": task.name,
            "kind": task.kind,
            "gives": ", ".join(name for name in ("pairs", "questions") if getattr(task, name)),
            "source": task.source.name,
            "url": task.source.url,
            "licence": task.source.licence,
            "citation": task.source.citation,
            "needs": task.source.needs,
        }
        for task in declared().values()
    ]
    return pd.DataFrame(rows)


def __getattr__(name: str) -> tuple[str, ...]:
    """The lists that follow from the declarations; on demand, since other packages are asked for theirs."""
    tasks = declared().values() if name in ("TASKS", "ROOTED", "QUESTIONS") else ()
    if name == "TASKS":  # those that give pairs
        return tuple(task.name for task in tasks if task.pairs)
    if name == "ROOTED":  # of these, those that read data from a place on disk
        return tuple(task.name for task in tasks if task.pairs and task.needs_root)
    if name == "QUESTIONS":  # those that give questions without options
        return tuple(task.name for task in tasks if task.questions)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
