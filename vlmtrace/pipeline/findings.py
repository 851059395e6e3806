"""What the tables of a run say: the results that the report states, computed from the tables alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from vlmtrace.core import stats
from vlmtrace.core.schema import CELL, HEAD, UNIT
from vlmtrace.display.wording import readable
from vlmtrace.methods.circuits.cells import pair_effects
from vlmtrace.methods.circuits.curves import faithfulness_summary
from vlmtrace.methods.circuits.heads import MIN_EFFECT
from vlmtrace.methods.circuits.universal import effect_size_sensitivity, one_sign_heads, universality
from vlmtrace.methods.evaluation.answers import MEASURE_COLUMNS, accuracy_table
from vlmtrace.methods.evaluation.selection import USE
from vlmtrace.methods.evaluation.usable import corruption_table
from vlmtrace.methods.patching.direction import DIRECTIONS
from vlmtrace.methods.patching.directions import direction_sums
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
    heads, universal, functions, curves, circuits = (
        _read(run, table) for table in ("heads", "universal_heads", "head_functions", "faithfulness", "circuits")
    )
    return {
        "tasks": tasks,
        "example": example(evaluated),
        "accuracy": accuracy_rows(evaluated),
        "selection": selection_rows(evaluated, selected),
        "without_text": without_text_rows(evaluated),
        "strongest_sites": [
            row for task in tasks for row in strongest_sites(_read(run, "module_patching", task), selected, task)
        ],
        "importance": importance_rows(heads, verified_effects(run, heads, selected)),
        "n_heads": 0 if heads.empty else len(heads[HEAD].drop_duplicates()),
        "other_blocks": other_blocks(run, tasks, heads),
        "head_block": "" if heads.empty else " and ".join(readable(block) for block in heads["block"].unique()),
        "universality": [] if heads.empty else _records(universality(heads)),
        "one_sign": {} if heads.empty else one_sign_heads(heads),
        "sensitivity": [] if heads.empty else _records(effect_size_sensitivity(heads)),
        "n_important": 0 if universal.empty else int((universal["n_cells"] > 0).sum()),
        "functions": function_rows(functions, universal),
        "circuits": circuit_rows(circuits, curves),
        "areas": area_rows(curves),
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
        one row per task and category: task, category, one column per measure of `accuracy_table` (missing where no
        pair has its corruption), n (pairs)
    """
    if evaluated.empty:
        return []
    table = accuracy_table(evaluated)
    wide = table.pivot(index=["task", "category"], columns="measure", values="accuracy")
    wide = wide.reindex(columns=list(MEASURE_COLUMNS))  # pairs of images alone have no text corruption
    return _records(wide.join(table.groupby(["task", "category"])["n"].max()).reset_index())


def selection_rows(evaluated: pd.DataFrame, selected: pd.DataFrame) -> Rows:
    """Count the pairs that were evaluated and selected.

    Args:
        evaluated: rows of all tasks
        selected: rows of all tasks

    Returns:
        one row per task: task, evaluated, selected, discover, verify (numbers of pairs), units (of the selected ones;
        None where the table does not tell)
    """
    if evaluated.empty or selected.empty:
        return []
    table = selected.groupby(["task", USE]).size().unstack(USE, fill_value=0)
    table = table.reindex(columns=["discover", "verify"], fill_value=0)
    table["selected"] = table.sum(axis=1)
    table["units"] = selected.groupby("task")[UNIT].nunique() if UNIT in selected else None
    return _records(table.join(evaluated.groupby("task").size().rename("evaluated")).reset_index())


def without_text_rows(evaluated: pd.DataFrame) -> Rows:
    """Count the pairs of the categories in which some have no text corruption.

    Args:
        evaluated: rows of all tasks

    Returns:
        one row per task and category in which text corruption leaves some pairs out: task, category, image and text
        (pairs that were answered under each corruption); none where text corruption was not evaluated
    """
    if evaluated.empty or not {"text_is_changed", "clean_prompt", "corrupt_prompt"} <= set(evaluated):
        return []
    table = corruption_table(evaluated)
    return _records(table.loc[table["text"] < table["image"], ["task", "category", "image", "text"]])


