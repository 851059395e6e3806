"""Which pairs the explorer offers: those that a run has selected, otherwise new ones of the same tasks."""

from __future__ import annotations

from typing import Any

import pandas as pd

from vlmtrace.core.arguments import Count, NonEmpty, Seed, checked
from vlmtrace.display.session import Session
from vlmtrace.models import VLM, load_model
from vlmtrace.pipeline.cli import default_run
from vlmtrace.pipeline.runs import open_run
from vlmtrace.tasks import load_pairs


@checked
def example_pairs(
    model: VLM, tasks: NonEmpty[str], samples: Count | None = 24, seed: Seed = 0, run: str = "default"
) -> pd.DataFrame:
    """Pairs of several tasks for the explorer, the categories of each in turn; prints where they are from.

    Args:
        model: for which new pairs are made
        tasks: names of tasks, see `load_pairs`
        samples: of each task; None: all that the run has selected, or 24
        seed: of new pairs
        run: whose table `selected` is read where there is one
    Returns:
        a pairs table with the column task
    Raises:
        VlmtraceError: a task is unknown, or needs data that are not there
    """
    tables = []
    for task in tasks:
        path = open_run(run).path("selected", task)
        if path.is_file():
            table = open_run(run).table("selected", task)
            print(f"{task}: {len(table)} pairs that run {run!r} has selected")
        else:
            table = load_pairs(task, n=samples or 24, seed=seed, model=model)
            print(f"{task}: {len(table)} new pairs (run {run!r} has selected none)")
        turn = table.groupby("category").cumcount() if "category" in table else pd.Series(0, table.index)
        tables.append(table.loc[turn.sort_values(kind="stable").index][:samples].assign(task=task))
    return pd.concat(tables, ignore_index=True)


@checked
def open_session(
    model: str,
    tasks: NonEmpty[str],
    samples: Count | None = 24,
    seed: Seed = 0,
    run: str = "",
    **loading: Any,
) -> Session:
    """Load a model, and offer pairs of a run, or new ones, see `example_pairs`.

    Args:
        model: a bundled model's name, a directory, or a hub id, see `vlmtrace.load_model`
        tasks: names of tasks, see `vlmtrace.load_pairs`
        samples: of each task; None: all that the run has selected, or 24
        seed: of new pairs
        run: whose tables views may read; "": the one that the model's name stands for
        loading: other arguments of `vlmtrace.load_model`, such as device
    Returns:
        the session, for `explorer` or a single view
    Raises:
        VlmtraceError: the model cannot be loaded, or a task is unknown or needs data that are not there
    """
    loaded = load_model(model, **loading)
    opened = open_run(run or default_run(model))
    pairs = example_pairs(loaded, tasks, samples, seed, opened.name)
    return Session(loaded, pairs, opened.folder)
