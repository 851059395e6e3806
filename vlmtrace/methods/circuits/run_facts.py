"""What a run's tables say of one head: its mean effect and rank, what it looks at, where it matters most."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vlmtrace.core import stats
from vlmtrace.core.arguments import Count, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import HEAD, UNIT
from vlmtrace.core.unreadable import refused

#: Columns of each part of `RunFacts`.
EFFECTS = "task corruption mean_effect ci_low ci_high rank n_heads n_units table".split()
FUNCTIONS = "region share ratio ratio_low ratio_high function".split()
PAIRS = "task sample_id corruption patching_effect".split()


class RunFacts(NamedTuple):
    """What a run says of one head.

    Attributes:
        refused: why it says nothing, as a sentence; "": it does
        effects: one row per task and corruption: mean_effect over units with the ends of its 95 % interval, ci_low and
            ci_high, rank (1: the largest absolute mean effect) among n_heads, n_units, and table: "heads" (effects
            summed over positions, one patch each) or "whole_heads" (all positions in one patch)
        functions: one row per region of the image: share of attention, ratio to the region's share of the area with
            ratio_low and ratio_high, and function
        pairs: the pairs where the head's absolute effect is largest, the largest first: task, sample_id, corruption,
            patching_effect
    """

    refused: str
    effects: pd.DataFrame
    functions: pd.DataFrame
    pairs: pd.DataFrame


@checked
def run_facts(run: Path | None, model: str, head: tuple[str, str, int, int], n_pairs: Count = 5) -> RunFacts:
    """Look one head up in the tables of a run.

    Args:
        run: the run's folder; None: there is none
        model: name of the model that the head is of
        head: block, module, layer and head
        n_pairs: how many pairs at most

    Returns:
        what is found; parts that the run has no table of are empty

    Raises:
        VlmtraceError: a table cannot be read
    """
    nothing = RunFacts("", *(pd.DataFrame(columns=columns) for columns in (EFFECTS, FUNCTIONS, PAIRS)))
    silent = why_silent(run, model)
    if run is None or silent:
        return nothing._replace(refused=silent)
    effects, functions = _effects(run, head), _read(run / "head_functions.parquet", head)
    pairs = _pairs(run, head, n_pairs)
    if effects.empty and functions.empty and pairs.empty:
        return nothing._replace(
            refused=f"Run {run.name!r} has no table of this head yet: run notebooks 04 to 06 (make all)."
        )
    return RunFacts("", effects.reindex(columns=EFFECTS), functions.reindex(columns=FUNCTIONS), pairs)


def why_silent(run: Path | None, model: str) -> str:
    """Why a run says nothing of a model, as a sentence; "": it may.

    Args:
        run: the run's folder; None: there is none
        model: name of the model
    """
    if run is None:
        return (
            "No run is loaded, so nothing is known over many pairs: run make all, then open the explorer with that run "
            "(RUN=…)."
        )
    if not run.is_dir():
        return f"There is no run {run.name!r} yet, so nothing is known over many pairs: make all."
    of = model_of(run)
    return "" if of in ("", model) else f"Run {run.name!r} is of {of}, so it says nothing of heads of {model}."


def model_of(run: Path) -> str:
    """The model that a run's tables are of, "" where the run does not say.

    Args:
        run: the run's folder
    """
    try:
        made_from = json.loads((run / "run.json").read_text())["made_from"]
        models = {stage["parameters"]["model"] for stage in made_from.values() if "model" in stage["parameters"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""
    return models.pop() if len(models) == 1 else ""


def _effects(run: Path, head: tuple[str, str, int, int]) -> pd.DataFrame:
    """Mean effect and rank in each task and corruption, from `heads`, or else from `whole_heads`."""
    heads = _read(run / "heads.parquet")
    if not heads.empty:
        keys = [key for key in ("task", "corruption") if key in heads]
        found = _ranked(heads, keys)
        mine = found[_is_head(found, head)]
        if len(mine):
            return mine.assign(table="heads").reset_index(drop=True)
    parts = []
    for path in sorted(run.glob("*/whole_heads.parquet")):
        whole = _read(path)
        if "direction" in whole:
            whole = whole[whole["direction"] == "denoising"]
        parts.append(
            _ranked(_means(whole.dropna(subset=["patching_effect"])), ["corruption"]).assign(task=path.parent.name)
        )
    if not parts:
        return pd.DataFrame(columns=EFFECTS)
    found = pd.concat(parts, ignore_index=True)
    return found[_is_head(found, head)].assign(table="whole_heads").reset_index(drop=True)


def _means(whole: pd.DataFrame) -> pd.DataFrame:
    """Mean of each head over units, with the ends of its 95 % interval."""
    rows = []
    for key, mine in whole.groupby(["corruption", *HEAD], sort=False):
        units = (mine[UNIT] if UNIT in mine else mine["sample_id"]).to_numpy()
        by_unit = stats.unit_means(mine["patching_effect"].to_numpy(), units)
        (low,), (high,) = stats.mean_interval(by_unit)
        rows.append((*key, float(by_unit.mean()), low, high, len(by_unit)))
    return pd.DataFrame(rows, columns=["corruption", *HEAD, "mean_effect", "ci_low", "ci_high", "n_units"])


def _ranked(heads: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The same with rank, 1 for the largest absolute mean effect, and n_heads."""
    size = heads["mean_effect"].abs()
    groups = [heads[key] for key in keys] or [pd.Series(0, heads.index)]
    grouped = size.groupby(groups, sort=False)
    return heads.assign(
        rank=grouped.rank(ascending=False, method="min").astype("Int64"), n_heads=grouped.transform("size")
    )


