"""The effects of heads by cell (a task under a corruption): one matrix of pairs × heads, from a table of any length.

A head_patching table has a row per pair, head *and position*; what the statistics of heads need is a number per pair
and head. A table on disk is summed up some pairs at a time, so that memory follows pairs × heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.schema import CELL, HEAD, UNIT, check_columns
from vlmtrace.core.stored import StoredTable, batches_of, plain_text
from vlmtrace.core.types import Array

#: What can be averaged: shares of the clean-corrupt gap, logits, probabilities.
EFFECTS = ("patching_effect", "logit_diff", "p_diff")

#: What the rule of NOTICE reads.
NOTICE_COLUMNS = ("p_diff", "token_role")


@dataclass
class Cell:
    """Effects of one task under one corruption.

    Attributes:
        task: its name
        corruption: "image" or "text"
        sums: tables of pairs (index) × heads (columns), each effect summed over positions
        counts: by pair, at how many heads it was patched
        units: by pair, its unit, where the table has units
        restored: tables of pairs × heads, the size of the probability restored at the correct option's first token
        option: by pair, the position of that token
    """

    task: str
    corruption: str
    sums: list[pd.DataFrame] = field(default_factory=list)
    counts: list[pd.Series] = field(default_factory=list)
    units: list[pd.Series] = field(default_factory=list)
    restored: list[pd.DataFrame] = field(default_factory=list)
    option: list[pd.Series] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As sentences call it."""
        return f"{self.task}/{self.corruption}"

    def pairs_by_heads(self) -> tuple[pd.DataFrame, Array | None, int]:
        """Effects, pairs × heads, without pairs that miss an effect; their units; how many pairs those were.

        Raises:
            VlmtraceError: a pair lacks heads, or no pair is left
        """
        matrix = pd.concat(self.sums).sort_index().sort_index(axis=1)
        counts = pd.concat(self.counts).sort_index()
        if (counts < matrix.shape[1]).any():
            raise VlmtraceError(
                f"Pair {counts.idxmin()!r} of {self.name} was patched at {counts.min()} heads, others at "
                f"{matrix.shape[1]}: run patch_heads with the same modules for all pairs."
            )
        usable = matrix.dropna()
        if usable.empty:
            raise VlmtraceError(
                f"None of the {len(matrix)} pairs of {self.name} has a clean-corrupt contrast: "
                "select pairs whose answer changes."
            )
        units = pd.concat(self.units).loc[usable.index].to_numpy() if self.units else None
        return usable, units, len(matrix) - len(usable)

    def notice_scores(self) -> pd.Series:
        """By head, the mean over pairs of the size of the probability restored at the correct option."""
        restored, option = pd.concat(self.restored), pd.concat(self.option)
        ordered = restored.iloc[np.argsort(option.to_numpy(), kind="stable")]
        heads = np.tile(np.arange(ordered.shape[1]), len(ordered))
        scores = pd.Series(ordered.to_numpy().ravel()).groupby(heads).mean()
        return scores.set_axis(ordered.columns).dropna()


def pair_effects(head_patching: pd.DataFrame | StoredTable, effect: str = "patching_effect") -> pd.DataFrame:
    """Sum the effect of each head on each pair over positions.

    Each position was patched alone, so the sum is the head's total effect to first order: it leaves out what patching
    two positions at once would add, or take away since they restore the same thing. Positions that the corruption does
    not reach add exactly 0.

    Args:
        head_patching: from `patch_heads`, with a column task; any number of pairs, corruptions and tasks
        effect: the column to sum: "patching_effect", "logit_diff" or "p_diff"

    Returns:
        columns task, corruption, sample_id, unit (if the table has it), block, module, layer, head, effect; one row per
        pair and head, missing where the effect at any position is

    Raises:
        VlmtraceError: a column is missing, or a pair's head was patched twice at the same position
    """
    parts = [_summed(batch, effect) for batch in batches_of(head_patching, _needed(effect))]
    return parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)


