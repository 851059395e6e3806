"""What a run's tables say of one module of a layer, such as an mlp: its mean effect at each kind of token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from vlmtrace.core import stats
from vlmtrace.core.arguments import Count, checked
from vlmtrace.core.schema import UNIT
from vlmtrace.methods.circuits.run_facts import PAIRS, read_rows, why_silent

#: Columns of `ModuleFacts.effects`.
EFFECTS = "task corruption token_role mean_effect ci_low ci_high rank n_layers n_units".split()

#: Of so many token roles in each task and corruption, those with the largest effects, the means are told.
MOST_ROLES = 2


class ModuleFacts(NamedTuple):
    """What a run says of one module of a layer.

    Attributes:
        refused: why it says nothing, as a sentence; "": it does
        effects: one row per task, corruption and token role: mean_effect over units of patching the module at single
            tokens of that role (of several in a pair the sum) with the ends of its 95 % interval, ci_low and ci_high,
            rank (1: the largest absolute mean effect) among the n_layers of the module at that role, and n_units
        pairs: the pairs where the absolute effect at one token is largest, the largest first: task, sample_id,
            corruption, patching_effect
    """

    refused: str
    effects: pd.DataFrame
    pairs: pd.DataFrame


@checked
def module_facts(
    run: Path | None,
    model: str,
    module: tuple[str, str, int],
    roles: Sequence[str] | None = None,
    n_pairs: Count = 5,
) -> ModuleFacts:
    """Look one module of a layer up in the tables of a run.

    Args:
        run: the run's folder; None: there is none
        model: name of the model that the module is of
        module: block, module and layer
        roles: of the tokens that are asked for; None: those where it does most
        n_pairs: how many pairs at most

    Returns:
        what is found; parts that the run has no table of are empty

    Raises:
        VlmtraceError: a table cannot be read
    """
    nothing = ModuleFacts("", pd.DataFrame(columns=EFFECTS), pd.DataFrame(columns=PAIRS))
    silent = why_silent(run, model)
    if run is None or silent:
        return nothing._replace(refused=silent)
    effects, pairs = [], []
    for path in sorted(run.glob("*/module_patching.parquet")):
        table = read_rows(path, dict(zip(("block", "module"), module[:2], strict=True)))
        if "direction" in table:
            table = table[table["direction"] == "denoising"]
        if roles is not None and "token_role" in table:
            table = table[table["token_role"].isin(roles)]
        if table.empty or not (table["layer"] == module[2]).any():
            continue
        effects.append(_means(table, module[2], None if roles is None else len(roles)).assign(task=path.parent.name))
        mine = table[table["layer"] == module[2]].dropna(subset=["patching_effect"])
        pairs.append(mine.assign(task=path.parent.name)[PAIRS])
    if not effects:
        return nothing._replace(
            refused=f"Run {run.name!r} has no table of this module at such tokens yet: run notebook 04 (make all)."
        )
    every = pd.concat(pairs, ignore_index=True)
    every = every.sort_values("patching_effect", key=np.abs, ascending=False, kind="stable")
    # One token and one corruption of a pair are enough: what is opened is the pair.
    strongest = every.drop_duplicates(["task", "sample_id"]).head(n_pairs).reset_index(drop=True)
    return ModuleFacts("", pd.concat(effects, ignore_index=True)[EFFECTS], strongest)


def _means(table: pd.DataFrame, layer: int, n_roles: int | None) -> pd.DataFrame:
    """Means at each role in one task, the strongest roles of each corruption."""
    unit = UNIT if UNIT in table else "sample_id"
    keys = ["corruption", "token_role", "layer"]
    sums = table.groupby([*keys, unit, *([] if unit == "sample_id" else ["sample_id"])], observed=True, sort=False)
    of_pairs = sums["patching_effect"].sum(min_count=1).dropna().reset_index()
    by_unit = of_pairs.groupby([*keys, unit], sort=False)["patching_effect"].mean().sort_index()
    means = by_unit.groupby(keys, sort=False).agg(["mean", "size"]).reset_index()
    means = means.rename(columns={"mean": "mean_effect", "size": "n_units"})
    size = means["mean_effect"].abs().groupby([means["corruption"], means["token_role"]], sort=False)
    means = means.assign(rank=size.rank(ascending=False, method="min").astype("Int64"), n_layers=size.transform("size"))
    found = means[means["layer"] == layer].sort_values("mean_effect", key=np.abs, ascending=False, kind="stable")
    found = found.groupby("corruption", sort=False).head(n_roles or MOST_ROLES)
    # An interval takes a while, so that only what is told gets one.
    values = [by_unit.loc[key].to_numpy() for key in found[keys].itertuples(index=False, name=None)]
    ends = [stats.mean_interval(one) for one in values]
    return found.assign(ci_low=[float(low[0]) for low, _ in ends], ci_high=[float(high[0]) for _, high in ends])