def _pairs(run: Path, head: tuple[str, str, int, int], n: int) -> pd.DataFrame:
    """The pairs with the largest absolute effects, positions summed."""
    parts = []
    for folder in sorted(path for path in run.iterdir() if path.is_dir()):
        # Single positions are patched in many pairs, whole heads in fewer.
        for name in ("head_patching", "whole_heads"):
            found = _read(folder / f"{name}.parquet", head)
            if "direction" in found:
                found = found[found["direction"] == "denoising"]
            if len(found):
                sums = found.groupby(["sample_id", "corruption"], sort=False, observed=True)["patching_effect"]
                parts.append(sums.sum(min_count=1).reset_index().assign(task=folder.name))
                break
    if not parts:
        return pd.DataFrame(columns=PAIRS)
    every = pd.concat(parts, ignore_index=True).dropna(subset=["patching_effect"])
    every = every.sort_values("patching_effect", key=np.abs, ascending=False, kind="stable")
    # One corruption of a pair is enough: what is opened is the pair.
    return every.drop_duplicates(["task", "sample_id"]).head(n)[PAIRS].reset_index(drop=True)


def _is_head(table: pd.DataFrame, head: tuple[str, str, int, int]) -> pd.Series:
    same = pd.Series(True, table.index)
    for column, value in zip(HEAD, head, strict=True):
        same &= table[column] == value
    return same


def _read(path: Path, head: tuple[str, str, int, int] | None = None) -> pd.DataFrame:
    """A table, or the rows of one head; empty where there is none."""
    return read_rows(path, {} if head is None else dict(zip(HEAD, head, strict=True)))


def read_rows(path: Path, equal: Mapping[str, Any]) -> pd.DataFrame:
    """Some rows of a table; none where there is no table.

    Args:
        path: of the table
        equal: the values that columns have in these rows

    Raises:
        VlmtraceError: the table cannot be read
    """
    if not path.is_file():
        return pd.DataFrame()
    where = [(column, "==", value) for column, value in equal.items()] or None
    try:
        return pq.read_table(path, filters=where).to_pandas()
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise refused(path, error) or VlmtraceError(
            f"{path} cannot be read ({error}): make it again, by the notebook that writes it."
        ) from error
