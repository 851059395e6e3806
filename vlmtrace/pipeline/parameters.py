"""Parameters of notebooks, and names that a run is given, checked before anything starts."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError, one_of


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """Names and defaults in the notebook's cell tagged `parameters`.

    Raises:
        VlmtraceError: there is no such cell, or a default is not a literal.
    """
    import nbformat

    if not notebook.is_file():
        raise VlmtraceError(f"There is no notebook {notebook}: look into {paths.relative(paths.ROOT / 'notebooks')}.")
    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except (ValueError, TypeError, AttributeError, KeyError, nbformat.ValidationError) as error:
        raise VlmtraceError(f"{notebook} is not a Jupyter notebook: give a file that Jupyter has written.") from error
    for cell in cells:
        if "parameters" in cell.metadata.get("tags", []):
            break
    else:
        raise VlmtraceError(f"{notebook} has no cell tagged 'parameters': tag the one that holds them.")
    found = {}
    for statement in ast.parse(cell.source).body:
        try:
            (target,) = statement.targets
            found[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError) as error:
            raise VlmtraceError(
                f"Line {statement.lineno} of the parameters of {notebook} is not 'name = literal': derived values "
                "belong into the next cell."
            ) from error
    return found


def read_value(name: str, text: str, default: Any) -> Any:
    """The value that the command line's text means for a parameter with this default.

    >>> read_value("run", "1", "default"), read_value("seed", "1", 0), read_value("tasks", "a b", ["c"])
    ('1', 1, ['a', 'b'])
    """
    if isinstance(default, str):
        return text
    if isinstance(default, list):
        return text.replace(",", " ").split()
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if default is not None and not isinstance(value, type(default)):
        raise VlmtraceError(f"{name}={text} is not of the kind of its default, {default!r}: correct it.")
    return value


def read_parameters(notebook: Path, given: Mapping[str, str]) -> dict[str, Any]:
    """What papermill is to inject: the given values, read as their defaults are; empty ones keep the default.

    Raises:
        VlmtraceError: a parameter that the notebook does not declare (papermill would only warn), or a bad value.
    """
    declared = declared_parameters(notebook)
    for name in given:
        one_of(name, declared, f"parameter of {notebook.name}")
    return {name: read_value(name, text, declared[name]) for name, text in given.items() if text != ""}


# Names ---------------------------------------------------------------------------------------------------------


def check_model(name: str, revision: str = "") -> None:
    """Raise a sentence if no such model can exist: neither bundled, nor a directory, nor like a hub id."""
    bundled = sorted(path.parent.name for path in paths.MODELS.glob("*/config.json"))
    is_local = name in bundled or any((Path(name) / holds).exists() for holds in ("config.json", "snapshots"))
    if is_local and revision:
        raise VlmtraceError(f"REVISION={revision} is for models on the hub: {name} is on this machine, as it is.")
    if is_local or re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name):
        return
    raise VlmtraceError(
        f"Unknown model {name!r}: choose a bundled one ({', '.join(bundled) or 'none is there: run make model'}), "
        "a directory written by save_pretrained, or a hub id such as Salesforce/blip-vqa-base."
    )


def check_tasks(names: list[str]) -> None:
    """Raise a sentence if there is no task, one that is unknown, or one named twice."""
    from vlmtrace.tasks import TASKS

    if not names:
        raise VlmtraceError(f"TASKS is empty: choose from {', '.join(TASKS)}.")
    for name in names:
        one_of(name, TASKS, "task")
    if len(set(names)) < len(names):
        raise VlmtraceError(f"TASKS names a task twice: {' '.join(names)}.")


def check_data(tasks: list[str], root: str, question: str) -> None:
    """Raise a sentence if a task's data are not there, or ROOT or QUESTION is given for nothing."""
    from vlmtrace.tasks import ROOTED, declared, find_root

    rooted = [name for name in tasks if name in ROOTED]
    if root and not rooted:
        raise VlmtraceError(f"ROOT={root} is for {', '.join(ROOTED)}: {' '.join(tasks)} needs none.")
    takers = [task.name for task in declared().values() if task.takes_question]
    if question and not set(takers) & set(tasks):
        raise VlmtraceError(
            f"QUESTION={question} is for the task {' or '.join(takers)}, which TASKS={' '.join(tasks)} lacks."
        )
    for name in rooted:
        find_root(name, root)


def check_number(name: str, text: str, least: int) -> int:
    """The whole number that a text means.

    Raises:
        VlmtraceError: it means none, or one below `least`
    """
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < least:
        raise VlmtraceError(f"{name}={text[:40]} is not a whole number of at least {least}: correct it.")
    return int(text)
