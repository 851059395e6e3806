"""Values of notebooks' parameters, read as their defaults are and checked before a kernel starts."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.pipeline.checks import (
    MOST_PIXELS,
    MOST_SAMPLES,
    MOST_SEED,
    check_data,
    check_device,
    check_loading,
    check_model,
    check_number,
    check_positions,
    check_question,
    check_range,
    check_tasks,
    check_text,
    split_names,
)
from vlmtrace.pipeline.notebook_files import declared_parameters

__all__ = [
    "check_data",
    "check_model",
    "check_number",
    "check_tasks",
    "declared_parameters",
    "read_parameters",
    "read_value",
]

#: Whole numbers that notebooks take, with the least and the most they may be.
WHOLE = {
    "seed": (0, MOST_SEED),
    "samples": (1, MOST_SAMPLES),
    "per_category": (1, MOST_SAMPLES),
    "draws": (1, 10**6),
    "max_pixels": (1, MOST_PIXELS),
    "n_random": (0, 10**6),
    "n_drawn": (1, 10**6),
    "blanks": (1, MOST_SAMPLES),
    "conflicts": (3, MOST_SAMPLES),  # they are split into thirds
    "patched": (1, MOST_SAMPLES),
    "layer_step": (1, 10**6),
    "asked_else": (1, MOST_SAMPLES),
}


def read_value(name: str, text: str, default: Any) -> Any:
    """The value that the command line's text means for a parameter with this default.

    Args:
        name: the parameter's
        text: what was given
        default: in the notebook

    Raises:
        VlmtraceError: the text means a value of another kind than the default

    >>> read_value("run", "1", "default"), read_value("seed", "1", 0), read_value("tasks", "a b", ["c"])
    ('1', 1, ['a', 'b'])
    """
    if isinstance(default, str):
        return text
    if isinstance(default, list):
        return split_names(text)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        value = text  # among others: thousands of digits or brackets
    shown = f"{name}={text[:40]}{'…' * (len(text) > 40)}"
    if isinstance(default, float) and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise VlmtraceError(f"{shown} is not a finite number: correct it.")
    if type(value) is int and not re.fullmatch(r"[+-]?[0-9]+(_[0-9]+)*", text.strip()):
        value = text  # such as 0x10, which no other place takes for a number
    if default is not None and type(value) is not type(default):
        raise VlmtraceError(f"{shown} is not of the kind of its default, {default!r}: correct it.")
    if value is not None and not isinstance(value, (str, int, float, bool, list)):
        raise VlmtraceError(f"{shown} is neither text nor a number: correct it.")
    return value


def read_parameters(notebook: Path, given: Mapping[str, str]) -> dict[str, Any]:
    """What papermill is to inject: the given values, read as their defaults are; empty ones keep the default.

    Args:
        notebook: its path
        given: parameters as text

    Raises:
        VlmtraceError: a parameter that the notebook does not declare (papermill would only warn), or a bad value.
    """
    from vlmtrace.pipeline.runs import open_run

    declared = declared_parameters(notebook)
    for name in given:
        one_of(name[:80], declared, f"parameter of {notebook.name}")
    found = {name: read_value(name, text, declared[name]) for name, text in given.items() if text != ""}
    values = {**declared, **found}
    if not isinstance(values.get("run"), str):
        raise VlmtraceError(f'{notebook} declares no parameter run: add run = "default" to its parameters.')
    run = open_run(values["run"])
    for name, value in found.items():
        check_value(name, value, run.folder)
    return found


def check_value(name: str, value: Any, run_folder: Path) -> None:
    """Raise a sentence if a parameter that notebooks share has a value that none can work with.

    Args:
        name: the parameter's; of names that only one notebook knows, only text is looked at
        value: read as its default is
        run_folder: of the run; tasks that have a folder in it are known
    """
    if isinstance(value, str):
        check_text(name, value)
    if name in WHOLE and value is not None:
        if type(value) is not int:
            raise VlmtraceError(f"{name}={str(value)[:40]} is not a whole number: correct it.")
        check_range(name, value, *WHOLE[name])
    if name == "level" and value is not None and (type(value) not in (int, float) or value < 0):
        raise VlmtraceError(f"level={str(value)[:40]} is not a number of at least 0: correct it.")
    if name == "threshold" and (type(value) not in (int, float) or not 0 < value <= 1):
        raise VlmtraceError(f"threshold={str(value)[:40]} is not a share above 0 and at most 1: correct it.")
    if name in _CHECKS and (isinstance(value, list) or (isinstance(value, str) and value)):
        _CHECKS[name](value, run_folder)


def _check_task(task: str, run_folder: Path) -> None:
    # Tables of one's own may lie in a folder of any name.
    if not (re.fullmatch(r"[\w-][\w.-]{0,99}", task) and (run_folder / task).is_dir()):
        check_tasks([task])


def _check_each(tasks: list[str], run_folder: Path) -> None:
    if not tasks:
        check_tasks(tasks)
    for task in tasks:
        _check_task(task, run_folder)
    if len(set(tasks)) < len(tasks):
        raise VlmtraceError(f"tasks names a task twice: {' '.join(tasks)[:200]}.")


def _check_questions(questions: str, _: Path) -> None:
    from vlmtrace.tasks import QUESTIONS

    one_of(questions, QUESTIONS, "set of questions")


def _check_root(root: str, _: Path) -> None:
    path = paths.from_home(root)
    if not any(one.exists() for one in (path, paths.ROOT / path)):
        raise VlmtraceError(f"There is nothing at {root[:200]}: correct root.")


_CHECKS: dict[str, Callable[[Any, Path], None]] = {
    "task": _check_task,
    "tasks": _check_each,
    "questions": _check_questions,
    "root": _check_root,
    "question": lambda question, _: check_question(question),
    "model": lambda model, _: check_model(model),
    "beside": lambda model, _: check_model(model),
    "positions": lambda positions, _: check_positions(positions),
    "device": lambda device, _: check_device(device),
    "dtype": lambda dtype, _: check_loading({"dtype": dtype}),
    "device_map": lambda device_map, _: check_loading({"device_map": device_map}),
    "quantization": lambda quantization, _: check_loading({"quantization": quantization}),
    "attn_implementation": lambda name, _: check_loading({"attn_implementation": name}),
    "image_size": lambda image_size, _: check_loading({"image_size": image_size}),
}
