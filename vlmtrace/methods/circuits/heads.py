"""Which heads carry the answer, and how sure that is.

A *cell* is one task under one corruption. Within a cell every head gets a mean effect with an interval and a test
(`head_table`); heads that matter in all cells are universal (`vlmtrace.methods.circuits.universal`). What is claimed on
the pairs that found the heads is then tested on others, by running the model with the best k heads alone
(`faithfulness_table`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from vlmtrace.core import stats
from vlmtrace.core.arguments import Count, NotNegative, Probability, Seed, checked
from vlmtrace.core.caller import warn
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.schema import CELL, HEAD, check_columns
from vlmtrace.core.stored import StoredTable
from vlmtrace.methods.circuits.cells import Cell, cells_of, check_every_cell
from vlmtrace.methods.circuits.power import detectable_effect

#: The smallest size of a mean effect that counts, by convention: a fiftieth of the gap.
MIN_EFFECT = 0.02


@checked
def head_table(
    head_patching: pd.DataFrame | StoredTable,
    *,
    effect: str = "patching_effect",
    alpha: Probability = 0.05,
    min_effect: NotNegative = MIN_EFFECT,
    level: Probability = 0.95,
    n_boot: Count = 10_000,
    n_permutations: Count | None = None,
    seed: Seed = 0,
) -> pd.DataFrame:
    """Say which heads matter, for each task × corruption.

    A head is important if its mean effect differs from 0 at a false discovery rate of `alpha` over all heads of the
    cell (Benjamini and Hochberg 1995, https://doi.org/10.1111/j.2517-6161.1995.tb02031.x), and is at least `min_effect`
    in size: with many pairs an effect can be certain and still too small to care about. Pairs of one unit (that share
    an image or mirror each other) are averaged first, and mean, interval and test are those of units, which are
    independent; without a column `unit` every pair is its own. The test and the sign are those of the signed effect.
    The mean absolute effect, which also counts effects that cancel between pairs, is always above 0, so no test against
    0 can use it.

    `is_important_notice` is the rule of NOTICE (Golovanevsky et al. 2025, https://arxiv.org/abs/2406.16320) as it was
    published: see `notice_rule`.

    Args:
        head_patching: from `patch_heads`, with a column task; any number of tasks and corruptions. Of a table on disk
            (`Stage.scan`) memory holds a number per pair and head, and some pairs' rows at a time
        effect: "patching_effect" (share of the clean-corrupt gap), or "logit_diff" or "p_diff" where pairs with a small
            gap should not weigh more
        alpha: the false discovery rate, 0 to 1
        min_effect: the smallest mean effect that counts, in the unit of `effect`
        level: of the intervals over units, 0 to 1
        n_boot: bootstrap resamples of units
        n_permutations: resamples of the test; None: enough for a single head to pass the correction with room to spare
        seed: of bootstrap and test

    Returns:
        the heads table, one row per head and cell: task, corruption, block, module, layer, head; n (pairs averaged),
        n_units (units they belong to), n_missing (pairs set aside because clean and corrupt do not differ);
        mean_effect, ci_low, ci_high; mean_abs_effect, abs_ci_low, abs_ci_high; sd_effect (over units) and
        detectable_effect (the smallest mean that so many units find in 80 of 100 cases, `power.detectable_effect`);
        p_value, q_value (corrected); is_important; and, where the positions of the correct option were patched,
        notice_score and is_important_notice (`notice_rule`)

    Raises:
        VlmtraceError: a column is missing, a pair lacks heads, or a cell has no usable pair
    """
    cells = cells_of(head_patching, effect)
    tables = []
    for cell in cells:
        matrix, units, n_missing = cell.pairs_by_heads()
        values = stats.unit_means(matrix.to_numpy(), units)  # (unit, head)
        sizes = stats.unit_means(matrix.abs().to_numpy(), units)
        n_heads = values.shape[1]
        n_draws = n_permutations or _enough_permutations(n_heads, alpha)
        _warn_if_hopeless(cell.name, len(values), n_heads, n_draws, alpha)
        low, high = stats.mean_interval(values, level, n_boot, seed)
        abs_low, abs_high = stats.mean_interval(sizes, level, n_boot, seed)
        p_value = stats.mean_test(values, n_draws, seed)
        spread = values.std(0, ddof=1) if len(values) > 1 else np.full(n_heads, np.nan)
        table = matrix.columns.to_frame(index=False).assign(
            n=len(matrix),
            n_units=len(values),
            n_missing=n_missing,
            mean_effect=values.mean(0),
            ci_low=low,
            ci_high=high,
            mean_abs_effect=sizes.mean(0),
            abs_ci_low=abs_low,
            abs_ci_high=abs_high,
            sd_effect=spread,
            detectable_effect=detectable_effect(spread, len(values), alpha / n_heads),
            p_value=p_value,
            q_value=false_discovery_control(p_value),
        )
        table.insert(0, "task", cell.task)
        table.insert(1, "corruption", cell.corruption)
        tables.append(table)
    if not tables:
        raise VlmtraceError("The head_patching table has no rows: run patch_heads on at least one pair.")
    heads = pd.concat(tables, ignore_index=True)
    heads["is_important"] = (heads["q_value"] < alpha) & (heads["mean_effect"].abs() >= min_effect)
    notice = _notice_table(cells)
    return heads.merge(notice, how="left", on=[*CELL, *HEAD]) if len(notice) else heads


@checked
def notice_rule(head_patching: pd.DataFrame | StoredTable) -> pd.DataFrame:
    """Say which heads the rule of NOTICE names, as published (Golovanevsky et al. 2025, https://arxiv.org/abs/2406.16320).

    The score of a head is the mean over pairs of the size of the probability that patching it restores,
    abs(p_patched(correct) − p_corrupt(correct)), at the position of the correct option's (first) token. A head is named
    if its score is more than two standard deviations above the mean over the heads of its module, in one task under one
    corruption. This is an outlier rule: of heads that differ little it names a few whether or not any matters, and
    never more than a fifth of them. It knows no sign and no sampling error, and it takes pairs for independent.

    Args:
        head_patching: from `patch_heads`, with a column task

    Returns:
        one row per head and cell: task, corruption, block, module, layer, head, notice_score (mean size of the restored
        probability, 0 to 1), is_important_notice; no rows where no position of the correct option was patched
    """
    return _notice_table(cells_of(head_patching, "p_diff") if "p_diff" in head_patching else [])


@checked
def rank_heads(
    heads: pd.DataFrame, corruption: str = "image", by: str = "mean_effect", important_first: bool = False
) -> pd.DataFrame:
    """Rank all heads in the order in which a circuit takes them in: the largest effect first.

    Tasks in the table count equally. The default order is signed, so that heads that work against the answer come last;
    by "mean_abs_effect" they stand among the others.

    Args:
        heads: from `head_table`; pass the rows of one task to rank for that task
        corruption: "image" or "text"
        by: "mean_effect" or "mean_abs_effect"
        important_first: heads that are important (in any of the tasks) with a positive mean effect come before all
            others, so that they are a circuit of their own size; a larger mean that is not certain comes after

    Returns:
        one row per head: rank (from 1), block, module, layer, head, and the mean over tasks of the column ranked by

    Raises:
        VlmtraceError: a column is missing, the order or corruption is unknown, or a head lacks a task
    """
    one_of(by, ("mean_effect", "mean_abs_effect"), "order")
    check_columns(heads, [*CELL, *HEAD, by], "heads")
    one_of(corruption, heads["corruption"].unique(), "corruption of the heads table")
    chosen = heads[heads["corruption"] == corruption]
    check_every_cell(chosen)  # a mean over other tasks is no rank among these
    means = chosen.groupby(HEAD, observed=True)[by].mean()
    first = pd.Series(False, index=means.index)
    if important_first:
        check_columns(heads, ["is_important", "mean_effect"], "heads")
        helps = chosen["is_important"] & (chosen["mean_effect"] > 0)
        first = helps.groupby([chosen[key] for key in HEAD], observed=True).any()
    ranked = means.reset_index().assign(first=first.reindex(means.index).to_numpy())
    ranked = ranked.sort_values(["first", by], ascending=False, kind="stable", ignore_index=True).drop(columns="first")
    ranked.insert(0, "rank", range(1, len(ranked) + 1))
    return ranked


def _notice_table(cells: Sequence[Cell]) -> pd.DataFrame:
    columns = [*CELL, *HEAD, "notice_score", "is_important_notice"]
    scores = {(cell.task, cell.corruption): cell.notice_scores() for cell in cells if cell.restored}
    if not scores:
        return pd.DataFrame(columns=columns)
    table = pd.concat(scores, names=CELL).rename("notice_score").sort_index().reset_index()
    of_module = table.groupby([*CELL, "block", "module"], observed=True)["notice_score"]
    threshold = of_module.transform("mean") + 2 * of_module.transform(lambda scores: scores.std(ddof=0))
    return table.assign(is_important_notice=table["notice_score"] > threshold)[columns]


def _enough_permutations(n_heads: int, alpha: float) -> int:
    """So many that a single head can reach a corrected value of a tenth of alpha, and 10,000 at least."""
    return max(10_000, int(np.ceil(10 * n_heads / alpha)))


def _warn_if_hopeless(cell: str, n_units: int, n_heads: int, n_permutations: int, alpha: float) -> None:
    """Say it if so few units, or permutations, cannot show a head even if its effect is the same on each."""
    smallest = stats.smallest_mean_p(n_units, n_permutations)
    if smallest * n_heads >= alpha:
        warn(
            f"{cell}: with {n_units} independent pairs no p-value falls below {smallest:.2g}, too much for one head "
            f"among {n_heads} to pass a false discovery rate of {alpha}: use more samples."
        )
