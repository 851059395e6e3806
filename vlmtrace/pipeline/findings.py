"""What the tables of a run say: the results that the report states, computed from the tables alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from vlmtrace.core.schema import HEAD
from vlmtrace.methods.circuits.faithfulness import circuit_claims
from vlmtrace.methods.circuits.heads import universal_heads
from vlmtrace.methods.evaluation.answers import accuracy_table
from vlmtrace.methods.evaluation.selection import USE
from vlmtrace.pipeline.runs import Run

#: Rows of a table, as the report's template reads them.
Rows = list[dict[str, Any]]


def findings(run: Run, record: dict[str, Any]) -> dict[str, Any]:
    """Compute the results that the report states.

    Args:
        run: whose tables are read
        record: the contents of its run.json

    Returns:
        variables of the template; those that need a missing table are empty
    """
    tasks = analyzed_tasks(run, record)
    evaluated = _read_tasks(run, "evaluated", tasks)
    selected = _read_tasks(run, "selected", tasks)
    heads, universal, functions, curves = (
        _read(run, table) for table in ("heads", "universal_heads", "head_functions", "faithfulness")
    )
    return {
        "tasks": tasks,
        "example": example(evaluated),
        "accuracy": accuracy_rows(evaluated),
        "selection": selection_rows(evaluated, selected),
        "strongest_sites": [
            row for task in tasks for row in strongest_sites(_read(run, "module_patching", task), task)
        ],
        "importance": importance_rows(heads),
        "n_heads": 0 if heads.empty else len(heads[HEAD].drop_duplicates()),
        "universal": _records(universal[universal["is_universal"]]) if len(universal) else [],
        "in_every_task": {} if heads.empty else heads_of_every_task(heads),
        "n_important": len(universal),
        "functions": function_rows(functions, universal),
        "claims": _records(circuit_claims(heads, curves)) if len(heads) and len(curves) else [],
    }


def analyzed_tasks(run: Run, record: dict[str, Any]) -> list[str]:
    """List the tasks of a run.

    Args:
        run: whose stages are in the record
        record: the contents of its run.json

    Returns:
        the tasks that notebook 06 analyzed, in its order; before it has run, the tasks of all finished stages, sorted
    """
    known = record["stages"].get("06_circuit_analysis", {}).get("parameters", {}).get("tasks")
    return known or sorted({stage.split("/")[0] for stage in record["stages"] if "/" in stage})


def example(evaluated: pd.DataFrame) -> dict[str, Any]:
    """Choose a pair to explain the method with.

    Args:
        evaluated: rows of all tasks

    Returns:
        the first pair that the model answers correctly, or the first pair, by column; empty without pairs
    """
    if evaluated.empty:
        return {}
    good = evaluated[evaluated["is_correct"]]
    return (good if len(good) else evaluated).iloc[0].to_dict()


def accuracy_rows(evaluated: pd.DataFrame) -> Rows:
    """Compute the share of pairs on which the model behaves as it should.

    Args:
        evaluated: rows of all tasks

    Returns:
        one row per task and category: task, category, one column per measure of `accuracy_table`, n (pairs)
    """
    if evaluated.empty:
        return []
    table = accuracy_table(evaluated)
    wide = table.pivot(index=["task", "category"], columns="measure", values="accuracy")
    return _records(wide.join(table.groupby(["task", "category"])["n"].max()).reset_index())


def selection_rows(evaluated: pd.DataFrame, selected: pd.DataFrame) -> Rows:
    """Count the pairs that were evaluated and selected.

    Args:
        evaluated: rows of all tasks
        selected: rows of all tasks

    Returns:
        one row per task: task, evaluated, selected, discover, verify (numbers of pairs)
    """
    if evaluated.empty or selected.empty:
        return []
    table = selected.groupby(["task", USE]).size().unstack(USE, fill_value=0)
    table = table.reindex(columns=["discover", "verify"], fill_value=0)
    table["selected"] = table.sum(axis=1)
    return _records(table.join(evaluated.groupby("task").size().rename("evaluated")).reset_index())


def strongest_sites(effects: pd.DataFrame, task: str) -> Rows:
    """Find the layer and token role with the largest positive mean effect of each module.

    Args:
        effects: the module_patching table of a task
        task: its name

    Returns:
        one row per corruption, block and module: these, layer, token_role, mean (effect over pairs), count (pairs),
        task
    """
    if effects.empty:
        return []
    site = ["corruption", "block", "module", "layer", "token_role"]
    by_pair = effects.groupby([*site, "sample_id"], sort=False, observed=True)["patching_effect"].mean()
    means = by_pair.groupby(level=site, sort=False).agg(["mean", "count"]).reset_index()
    best = means.loc[means.groupby(["corruption", "block", "module"], sort=False)["mean"].idxmax().dropna()]
    return _records(best[best["mean"] > 0].assign(task=task))


def importance_rows(heads: pd.DataFrame) -> Rows:
    """Count the important heads of each task and corruption, and find the strongest.

    Args:
        heads: the heads table

    Returns:
        one row per task and corruption: task, corruption, pairs, important, negative (important heads with a negative
        mean effect), notice (heads by the rule of the NOTICE paper), and of the head with the largest mean effect
        module, layer, head, mean_effect, ci_low, ci_high
    """
    if heads.empty:
        return []
    rows = []
    for (task, corruption), cell in heads.groupby(["task", "corruption"], sort=False):
        strongest = cell.loc[cell["mean_effect"].idxmax()]
        rows.append(
            {
                "task": task,
                "corruption": corruption,
                "pairs": int(cell["n"].max()),
                "important": int(cell["is_important"].sum()),
                "negative": int((cell["is_important"] & (cell["mean_effect"] < 0)).sum()),
                "notice": int(cell["is_important_2sd"].sum()),
                **strongest[["module", "layer", "head", "mean_effect", "ci_low", "ci_high"]].to_dict(),
            }
        )
    return rows


def heads_of_every_task(heads: pd.DataFrame) -> dict[str, Rows]:
    """Find the heads that are important in every task under one corruption.

    Args:
        heads: the heads table

    Returns:
        for each corruption, rows of `universal_heads`
    """
    found = {}
    for corruption, part in heads.groupby("corruption", sort=False):
        table = universal_heads(part)
        found[str(corruption)] = _records(table[table["is_universal"]])
    return found


def function_rows(functions: pd.DataFrame, universal: pd.DataFrame) -> Rows:
    """List the heads that have a function.

    Args:
        functions: the head_functions table
        universal: the universal_heads table

    Returns:
        one row per head: its row of `functions` for the object, with cells (tasks and corruptions in which patching
        finds the head important) and is_universal, both missing for heads that are important nowhere
    """
    if functions.empty:
        return []
    named = functions[(functions["region"] == "object") & (functions["function"] != "none")]
    cells = universal[[*HEAD, "cells", "is_universal"]] if len(universal) else pd.DataFrame(columns=HEAD)
    table = named.merge(cells, on=HEAD, how="left").sort_values(["function", "ratio"], ascending=[True, False])
    return _records(table)


def _read(run: Run, table: str, task: str | None = None) -> pd.DataFrame:
    return run.table(table, task) if run.path(table, task).is_file() else pd.DataFrame()


def _read_tasks(run: Run, table: str, tasks: Iterable[str]) -> pd.DataFrame:
    found = [part.assign(task=task) for task in tasks if len(part := _read(run, table, task))]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _records(table: pd.DataFrame) -> Rows:
    return table.to_dict("records")
