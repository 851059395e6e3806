"""Causal traces of many questions: average indirect effects, and in which half of the layers they lie."""

from __future__ import annotations

import pandas as pd

from vlmtrace.core.schema import check_columns
from vlmtrace.core.stats import bootstrap_mean


def average_effects(effects: pd.DataFrame, value: str = "indirect_effect", seed: int = 0) -> pd.DataFrame:
    """Average indirect effect by step, site and token role (Meng et al. 2022, AIE).

    Positions that share a role are averaged within a question, then questions.

    Args:
        effects: from `causal_trace`
        value: "indirect_effect" or "normalized_effect"; questions where it is missing are left out
    Returns:
        columns step, block, module, layer, token_role, mean, ci_low, ci_high (95 % bootstrap over questions), n
    """
    cell = ["step", "block", "module", "layer", "token_role"]
    check_columns(effects, [*cell, "sample_id", value], "causal_tracing")
    by_question = effects.dropna(subset=value).groupby([*cell, "sample_id"], sort=False)[value].mean()
    rows = []
    for key, values in by_question.groupby(level=cell, sort=False):
        (low,), (high,) = bootstrap_mean(values.to_numpy(), n_boot=2000, seed=seed)
        rows.append(
            {
                **dict(zip(cell, key, strict=True)),
                "mean": values.mean(),
                "ci_low": low,
                "ci_high": high,
                "n": len(values),
            }
        )
    return pd.DataFrame(rows, columns=[*cell, "mean", "ci_low", "ci_high", "n"])


def later_layers(effects: pd.DataFrame, value: str = "indirect_effect", seed: int = 0) -> pd.DataFrame:
    """Is causal relevance in the later layers? The upper half's mean effect minus the lower half's, for each role.

    Args:
        effects: from `causal_trace`
    Returns:
        columns step, block, module, token_role, lower, upper (mean effects), difference, ci_low, ci_high (95 %
        bootstrap over questions), n; the middle layer of an odd number belongs to neither half
    """
    cell = ["step", "block", "module", "token_role"]
    check_columns(effects, [*cell, "sample_id", "layer", value], "causal_tracing")
    rows = []
    for key, part in effects.dropna(subset=value).groupby(cell, sort=False):
        n_layers = part["layer"].max() + 1
        lower, upper = (
            part[chosen].groupby("sample_id")[value].mean()
            for chosen in (part["layer"] < n_layers // 2, part["layer"] >= n_layers - n_layers // 2)
        )
        difference = (upper - lower).to_numpy()
        (low,), (high,) = bootstrap_mean(difference, n_boot=2000, seed=seed)
        rows.append(
            {
                **dict(zip(cell, key, strict=True)),
                "lower": lower.mean(),
                "upper": upper.mean(),
                "difference": difference.mean(),
                "ci_low": low,
                "ci_high": high,
                "n": len(difference),
            }
        )
    return pd.DataFrame(rows)
