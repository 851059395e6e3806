"""Which heads carry the answer, how sure that is, and which of them do so everywhere.

A *cell* is one task under one corruption. Within a cell every head gets a mean effect with an interval and a test
(`head_table`); heads that matter in all cells are universal (`universal_heads`). What is claimed on the pairs that
found the heads is then tested on others, by running the model with the best k heads alone (`faithfulness_table`).
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from vlmtrace.core import stats
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.schema import CELL, HEAD, check_columns

#: What can be averaged: shares of the clean-corrupt gap, logits, probabilities.
EFFECTS = ("patching_effect", "logit_diff", "p_diff")


def pair_effects(head_patching: pd.DataFrame, effect: str = "patching_effect") -> pd.DataFrame:
    """Sum the effect of each head on each pair over positions.

    Each position was patched alone, so the sum is the head's total effect to first order: it leaves out what patching
    two positions at once would add, or take away since they restore the same thing. Positions that the corruption does
    not reach add exactly 0.

    Args:
        head_patching: from `patch_heads`, with a column task; any number of pairs, corruptions and tasks
        effect: the column to sum: "patching_effect", "logit_diff" or "p_diff"

    Returns:
        columns task, corruption, sample_id, block, module, layer, head, effect; one row per pair and head, missing
        where the effect at any position is

    Raises:
        VlmtraceError: a column is missing, or a pair's head was patched twice at the same position
    """
    one_of(effect, EFFECTS, "effect")
    keys = [*CELL, "sample_id", *HEAD]
    check_columns(head_patching, [*keys, "position", effect], "head_patching")
    twice = head_patching.duplicated([*keys, "position"])
    if twice.any():
        row = head_patching[twice].iloc[0]
        raise VlmtraceError(
            f"The head_patching table holds pair {row['sample_id']!r} of {row['task']} more than once at the "
            "same head and position, so its sum over positions would be wrong: drop the repeated rows."
        )
    sums = head_patching.groupby(keys, sort=False, observed=True)[effect].sum(skipna=False)
    return sums.rename("effect").reset_index()


def head_table(
    head_patching: pd.DataFrame,
    *,
    effect: str = "patching_effect",
    alpha: float = 0.05,
    min_effect: float = 0.02,
    level: float = 0.95,
    n_boot: int = 10_000,
    n_permutations: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Say which heads matter, for each task × corruption.

    A head is important if its mean effect over pairs differs from 0 by a sign-flip test at a false discovery rate of
    `alpha` over all heads of the cell (Benjamini and Hochberg 1995,
    https://doi.org/10.1111/j.2517-6161.1995.tb02031.x), and is at least `min_effect` in size: with many pairs an effect
    can be certain and still too small to care about. The test and the sign are those of the signed effect. The mean
    absolute effect, which also counts effects that cancel between pairs, is always above 0, so no test against 0 can
    use it; it serves the rule of the NOTICE paper (Golovanevsky et al. 2025, https://arxiv.org/abs/2406.16320), an
    absolute mean more than two standard deviations above the mean over heads. That is an outlier rule, which names a
    few percent of the heads whether or not any matters; it is kept for comparison.

    Args:
        head_patching: from `patch_heads`, with a column task; any number of tasks and corruptions
        effect: "patching_effect" (share of the clean-corrupt gap), or "logit_diff" or "p_diff" where pairs with a small
            gap should not weigh more
        alpha: the false discovery rate, 0 to 1
        min_effect: the smallest mean effect that counts, in the unit of `effect`
        level: of the bootstrap intervals over pairs, 0 to 1
        n_boot: bootstrap resamples of pairs
        n_permutations: sign flips of the test; None: enough for a single head to pass the correction with room to spare
        seed: of bootstrap and test

    Returns:
        the heads table, one row per head and cell: task, corruption, block, module, layer, head; n (pairs averaged),
        n_missing (pairs set aside because clean and corrupt do not differ); mean_effect, ci_low, ci_high;
        mean_abs_effect, abs_ci_low, abs_ci_high; p_value, q_value (corrected); is_important; is_important_2sd (by the
        rule of the NOTICE paper)

    Raises:
        VlmtraceError: a column is missing, a pair lacks heads, or a cell has no usable pair
    """
    effects = pair_effects(head_patching, effect)
    tables = []
    for cell, rows in effects.groupby(CELL, sort=False, observed=True):
        name = "/".join(map(str, cell))
        matrix, n_missing = _pairs_by_heads(rows, name)
        values = matrix.to_numpy()
        n_draws = n_permutations or _enough_permutations(matrix.shape[1], alpha)
        _warn_if_hopeless(name, len(values), values.shape[1], n_draws, alpha)
        low, high = stats.bootstrap_mean(values, level, n_boot, seed)
        abs_low, abs_high = stats.bootstrap_mean(np.abs(values), level, n_boot, seed)
        mean_abs = np.abs(values).mean(0)
        p_value = stats.sign_flip_test(values, n_draws, seed)
        table = matrix.columns.to_frame(index=False).assign(
            n=len(values),
            n_missing=n_missing,
            mean_effect=values.mean(0),
            ci_low=low,
            ci_high=high,
            mean_abs_effect=mean_abs,
            abs_ci_low=abs_low,
            abs_ci_high=abs_high,
            p_value=p_value,
            q_value=false_discovery_control(p_value),
            is_important_2sd=mean_abs > mean_abs.mean() + 2 * mean_abs.std(),
        )
        table.insert(0, "task", cell[0])
        table.insert(1, "corruption", cell[1])
        tables.append(table)
    if not tables:
        raise VlmtraceError("The head_patching table has no rows: run patch_heads on at least one pair.")
    heads = pd.concat(tables, ignore_index=True)
    important = (heads["q_value"] < alpha) & (heads["mean_effect"].abs() >= min_effect)
    heads.insert(heads.columns.get_loc("is_important_2sd"), "is_important", important)
    return heads


