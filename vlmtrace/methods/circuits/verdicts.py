"""Is it a circuit? Sufficiency, necessity, completeness and minimality of the important heads, each on its own.

Being better than random heads is a control, and no answer: three heads may beat three random ones and restore an
eighth of what all heads do. The words follow the numbers by fixed rules, which demand the whole interval.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core import stats
from vlmtrace.core.arguments import NotNegative, Seed, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import CELL, UNIT, check_columns
from vlmtrace.core.types import Array
from vlmtrace.methods.circuits.curves import LITTLE, SUFFICIENT, share_of_gap
from vlmtrace.methods.circuits.heads import MIN_EFFECT


@checked
def circuit_verdicts(
    heads: pd.DataFrame,
    faithfulness: pd.DataFrame,
    subsets: pd.DataFrame | None = None,
    min_effect: NotNegative = MIN_EFFECT,
    seed: Seed = 0,
) -> pd.DataFrame:
    """Say for each task, corruption and run what the heads found important and helpful do together.

    The circuit C is the heads with is_important and a positive mean effect; M is all heads of the head block, and f is
    faithfulness as a ratio of means (`vlmtrace.methods.circuits.curves`). All numbers are of pairs that did not find
    the heads. Wang et al. 2022 (https://arxiv.org/abs/2211.00593) ask of a circuit that it be faithful, complete and
    minimal:

    - *sufficient*: f(C). "yes" if the lower end of its 95 % interval is .8 or more, "partly" if that is above .2 (more
      than a fifth is restored for sure), else "no".
    - *necessary*: f(M∖C), what is left without the circuit. "yes" if the upper end of the interval is .2 or less,
      "partly" if that is below .8 (more than a fifth is lost for sure), else "no".
    - *complete*: for subsets K of C, taking K from the circuit and from the model should do the same. `incompleteness`
      is the largest abs(f(C∖K) − f(M∖K)) over the subsets that `subset_table` ran (none, each head, all but each head,
      all, random halves; Wang et al. search for the worst K). "yes" if it is .2 or less. The largest of noisy
      values is too large rather than too small, and no interval is given for it.
    - *minimal*: each head v should matter to the circuit for some K: the largest abs(f(C∖K) − f(C∖(K ∪ {v}))) over the
      subsets that were run with and without v. `n_redundant` counts heads for which it stays below `min_effect`.
      "yes" if there are none.

    `better_than_random` is the control: with C the effect is larger, and without it smaller, than with as many random
    heads of the same modules and layers (95 % intervals of both mean differences exclude 0).

    Args:
        heads: from `head_table`
        faithfulness: from `faithfulness_table` with a column task, run at the circuit's size
        subsets: from `subset_table` with a column task; None, or no rows for a cell: completeness and minimality are
            left open
        min_effect: smallest difference in f that counts for minimality
        seed: of the bootstrap

    Returns:
        the circuits table, one row per task, corruption and run: task, corruption, run, k (heads of the circuit),
        n_heads (of the head block), n (pairs), n_units; sufficiency, sufficiency_low, sufficiency_high, sufficient;
        left, left_low, left_high (what is left without the circuit), necessary; incompleteness, complete; n_redundant,
        minimal (these four missing in rows "frozen", and where no subsets were run); sufficiency_random, left_random
        (missing without random heads), better_than_random (missing also where k = 0)

    Raises:
        VlmtraceError: a column is missing, or the curves were not run at k
    """
    check_columns(faithfulness, [*CELL, "run", "direction", "order", "k", "logit_diff"], "faithfulness")
    rows = []
    for (task, corruption), cell in heads.groupby(CELL, sort=False, observed=True):
        k = int((cell["is_important"] & (cell["mean_effect"] > 0)).sum())
        of_cell = faithfulness[(faithfulness["task"] == task) & (faithfulness["corruption"] == corruption)]
        at_k = of_cell[of_cell["k"] == k]
        if at_k.empty:
            raise VlmtraceError(f"The faithfulness table has no circuit of {k} heads for {task}/{corruption}: run it.")
        for run, ran in at_k.groupby("run", sort=False, observed=True):
            row: dict[str, Any] = {"task": task, "corruption": corruption, "run": run, "k": k, "n_heads": len(cell)}
            row |= _ends(ran, seed)
            row["sufficient"] = _word(row["sufficiency_low"], row["k"])
            row["necessary"] = _word(1 - row["left_high"], row["k"])
            if subsets is not None and len(subsets) and run == "computed":
                of = subsets[(subsets["task"] == task) & (subsets["corruption"] == corruption)]
                if len(of):
                    row |= _subset_verdicts(of, min_effect)
            rows.append(row)
    return (
        pd.DataFrame(rows)
        .reindex(columns=list(_CIRCUITS))
        .astype({column: kind for column, kind in _CIRCUITS.items() if kind})
    )


#: Columns of the circuits table, and types of those that may miss values.
_CIRCUITS = dict.fromkeys(["task", "corruption", "run", "k", "n_heads", "n", "n_units"], "")
_CIRCUITS |= dict.fromkeys(["sufficiency", "sufficiency_low", "sufficiency_high"], "float64") | {"sufficient": ""}
_CIRCUITS |= dict.fromkeys(["left", "left_low", "left_high"], "float64") | {"necessary": ""}
_CIRCUITS |= {"incompleteness": "float64", "complete": "object", "n_redundant": "Int64", "minimal": "object"}
_CIRCUITS |= {"sufficiency_random": "float64", "left_random": "float64", "better_than_random": "boolean"}


def _word(sure: float, k: int) -> str:
    """In words, a share that is reached for sure; a missing one is no evidence."""
    if k == 0 or not sure > LITTLE:
        return "no"
    return "yes" if sure >= SUFFICIENT else "partly"


def _ends(ran: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Sufficiency and what is left of one circuit, and the control; `ran` are the rows of its size."""
    row: dict[str, Any] = {}
    beats = []
    for name, direction, sign in (("sufficiency", "sufficiency", 1), ("left", "necessity", -1)):
        rows = ran[ran["direction"] == direction]
        by_order = rows.groupby(["sample_id", "order"])["logit_diff"].mean().unstack("order")
        pairs = rows.drop_duplicates("sample_id").set_index("sample_id").loc[by_order.index]
        units = pairs[UNIT].to_numpy() if UNIT in pairs else None
        none = pairs["logit_diff_none"].to_numpy()
        gap = stats.unit_means(pairs["logit_diff_all"].to_numpy() - none, units)[:, 0]
        gain = stats.unit_means(by_order.to_numpy() - none[:, None], units)
        gains = dict(zip(by_order.columns, gain.T, strict=True))
        (share,), (low,), (high,) = share_of_gap(gains["ranked"][:, None], gap, seed=seed)
        row |= {"n": len(pairs), "n_units": len(gap), name: share, f"{name}_low": low, f"{name}_high": high}
        if "random" in gains:
            row[f"{name}_random"] = float(share_of_gap(gains["random"][:, None], gap, seed=seed)[0][0])
            (least,), _ = stats.mean_interval(sign * (gains["ranked"] - gains["random"]), seed=seed)
            beats.append(least > 0)
    # A circuit without heads has nothing to compare.
    return row | ({"better_than_random": bool(all(beats))} if beats and ran["k"].iloc[0] else {})


def _subset_verdicts(subsets: pd.DataFrame, min_effect: float) -> dict[str, Any]:
    """Completeness and minimality from the runs of one circuit's subsets."""
    shares = {}
    for removed, rows in subsets.groupby("removed", sort=False):
        units = rows[UNIT].to_numpy() if UNIT in rows else None
        none, everything, inside, without = stats.unit_means(
            rows[["logit_diff_none", "logit_diff_all", "logit_diff_circuit", "logit_diff_model"]].to_numpy(), units
        ).mean(0)
        gap = everything - none
        names = frozenset(str(removed).split(", ")) if removed else frozenset()
        shares[names] = (np.array([inside, without]) - none) / gap if gap > 0 else np.full(2, np.nan)
    incompleteness = max(abs(inside - without) for inside, without in shares.values())
    circuit = frozenset().union(*shares)
    importance = {head: _removals(shares, head) for head in circuit}
    redundant = sum(not value >= min_effect for value in importance.values())
    return {
        "incompleteness": incompleteness,
        "complete": "yes" if incompleteness <= LITTLE else "no",
        "n_redundant": redundant,
        "minimal": "no" if redundant else "yes",
    }


def _removals(shares: dict[frozenset[str], Array], head: str) -> float:
    """The largest change of f that a head makes to the circuit, over subsets that were run with and without it."""
    changes = [
        abs(shares[one][0] - shares[one | {head}][0]) for one in shares if head not in one and one | {head} in shares
    ]
    return max(changes, default=0.0)
