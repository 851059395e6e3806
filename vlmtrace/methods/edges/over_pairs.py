"""Edges over many pairs, for the view of one: from a run's table where there is one, otherwise from a few pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import read_table
from vlmtrace.methods.circuits.run_facts import model_of
from vlmtrace.methods.edges.path_patching import patch_edges
from vlmtrace.models import VLM

#: Of so many pairs the mean is computed where no run has a table; each takes a second or two.
N_PAIRS = 4


class OverPairs(NamedTuple):
    """Effects of edges in many pairs.

    Attributes:
        table: an edge_patching table of one corruption
        source: where it is from, in words, with the number of pairs
    """

    table: pd.DataFrame
    source: str


def edges_of_run(run: Path | None, model: str, corruption: str, task: Any = None) -> OverPairs | None:
    """The edges that a run has patched, see notebook 10.

    Args:
        run: the run's folder; None: there is none
        model: name of the model that is looked at; tables of another one are not read
        corruption: "image" or "text"
        task: of the pairs that are wanted; None: of any

    Returns:
        the effects; None where the run has none of this model, corruption and task

    Raises:
        VlmtraceError: the table cannot be read
    """
    if run is None or model_of(run) not in ("", model):
        return None
    for path in (run / "edge_patching.parquet", *sorted(run.glob("*/edge_patching.parquet"))):
        if not path.is_file():
            continue
        table = read_table(path)
        table = table[table["corruption"] == corruption]
        if "direction" in table:
            table = table[table["direction"] == "denoising"]
        if task is not None and "task" in table:
            table = table[table["task"] == task]
        if table["patching_effect"].notna().any():
            n = table["sample_id"].nunique()
            return OverPairs(table.reset_index(drop=True), f"mean over {n} pairs of run {run.name}")
    return None


def edges_of_pairs(
    model: VLM, pairs: pd.DataFrame, corruption: str, task: Any = None, receivers: Sequence[str] | None = None
) -> OverPairs:
    """Patch the edges of the first few pairs.

    Args:
        model: the model to patch
        pairs: those that the explorer offers
        corruption: "image" or "text"
        task: of the pairs that are wanted; None, or one that none has: of any
        receivers: see `patch_edges`

    Raises:
        VlmtraceError: no pair is complete, or the model's edges are not known
    """
    same = pairs[pairs["task"] == task] if task is not None and "task" in pairs else pairs
    chosen = (same if len(same) else pairs).head(N_PAIRS)
    wanted = {"corrupt_image", "corrupt_prompt", "correct_answer", "incorrect_answer"}
    if not wanted <= set(chosen.columns):
        raise VlmtraceError(
            f"The pairs of the explorer have no {min(wanted - set(chosen.columns))}: there is no mean over them, look "
            "at this pair."
        )
    table = patch_edges(model, chosen, corruption, receivers=receivers)
    return OverPairs(table, f"mean over the first {len(chosen)} pairs of the explorer (the run has no edges)")