def universal_heads(heads: pd.DataFrame) -> pd.DataFrame:
    """List the heads that are important somewhere, with the cells in which they are.

    A head is universal (Golovanevsky et al. 2025, https://arxiv.org/abs/2406.16320) if it is important in every cell of
    the table. With a single cell every important head is, which says nothing. `sign` tells whether it pushes the same
    way everywhere: a head that helps one task and hinders another does not do the same thing twice. That a head matters
    in *all* cells is a claim of its own; its p-value is the largest over cells (the intersection-union test of Berger
    1982, https://doi.org/10.2307/1267823), its q-value is corrected over all heads, and is stricter than being
    important in each cell.

    Args:
        heads: from `head_table`

    Returns:
        one row per head: block, module, layer, head; cells ("task/corruption", joined by ", "); n_cells; is_universal;
        mean_effect (over all cells of the table); sign in the cells where it is important ("+", "-" or "+/-"); p_value,
        q_value (that it matters in all cells). Most cells first, then the largest mean effect

    Raises:
        VlmtraceError: a column is missing
    """
    check_columns(heads, [*CELL, *HEAD, "mean_effect", "p_value", "is_important"], "heads")
    named = heads.assign(cell=heads["task"].astype(str) + "/" + heads["corruption"].astype(str))
    overall = named.groupby(HEAD, observed=True).agg(mean_effect=("mean_effect", "mean"), p_value=("p_value", "max"))
    overall["q_value"] = false_discovery_control(overall["p_value"])
    table = (
        named[named["is_important"]]
        .groupby(HEAD, observed=True)
        .agg(
            cells=("cell", ", ".join),
            n_cells=("cell", "size"),
            lowest=("mean_effect", "min"),
            highest=("mean_effect", "max"),
        )
        .join(overall)
        .assign(is_universal=lambda found: found["n_cells"] == named["cell"].nunique())
        .assign(sign=lambda found: np.select([found["lowest"] > 0, found["highest"] < 0], ["+", "-"], "+/-"))
        .assign(size=lambda found: found["mean_effect"].abs())
        .sort_values(["n_cells", "size"], ascending=False, kind="stable")
    )
    columns = ["cells", "n_cells", "is_universal", "mean_effect", "sign", "p_value", "q_value"]
    return table[columns].reset_index()


def rank_heads(heads: pd.DataFrame, corruption: str = "image", by: str = "mean_effect") -> pd.DataFrame:
    """Rank all heads in the order in which a circuit takes them in: the largest effect first.

    Tasks in the table count equally. The default order is signed, so that heads that work against the answer come last;
    by "mean_abs_effect" they stand among the others.

    Args:
        heads: from `head_table`; pass the rows of one task to rank for that task
        corruption: "image" or "text"
        by: "mean_effect" or "mean_abs_effect"

    Returns:
        one row per head: rank (from 1), block, module, layer, head, and the mean over tasks of the column ranked by

    Raises:
        VlmtraceError: a column is missing, or the order or corruption is unknown
    """
    one_of(by, ("mean_effect", "mean_abs_effect"), "order")
    check_columns(heads, [*CELL, *HEAD, by], "heads")
    one_of(corruption, heads["corruption"].unique(), "corruption of the heads table")
    chosen = heads[heads["corruption"] == corruption]
    means = chosen.groupby(HEAD, observed=True)[by].mean().reset_index()
    ranked = means.sort_values(by, ascending=False, kind="stable", ignore_index=True)
    ranked.insert(0, "rank", range(1, len(ranked) + 1))
    return ranked


def _pairs_by_heads(effects: pd.DataFrame, cell: str) -> tuple[pd.DataFrame, int]:
    """Effects of one cell, pairs × heads, without the pairs that miss an effect, and how many those are."""
    counts = effects.groupby("sample_id", observed=True).size()
    n_heads = len(effects[HEAD].drop_duplicates())
    if (counts < n_heads).any():
        raise VlmtraceError(
            f"Pair {counts.idxmin()!r} of {cell} was patched at {counts.min()} heads, others at {n_heads}: "
            "run patch_heads with the same modules for all pairs."
        )
    matrix = effects.pivot(index="sample_id", columns=HEAD, values="effect").sort_index().sort_index(axis=1)
    usable = matrix.dropna()
    if usable.empty:
        raise VlmtraceError(
            f"None of the {len(matrix)} pairs of {cell} has a clean-corrupt contrast: "
            "select pairs whose answer changes."
        )
    return usable, len(matrix) - len(usable)


def _enough_permutations(n_heads: int, alpha: float) -> int:
    """So many that a single head can reach a corrected value of a tenth of alpha, and 10,000 at least."""
    return max(10_000, int(np.ceil(10 * n_heads / alpha)))


def _warn_if_hopeless(cell: str, n_pairs: int, n_heads: int, n_permutations: int, alpha: float) -> None:
    """Say it if so few pairs, or permutations, cannot show a head even if its effect is the same on each."""
    smallest = stats.smallest_p(n_pairs, n_permutations)
    if smallest * n_heads >= alpha:
        warnings.warn(
            f"{cell}: with {n_pairs} pairs no p-value falls below {smallest:.2g}, too much for one head "
            f"among {n_heads} to pass a false discovery rate of {alpha}: use more samples.",
            stacklevel=3,
        )