def cells_of(head_patching: pd.DataFrame | StoredTable, effect: str = "patching_effect") -> list[Cell]:
    """The cells of a table, in the order in which they appear.

    Args:
        head_patching: from `patch_heads`, with a column task
        effect: the column to sum

    Raises:
        VlmtraceError: as `pair_effects`
    """
    cells: dict[tuple[str, str], Cell] = {}
    for batch in batches_of(head_patching, (*_needed(effect), *NOTICE_COLUMNS)):
        for key, rows in _summed(batch, effect).groupby(CELL, sort=False, observed=True):
            cell = cells.setdefault(key, Cell(*key))
            cell.sums.append(rows.pivot(index="sample_id", columns=HEAD, values="effect"))
            cell.counts.append(rows.groupby("sample_id", observed=True).size())
            if UNIT in rows:
                cell.units.append(rows.drop_duplicates("sample_id").set_index("sample_id")[UNIT])
        for key, rows in _at_options(batch).groupby(CELL, sort=False, observed=True):
            cell = cells.setdefault(key, Cell(*key))
            matrix = rows.pivot(index="sample_id", columns=HEAD, values="restored")
            option = rows.groupby("sample_id", sort=False, observed=True)["position"].min()
            cell.restored.append(matrix.reindex(option.index))
            cell.option.append(option)
    return list(cells.values())


def check_every_cell(heads: pd.DataFrame) -> None:
    """Raise a sentence if a head has no row in a cell: what is true of all cells is not known of it.

    Args:
        heads: from `head_table`

    Raises:
        VlmtraceError: a head lacks a cell
    """
    cells, by_head = heads[CELL].drop_duplicates(), heads[[*HEAD, *CELL]].drop_duplicates()
    n_cells = by_head.groupby(HEAD, observed=True).size()
    lacking = n_cells[n_cells < len(cells)]
    if lacking.empty:
        return
    first = dict(zip(HEAD, lacking.index[0], strict=True))
    mine = by_head[(by_head[list(first)] == pd.Series(first)).all(axis=1)]
    where = cells.merge(mine[CELL], how="left", on=CELL, indicator=True).query("_merge == 'left_only'").iloc[0]
    others = f" ({len(lacking)} heads lack a cell)" if len(lacking) > 1 else ""
    raise VlmtraceError(
        f"The heads table has no row of {first['module']} {first['layer']}.{first['head']} in "
        f"{where['task']}/{where['corruption']}{others}: measure the same heads in every task and under every "
        "corruption, or pass those alone that were."
    )


def _needed(effect: str) -> list[str]:
    return [*CELL, "sample_id", UNIT, *HEAD, "position", effect]


def _summed(head_patching: pd.DataFrame, effect: str) -> pd.DataFrame:
    """What `pair_effects` returns, of a table in memory."""
    one_of(effect, EFFECTS, "effect")
    keys = [*CELL, "sample_id", *HEAD]
    check_columns(head_patching, [*keys, "position", effect], "head_patching")
    with_unit = [*CELL, "sample_id", *([UNIT] if UNIT in head_patching else []), *HEAD]
    twice = head_patching.duplicated([*keys, "position"])
    if twice.any():
        row = head_patching[twice].iloc[0]
        raise VlmtraceError(
            f"The head_patching table holds pair {row['sample_id']!r} of {row['task']} more than once at the "
            "same head and position, so its sum over positions would be wrong: drop the repeated rows."
        )
    sums = head_patching.groupby(with_unit, sort=False, observed=True)[effect].sum(skipna=False)
    return plain_text(sums.rename("effect").reset_index())


def _at_options(head_patching: pd.DataFrame) -> pd.DataFrame:
    """By pair and head, the size of the probability that is restored at the correct option's first token."""
    keys = [*CELL, *HEAD, "sample_id"]
    if not {*NOTICE_COLUMNS} <= set(head_patching):
        return pd.DataFrame(columns=[*keys, "position", "restored"])
    at_option = head_patching.loc[head_patching["token_role"] == "correct", [*keys, "position", "p_diff"]]
    first = at_option.sort_values("position", kind="stable").drop_duplicates(keys)
    return plain_text(first.assign(restored=first["p_diff"].abs()))