def strongest_sites(effects: pd.DataFrame, selected: pd.DataFrame, task: str) -> Rows:
    """Find the layer and token role with the largest positive mean effect of each module, and measure it on new pairs.

    The site is picked on the pairs to discover on, and its mean and interval are those of the pairs to verify on: the
    mean of a maximum, on the pairs on which it is the maximum, is too large.

    Args:
        effects: the module_patching table of a task
        selected: rows of all tasks; without a column split_use nothing can be measured on other pairs
        task: its name

    Returns:
        one row per corruption, block and module: these, layer, token_role; on the pairs to verify on: mean (over
        units), ci_low, ci_high, n (pairs that have the role), n_units; task
    """
    if effects.empty or USE not in selected:
        return []
    use = selected[selected["task"] == task].set_index("sample_id")[USE]
    site = ["corruption", "block", "module", "layer", "token_role"]
    keys = [*site, "sample_id", *([UNIT] if UNIT in effects else [])]
    by_pair = effects.groupby(keys, sort=False, observed=True)["patching_effect"].mean().dropna().reset_index()
    by_pair[USE] = by_pair["sample_id"].map(use)
    found = by_pair[by_pair[USE] == "discover"].groupby(site, sort=False)["patching_effect"].mean().reset_index()
    best = found.loc[found.groupby(["corruption", "block", "module"], sort=False)["patching_effect"].idxmax()]
    verify = by_pair[by_pair[USE] == "verify"]
    rows = []
    for row in _records(best.loc[best["patching_effect"] > 0, site]):
        same = (verify[list(row)] == pd.Series(row)).all(axis=1)
        rows.append({**row, **_measured(verify[same], "patching_effect"), "task": task})
    return rows


def other_blocks(run: Run, tasks: Iterable[str], heads: pd.DataFrame) -> Rows:
    """Add up the effects of single heads of the blocks that the heads table does not know.

    Args:
        run: whose whole_heads tables are read
        tasks: whose tables they are
        heads: the heads table

    Returns:
        one row per block and corruption: these, n_heads, n (pairs of all tasks), denoising and noising (lists: of each
        task the mean over units of the sum over heads). Without a row where no table has both directions
    """
    sums = []
    for task in tasks:
        table = _read(run, "whole_heads", task)
        if len(table) and len(heads):
            table = table[~table["block"].isin(heads["block"].unique()) & table["patching_effect"].notna()]
        if len(table) and set(DIRECTIONS) <= set(table["direction"]):
            sums.append(direction_sums(table))
    if not sums:
        return []
    rows = []
    for (block, corruption), mine in pd.concat(sums).groupby(["block", "corruption"], sort=False):
        row = {"block": block, "corruption": corruption, "n_heads": int(mine["n_heads"].max())}
        row |= {"n": int(mine["n"].sum()), **{direction: mine[direction].tolist() for direction in DIRECTIONS}}
        rows.append(row)
    return rows


