"""Pairs: what each dataset becomes. `load_pairs` is the one door."""

from __future__ import annotations

import pandas as pd

from vlmtrace.errors import VlmtraceError, one_of
from vlmtrace.tasks import rendered
from vlmtrace.tasks.schema import validate_pairs

__all__ = ["TASKS", "load_pairs", "validate_pairs"]

TASKS: tuple[str, ...] = tuple(rendered.TASKS)


def load_pairs(task: str, n: int = 100, seed: int = 0, split: str = "test") -> pd.DataFrame:
    """A table of minimal pairs: clean and corrupt image, clean and corrupt prompt, both options.

    Args:
        task: one of `TASKS`
        n: how many pairs, balanced over category and option order
        seed: the same seed gives the same pairs, images included
        split: "test" (never seen in training) or "train"
    Returns:
        the pairs table of the README, with masks of the object asked about and of the distractor
    Raises:
        VlmtraceError: the task is unknown, or n is not a positive number
    """
    one_of(task, TASKS, "task")
    one_of(split, ("test", "train"), "split")
    if n < 1:
        raise VlmtraceError(f"n={n} pairs cannot be made: ask for at least 1.")
    return validate_pairs(rendered.load(task, n=n, seed=seed, split=split))
