"""Faithfulness of circuits as a ratio of means, over sizes: curves, their areas, and the smallest size that suffices.

With m(C) the mean LD of a run with circuit C (over pairs of a unit, then over units), ∅ no head and M all heads of the
head block, faithfulness is

    f(C) = (m(C) − m(∅)) / (m(M) − m(∅)),

0 without any head and 1 with all, in whatever unit LD is measured. It is a ratio of means: a mean over pairs of each
pair's own ratio would be decided by pairs whose denominator is close to 0. In a run for necessity, C is all heads but
the k ranked first, and f is what is left without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vlmtrace.core import stats
from vlmtrace.core.arguments import Count, Probability, Seed, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import UNIT, check_columns
from vlmtrace.core.types import Array

#: A circuit with this share of the difference between no head and all heads is called sufficient.
SUFFICIENT = 0.8
#: Up to this share is called no effect, and left without a circuit it makes the circuit necessary.
LITTLE = 0.2


@checked
def faithfulness_means(
    table: pd.DataFrame, level: Probability = 0.95, n_boot: Count = 10_000, seed: Seed = 0
) -> pd.DataFrame:
    """Faithfulness of circuits of each size, with an interval over units.

    Args:
        table: from `faithfulness_table`; a column task may have been added
        level: of the interval, 0 to 1
        n_boot: bootstrap resamples of units
        seed: of the bootstrap

    Returns:
        task (if given), corruption, run, direction, order, k, n (pairs), n_units, faithfulness (of random orders: mean
        over draws), ci_low, ci_high; one row per curve and size. All three are missing where the mean LD with all heads
        may be that with none

    Raises:
        VlmtraceError: a column is missing, or an LD is, or there is no row
    """
    return means_of(_curves(table), level, n_boot, seed)


def means_of(curves: Iterable[Curve], level: float, n_boot: int, seed: int) -> pd.DataFrame:
    """Faithfulness at each size of curves, with an interval over units.

    Args:
        curves: from `curves_of`
        level: of the interval, 0 to 1
        n_boot: bootstrap resamples of units
        seed: of the bootstrap

    Returns:
        one row per curve and size: what names the curve, the size, what else there is of each size, n (pairs), n_units,
        faithfulness, ci_low, ci_high
    """
    rows = []
    for curve in curves:
        share, low, high = share_of_gap(curve.gain.mean(0), curve.gap, level, n_boot, seed)
        columns = {curve.size: curve.sizes, **curve.more, "n": curve.n, "n_units": curve.n_units}
        rows.append({**curve.group, **columns, "faithfulness": share, "ci_low": low, "ci_high": high})
    return pd.concat([pd.DataFrame(row) for row in rows], ignore_index=True)


@checked
def faithfulness_summary(
    table: pd.DataFrame,
    level: Probability = 0.95,
    n_boot: Count = 10_000,
    n_permutations: Count = 10_000,
    seed: Seed = 0,
) -> pd.DataFrame:
    """Areas under the curves, the smallest circuit that suffices, and whether ranked heads beat random ones.

    - `area` is ∫ f(k) dk, with k as a share of the largest size, by trapezoids over the sizes run. With sizes from none
      to all heads, in a row of sufficiency, it is the CPR of MIB (integrated circuit performance ratio, Mueller et al.
      2025, https://arxiv.org/abs/2504.13151): larger is better. In a row of necessity it is the area under what is
      left: smaller is better. MIB adds edges or nodes of the whole model; here they are heads of one block, and the
      sizes are those of `circuit_sizes`, so areas compare between rankings here, not with MIB's leaderboard.
    - `cmd` is MIB's circuit-model distance, ∫ abs(1 − f(k)) dk, in the same way: 0 is best. It tells a curve that
      overshoots 1 from one that stays there. Missing in rows of necessity.
    - `k_80` is the smallest k, among the sizes run, whose estimated faithfulness reaches .8 (necessity: falls to
      .2). `k_80_sure` is the smallest k whose whole interval does. Both are missing where none does.
    - `advantage` is how much larger the area of ranked heads is than the mean area of random orders (necessity: how
      much smaller), p_value of a two-sided test of the mean over units (`vlmtrace.core.stats.mean_test`). The random
      orders are a sample themselves: `n_beaten` of `n_random` have a worse area than the ranking.

    Args:
        table: from `faithfulness_table`; a column task may have been added
        level: of the intervals, 0 to 1
        n_boot: bootstrap resamples of units
        n_permutations: resamples of the test
        seed: of bootstrap and test

    Returns:
        one row per curve: task (if given), corruption, run, direction, order; n (pairs), n_units; area, area_low,
        area_high; cmd; k_80, k_80_sure; and, missing in rows "random" and where random orders were run at other sizes:
        advantage, advantage_low, advantage_high, p_value, n_beaten, n_random. A curve of a single size has no area

    Raises:
        VlmtraceError: a column is missing, or an LD is, or there is no row
    """
    curves = list(_curves(table))
    rows = []
    for curve in curves:
        row = {**curve.group, "n": curve.n, "n_units": curve.n_units}
        share, low, high = share_of_gap(curve.gain.mean(0), curve.gap, level, n_boot, seed)
        if len(curve.sizes) > 1:
            areas = stats.area_under_curve(curve.gain, curve.sizes)  # (draw, unit), in logits
            row |= dict(zip(("area", "area_low", "area_high"), _scalars(areas.mean(0), curve.gap, level, n_boot, seed),
                            strict=True))  # fmt: skip
            if not curve.is_necessity:
                row["cmd"] = float(stats.area_under_curve(np.abs(1 - share), curve.sizes))
            row |= _advantage(curve, areas, curves, level, n_boot, n_permutations, seed)
        enough = share <= LITTLE if curve.is_necessity else share >= SUFFICIENT
        surely = high <= LITTLE if curve.is_necessity else low >= SUFFICIENT
        row["k_80"], row["k_80_sure"] = _first(curve.sizes, enough), _first(curve.sizes, surely)
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.reindex(columns=list(dict.fromkeys([*curves[0].group, "n", "n_units", *_SUMMARY]))).astype(_SUMMARY)


#: Columns of the summary after those that name a curve and count, and their types.
_SUMMARY = {"area": "float64", "area_low": "float64", "area_high": "float64", "cmd": "float64"}
_SUMMARY |= {"k_80": "Int64", "k_80_sure": "Int64"}
_SUMMARY |= {"advantage": "float64", "advantage_low": "float64", "advantage_high": "float64", "p_value": "float64"}
_SUMMARY |= {"n_beaten": "Int64", "n_random": "Int64"}


class Curve(NamedTuple):
    """What circuits of growing size do.

    Attributes:
        group: names it: task, corruption, order and what else there are curves of
        size: what its sizes are called
        sizes: ascending
        more: by name, something else of each size, (size,)
        gain: (draw, unit, size), LD less that of the empty circuit, in logits
        gap: (unit,), the same of the whole model
        n: pairs
    """

    group: dict[str, str]
    size: str
    sizes: list[float]
    more: dict[str, Array]
    gain: Array
    gap: Array
    n: int

    @property
    def n_units(self) -> int:
        """How many units the pairs are of."""
        return len(self.gap)

    @property
    def is_necessity(self) -> bool:
        """Whether the circuit is all but what was ranked first."""
        return self.group.get("direction") == "necessity"


def _curves(table: pd.DataFrame) -> Iterator[Curve]:
    return curves_of(table, ("corruption", "run", "direction", "order"), "k", (), "faithfulness", "faithfulness_table")


def curves_of(
    table: pd.DataFrame, names: Sequence[str], size: str, more: Sequence[str], table_name: str, origin: str
) -> Iterator[Curve]:
    """The curves that a table of circuits' runs holds.

    Args:
        table: with the columns draw, sample_id, logit_diff, logit_diff_none and logit_diff_all; task and unit may be
            there
        names: columns that tell curves apart, beside task
        size: the column of sizes
        more: columns of which a mean is taken at each size
        table_name: what sentences call the table
        origin: what makes it

    Yields:
        each curve

    Raises:
        VlmtraceError: a column is missing, or an LD is, or there is no row
    """
    keys = [*(["task"] if "task" in table else []), *names]
    ends = ["logit_diff_none", "logit_diff_all"]
    check_columns(table, [*keys, "draw", "sample_id", size, *more, "logit_diff", *ends], table_name)
    if table.empty:
        raise VlmtraceError(f"The {table_name} table has no rows: run {origin}.")
    if table[["logit_diff", *ends]].isna().any(axis=None):
        pair = table.loc[table[["logit_diff", *ends]].isna().any(axis=1), "sample_id"].iloc[0]
        raise VlmtraceError(f"The {table_name} table has no LD for a run of pair {pair!r}: leave that pair out.")
    for group, rows in table.groupby(keys, sort=False, observed=True):
        gains = rows.assign(gain=rows["logit_diff"] - rows["logit_diff_none"])
        wide = gains.pivot(index=["draw", size], columns="sample_id", values="gain")  # (draw and size, pair)
        pairs = rows.drop_duplicates("sample_id").set_index("sample_id").loc[wide.columns]
        units = pairs[UNIT].to_numpy() if UNIT in pairs else None
        by_size = rows.groupby(size)[list(more)].mean()
        sizes = by_size.index.tolist()
        of_units = stats.unit_means(wide.to_numpy().T, units)  # (unit, draw and size)
        gain = of_units.reshape(len(of_units), -1, len(sizes)).swapaxes(0, 1)
        gap = stats.unit_means((pairs[ends[1]] - pairs[ends[0]]).to_numpy(), units)[:, 0]
        found = {name: by_size[name].to_numpy() for name in more}
        yield Curve(dict(zip(keys, map(str, group), strict=True)), size, sizes, found, gain, gap, len(pairs))


def share_of_gap(
    gain: Array, gap: Array, level: float = 0.95, n_boot: int = 10_000, seed: int = 0
) -> tuple[Array, ...]:
    """Ratio of means with its interval: how large gains are as shares of the gap between no head and all heads.

    Args:
        gain: (unit, k), in logits
        gap: (unit,), in logits
        level: of the interval, 0 to 1
        n_boot: bootstrap resamples of units
        seed: of the bootstrap

    Returns:
        ratio, lower and upper end, (k,) each; all missing where the mean gap may be 0 or is negative
    """
    low, high = stats.ratio_interval(gain, gap, level, n_boot, seed)
    share = gain.mean(0) / gap.mean() if gap.mean() else np.full(gain.shape[1], np.nan)
    unusable = gap.mean() <= 0 or (len(gap) > 1 and np.isnan(low))
    return tuple(np.where(unusable, np.nan, value) for value in (share, low, high))


def _scalars(gain: Array, gap: Array, level: float, n_boot: int, seed: int) -> list[float]:
    """Ratio and interval of one number per unit."""
    return [float(value[0]) for value in share_of_gap(gain[:, None], gap, level, n_boot, seed)]


def _advantage(
    curve: Curve, areas: Array, curves: list[Curve], level: float, n_boot: int, n_permutations: int, seed: int
) -> dict[str, Any]:
    """Ranked heads against random ones, by area; nothing for other curves."""
    if curve.group["order"] != "ranked":
        return {}
    partner = [other for other in curves if other.group == curve.group | {"order": "random"}]
    if not partner or partner[0].sizes != curve.sizes:
        return {}
    better = -1 if curve.is_necessity else 1
    gains = better * (areas - stats.area_under_curve(partner[0].gain, curve.sizes))  # (draw, unit)
    by_unit = gains.mean(0)
    (p_value,) = stats.mean_test(by_unit, n_permutations, seed)
    names = ("advantage", "advantage_low", "advantage_high")
    row = dict(zip(names, _scalars(by_unit, curve.gap, level, n_boot, seed), strict=True))
    return {**row, "p_value": p_value, "n_beaten": int((gains.mean(1) > 0).sum()), "n_random": len(gains)}


def _first(sizes: list[float], reached: Array) -> float | None:
    return next((size for size, enough in zip(sizes, reached, strict=True) if enough), None)
