"""Heads that matter in several tasks and under several corruptions: by count and by test, each beside chance.

Two criteria answer two questions. *Important in k of m cells* counts cells in which a head passes its own test: simple,
but one cell with little power makes "all of them" impossible, and the sign may differ. The *intersection-union test*
asks whether a head's mean effect differs from 0 in every cell, with the same sign. Both are given over all cells and
under each corruption.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from vlmtrace.core.arguments import Count, NonEmpty, NotNegative, Probability, Seed, checked
from vlmtrace.core.schema import CELL, HEAD, check_columns
from vlmtrace.core.types import Array
from vlmtrace.methods.circuits.cells import check_every_cell

#: Scope of all cells of a table; the others are named as their corruption.
ALL = "all"


@checked
def universal_heads(heads: pd.DataFrame, alpha: Probability = 0.05) -> pd.DataFrame:
    """List the heads that are important somewhere, or matter everywhere, with the cells in which they are important.

    A head is universal (Golovanevsky et al. 2025, https://arxiv.org/abs/2406.16320) if it is important in every cell of
    the table. With a single cell every important head is, which says nothing. `is_universal_iut` is the answer of a
    test: that the head's mean effect differs from 0 in *all* cells and with the same sign. For either sign, the
    p-value is the largest over cells of the one-sided p-values (intersection-union test, Berger 1982,
    https://doi.org/10.2307/1267823); since the sign is not known beforehand, the smaller of both is doubled, which
    needs no independence between cells; q_value corrects it over all heads of the table. The test demands no size:
    `min_effect` is no part of it.

    Args:
        heads: from `head_table`
        alpha: the false discovery rate of the test over all cells

    Returns:
        one row per head: block, module, layer, head; cells ("task/corruption", joined by ", "; empty where it is
        important in none); n_cells; is_universal; mean_effect (over all cells of the table); sign in all cells of the
        table ("+", "-" or "+/-"); p_value, q_value, is_universal_iut (that it matters in all cells with one sign). Most
        cells first, then the largest mean effect

    Raises:
        VlmtraceError: a column is missing, or a head has no row in a cell
    """
    check_columns(heads, [*CELL, *HEAD, "mean_effect", "p_value", "is_important"], "heads")
    check_every_cell(heads)
    named = heads.assign(cell=heads["task"].astype(str) + "/" + heads["corruption"].astype(str))
    n_cells = named["cell"].nunique()
    important = named[named["is_important"]].groupby(HEAD, observed=True)["cell"]
    by_head = named.groupby(HEAD, observed=True)["mean_effect"].agg(["mean", "min", "max"])
    table = pd.DataFrame(
        {
            "cells": important.agg(", ".join).reindex(by_head.index, fill_value=""),
            "n_cells": important.size().reindex(by_head.index, fill_value=0),
            "mean_effect": by_head["mean"],
            "sign": np.select([by_head["min"] > 0, by_head["max"] < 0], ["+", "-"], "+/-"),
            "p_value": one_sign_p(named),
        }
    )
    table["is_universal"] = table["n_cells"] == n_cells
    table["q_value"] = false_discovery_control(table["p_value"])
    table["is_universal_iut"] = table["q_value"] < alpha
    table = table[(table["n_cells"] > 0) | table["is_universal_iut"]].assign(size=lambda t: t["mean_effect"].abs())
    table = table.sort_values(["n_cells", "size"], ascending=False, kind="stable")
    columns = ["cells", "n_cells", "is_universal", "mean_effect", "sign", "p_value", "q_value", "is_universal_iut"]
    return table[columns].reset_index()


def one_sign_p(heads: pd.DataFrame) -> pd.Series:
    """P-value of each head: its mean effect differs from 0 in every cell, with one sign.

    Args:
        heads: with the columns of a head, mean_effect and p_value (two-sided), one row per head and cell

    Returns:
        by head, min(1, 2 min(max over cells of p₊, max over cells of p₋)), with the one-sided p₊ = p / 2 where the mean
        is positive and 1 − p / 2 elsewhere, p₋ = 1 − p₊. Where all signs agree it is the largest two-sided p-value
    """
    half = heads["p_value"] / 2
    positive = heads["mean_effect"] > 0
    sides = heads[HEAD].assign(plus=half.where(positive, 1 - half), minus=half.where(~positive, 1 - half))
    worst = sides.groupby(HEAD, observed=True).max()
    return (2 * worst.min(axis=1)).clip(upper=1.0)


@checked
def universality(
    heads: pd.DataFrame, alpha: Probability = 0.05, n_permutations: Count = 10_000, seed: Seed = 0
) -> pd.DataFrame:
    """Count heads that are important in at least k of m cells, and that matter in all by the test, beside chance.

    Chance: in each cell as many heads of each module are important as were found there, but which ones is drawn at
    random, independently of the other cells. `expected` is the mean number of heads that then reach k cells, exactly;
    `high` is the number that chance exceeds in at most 5 % of cases, and `p_value` the share of permutations with as
    many heads or more, (count + 1) / (n_permutations + 1). For the test, `expected` is the bound that its correction
    gives: at most a share `alpha` of the heads named, on average.

    Args:
        heads: from `head_table`
        alpha: the false discovery rate of the test over all cells
        n_permutations: random tables
        seed: of the permutations

    Returns:
        one row per scope ("all" cells, and each corruption where there are several), criterion ("important" or
        "one-sign test") and k: scope, criterion, k, m (cells of the scope), n_heads (found), n_tested (all heads),
        expected, high, p_value (both missing for the test)

    Raises:
        VlmtraceError: a column is missing, or a head has no row in a cell
    """
    rows = []
    for scope, part in _scopes(heads):
        cells = part.pivot_table(index=HEAD, columns=CELL, values="is_important", aggfunc="max", observed=True)
        important = cells.to_numpy().astype(bool)  # (head, cell)
        m = important.shape[1]
        strata = cells.reset_index().groupby(["block", "module"], observed=True).indices
        counts = important.sum(1)
        found = _at_least(counts[None], m)[0]
        expected, drawn = _by_chance(important, list(strata.values()), n_permutations, seed)
        for k in range(m, 0, -1):
            reached = int((drawn[:, k - 1] >= found[k - 1]).sum())
            high = float(np.quantile(drawn[:, k - 1], 0.95, method="higher"))
            p_value = (reached + 1) / (n_permutations + 1)
            count = int(found[k - 1])
            rows.append((scope, "important", k, m, count, len(counts), expected[k - 1], high, p_value))
        tested = int((false_discovery_control(one_sign_p(part)) < alpha).sum())
        rows.append((scope, "one-sign test", m, m, tested, len(counts), alpha * tested, np.nan, np.nan))
    columns = ["scope", "criterion", "k", "m", "n_heads", "n_tested", "expected", "high", "p_value"]
    return pd.DataFrame(rows, columns=columns)


@checked
def one_sign_heads(heads: pd.DataFrame, alpha: Probability = 0.05) -> dict[str, list[dict[str, Any]]]:
    """List the heads that pass the test of one sign in all cells of a scope.

    Args:
        heads: from `head_table`
        alpha: the false discovery rate

    Returns:
        for each scope ("all" cells, and each corruption where there are several), rows of `universal_heads`, the
        largest effect first

    Raises:
        VlmtraceError: a column is missing, or a head has no row in a cell
    """
    found = {}
    for scope, part in _scopes(heads):
        table = universal_heads(part, alpha)
        named = table[table["is_universal_iut"]].sort_values("mean_effect", key=abs, ascending=False, kind="stable")
        found[scope] = named.to_dict("records")
    return found


@checked
def effect_size_sensitivity(
    heads: pd.DataFrame, min_effects: NonEmpty[NotNegative] = (0.0, 0.01, 0.02, 0.05), alpha: Probability = 0.05
) -> pd.DataFrame:
    """Count important and universal heads for several smallest effects that count.

    Args:
        heads: from `head_table`
        min_effects: smallest size of a mean effect in a cell, in the unit of mean_effect
        alpha: the false discovery rate, in each cell and of the test over all cells

    Returns:
        one row per scope and smallest effect: scope, min_effect, important (heads, summed over cells), somewhere (heads
        that are important in at least one cell), everywhere (in all cells), one_sign_test (heads that pass the test
        over all cells and whose effect is as large in each)

    Raises:
        VlmtraceError: a column is missing, or a head has no row in a cell
    """
    rows = []
    for scope, part in _scopes(heads):
        q_value = false_discovery_control(p_value := one_sign_p(part))
        size = part.assign(size=part["mean_effect"].abs()).groupby(HEAD, observed=True)["size"].min()
        for min_effect in min_effects:
            important = (part["q_value"] < alpha) & (part["mean_effect"].abs() >= min_effect)
            by_head = important.groupby([part[key] for key in HEAD], observed=True)
            passing = (q_value < alpha) & (size.reindex(p_value.index) >= min_effect)
            rows.append((scope, min_effect, int(important.sum()), int(by_head.any().sum()),
                         int(by_head.all().sum()), int(passing.sum())))  # fmt: skip
    columns = ["scope", "min_effect", "important", "somewhere", "everywhere", "one_sign_test"]
    return pd.DataFrame(rows, columns=columns)


def _scopes(heads: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """All cells, and those of each corruption where there are several."""
    check_columns(heads, [*CELL, *HEAD, "mean_effect", "p_value", "q_value", "is_important"], "heads")
    check_every_cell(heads)
    yield ALL, heads
    if heads["corruption"].nunique() > 1:
        for corruption, part in heads.groupby("corruption", sort=False, observed=True):
            yield str(corruption), part


def _at_least(counts: Array, m: int) -> Array:
    """How many heads are important in at least 1 … m cells: counts (draw, head) to (draw, m)."""
    return np.stack([(counts >= k).sum(1) for k in range(1, m + 1)], axis=1)


def _by_chance(important: Array, strata: list[Array], n_permutations: int, seed: int) -> tuple[Array, Array]:
    """Expected numbers of heads in at least 1 … m cells (m,), and numbers in random tables (n_permutations, m)."""
    n_heads, m = important.shape
    expected = np.zeros(m)
    counts = np.zeros((n_permutations, n_heads), dtype=np.int16)
    generator = np.random.default_rng(seed)
    for rows in strata:
        here = important[rows]
        in_cells = np.ones(1)  # P(important in 0, 1, … cells): a Poisson-binomial, one cell after the other
        for share in here.mean(0):
            in_cells = np.append(in_cells * (1 - share), 0) + np.append(0, in_cells * share)
        expected += len(rows) * in_cells[::-1].cumsum()[::-1][1:]
        for cell in range(m):
            table = np.tile(here[:, cell], (n_permutations, 1))
            counts[:, rows] += generator.permuted(table, axis=1)
    return expected, _at_least(counts, m)