def verified_effects(run: Run, heads: pd.DataFrame, selected: pd.DataFrame) -> pd.DataFrame:
    """Effects of each cell's strongest head on the pairs that did not pick it.

    Args:
        run: whose head_patching tables are read
        heads: the heads table
        selected: rows of all tasks

    Returns:
        columns of `pair_effects`, of the head with the largest mean effect in each task and under each corruption, on
        pairs to verify on; empty without the tables
    """
    if heads.empty or USE not in selected:
        return pd.DataFrame()
    strongest = heads.loc[heads.groupby(CELL, sort=False)["mean_effect"].idxmax(), [*CELL, *HEAD]]
    parts = []
    for task in strongest["task"].unique():
        if run.path("head_patching", task).is_file():
            verify = selected.loc[(selected["task"] == task) & (selected[USE] == "verify"), ["sample_id"]]
            effects = run.stored("head_patching", task)
            parts.append(pair_effects(effects.assign(task=task).only(verify).only(strongest)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def importance_rows(heads: pd.DataFrame, verified: pd.DataFrame) -> Rows:
    """Count the important heads of each task and corruption, and find the strongest.

    Args:
        heads: the heads table
        verified: from `verified_effects`

    Returns:
        one row per task and corruption: task, corruption, pairs, units, important, negative (important heads with a
        negative mean effect), notice (heads by the published rule of the NOTICE paper; missing where it was not
        computed), detectable (the effect that a head as spread as the five strongest must have to be found in 80 of 100
        cases, never below the smallest that counts), missed (the largest size of a mean effect of a head that is not
        important; missing if all are), and of the head with the largest mean effect module, layer, head, and on the
        pairs to verify on mean, ci_low, ci_high, n, n_units
    """
    if heads.empty:
        return []
    rows = []
    for (task, corruption), cell in heads.groupby(CELL, sort=False):
        strongest = cell.loc[cell["mean_effect"].idxmax()]
        by_size = cell.sort_values("mean_effect", key=abs, ascending=False)
        of = verified
        if len(verified):
            of = verified[(verified["task"] == task) & (verified["corruption"] == corruption)].dropna(subset="effect")
        rows.append(
            {
                "task": task,
                "corruption": corruption,
                "pairs": int(cell["n"].max()),
                "units": int(cell["n_units"].max()),
                "important": int(cell["is_important"].sum()),
                "negative": int((cell["is_important"] & (cell["mean_effect"] < 0)).sum()),
                "notice": int(cell["is_important_notice"].sum()) if "is_important_notice" in cell else None,
                "detectable": max(MIN_EFFECT, float(by_size.head(5)["detectable_effect"].median())),
                "missed": float(by_size.loc[~by_size["is_important"].astype(bool), "mean_effect"].abs().max()),
                **strongest[["module", "layer", "head"]].to_dict(),
                **_measured(of, "effect"),
            }
        )
    return rows


def circuit_rows(circuits: pd.DataFrame, curves: pd.DataFrame) -> Rows:
    """List the verdicts on circuits, with the two runs that faithfulness lies between.

    Args:
        circuits: the circuits table
        curves: the faithfulness table

    Returns:
        one row per row of `circuits`: its columns; ld_none and ld_all (mean LD with no head and with all heads in the
        circuit, over units as faithfulness is) and still_correct (share of pairs correct without any head)
    """
    if circuits.empty or curves.empty:
        return _records(circuits)
    key, ends = [*CELL, "run"], {"logit_diff_none": "ld_none", "logit_diff_all": "ld_all"}
    pairs = curves[curves["direction"] == "sufficiency"].drop_duplicates([*key, "sample_id"])
    by_unit = pairs.groupby([*key, UNIT if UNIT in pairs else "sample_id"])[[*ends]].mean()
    found = by_unit.groupby(key).mean().rename(columns=ends)
    found["still_correct"] = pairs.assign(still=pairs["logit_diff_none"] > 0).groupby(key)["still"].mean()
    return _records(circuits.merge(found.reset_index(), on=key, how="left"))


def area_rows(curves: pd.DataFrame) -> Rows:
    """Summarise the curves of ranked heads.

    Args:
        curves: the faithfulness table

    Returns:
        one row per task, corruption and run: these; of sufficiency area (MIB's CPR), area_low, area_high, cmd, k_80,
        k_80_sure; and k_20 (smallest number of heads without which .2 or less is left). k's are None where no size
        suffices
    """
    if curves.empty:
        return []
    table = faithfulness_summary(curves[curves["order"] == "ranked"])
    keys = ["task", "corruption", "run"]
    falls = table.loc[table["direction"] == "necessity", [*keys, "k_80"]].rename(columns={"k_80": "k_20"})
    rises = table[table["direction"] == "sufficiency"].drop(columns="direction")
    merged = rises.merge(falls, on=keys).astype(object)
    return _records(merged.where(merged.notna(), None))


def _measured(rows: pd.DataFrame, column: str) -> dict[str, Any]:
    """Mean over units, its interval, and how many pairs and units that are; missing without rows."""
    if rows.empty:
        return {"mean": float("nan"), "ci_low": float("nan"), "ci_high": float("nan"), "n": 0, "n_units": 0}
    values = stats.unit_means(rows[column].to_numpy(), rows[UNIT].to_numpy() if UNIT in rows else None)
    (low,), (high,) = stats.mean_interval(values)
    return {
        "mean": values.mean(),
        "ci_low": low,
        "ci_high": high,
        "n": rows["sample_id"].nunique(),
        "n_units": len(values),
    }


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
