"""Causal traces of many questions: average indirect effects, and in which half of the layers they lie."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from vlmtrace.core.arguments import Probability, Seed, checked
from vlmtrace.core.schema import UNIT, check_columns
from vlmtrace.core.stats import mean_interval, mean_test


@checked
def average_effects(effects: pd.DataFrame, value: str = "indirect_effect", seed: Seed = 0) -> pd.DataFrame:
    """Average indirect effect by step, site and token role (AIE of Meng et al. 2022, https://arxiv.org/abs/2202.05262).

    Positions that share a role are averaged within a question first, then over questions; questions of one unit (about
    one image) count once.

    Args:
        effects: from `causal_trace`
        value: "indirect_effect" or "normalized_effect"; questions where it is missing are left out
        seed: of the bootstrap
    Returns:
        one row per step, site and role: step, block, module, layer, token_role, mean, ci_low, ci_high (95 %,
        over units), n (units; without the column unit, questions)

    Raises:
        VlmtraceError: a column is missing

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> questions = vt.load_questions("rendered_open", n=2)
        >>> effects = vt.causal_trace(model, questions, draws=2, modules=["residual"], blocks=["text_decoder"])
        >>> averages = vt.average_effects(effects)
        >>> averages.loc[averages["layer"] == 3, ["token_role", "mean", "n"]].round(2).values.tolist()
        [['last', 0.7, 2]]
    """
    cell = ["step", "block", "module", "layer", "token_role"]
    check_columns(effects, [*cell, "sample_id", value], "causal_tracing")
    by_unit = unit_effects(effects.dropna(subset=value), cell, value)
    rows = []
    for key, values in by_unit.groupby(level=cell, sort=False):
        (low,), (high,) = mean_interval(values.to_numpy(), n_boot=2000, seed=seed)
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


@checked
def later_layers(
    effects: pd.DataFrame, value: str = "indirect_effect", seed: Seed = 0, alpha: Probability = 0.05
) -> pd.DataFrame:
    """Mean effect of the upper half of the layers minus that of the lower half, for each token role.

    It tests the finding of Palit et al. 2023 (https://arxiv.org/abs/2308.14179) that the later layers matter most.
    Each difference is tested over units, the questions about one image (`core.stats.mean_test`), and corrected for all
    rows of the table (Benjamini and Hochberg 1995, https://doi.org/10.1111/j.2517-6161.1995.tb02031.x).

    Args:
        effects: from `causal_trace`
        value: "indirect_effect" or "normalized_effect"; questions where it is missing are left out
        seed: of the bootstrap
        alpha: the false discovery rate of the verdicts, 0 to 1
    Returns:
        one row per step, block, module and role: step, block, module, token_role, lower, upper (mean effects),
        difference, ci_low, ci_high (95 %, over units), n (units), p_value, q_value (corrected), verdict
        ("later" or "earlier" layers matter more where the q-value is below `alpha`, else "no difference seen"); the
        middle layer of an odd number belongs to neither half
    Raises:
        VlmtraceError: a column is missing

    Example:
        >>> import pandas as pd
        >>> import vlmtrace as vt
        >>> effects = pd.DataFrame({
        ...     "sample_id": ["a"] * 4 + ["b"] * 4, "step": 0, "block": "text_decoder", "module": "mlp",
        ...     "layer": [0, 1, 2, 3] * 2, "token_role": "last", "indirect_effect": [0, 0.1, 0.3, 0.5] * 2,
        ... })
        >>> vt.later_layers(effects)[["lower", "upper", "difference"]].round(2).values.tolist()
        [[0.05, 0.4, 0.35]]
    """
    cell = ["step", "block", "module", "token_role"]
    check_columns(effects, [*cell, "sample_id", "layer", value], "causal_tracing")
    rows = []
    for key, part in effects.dropna(subset=value).groupby(cell, sort=False):
        n_layers = part["layer"].max() + 1
        lower, upper = (
            unit_effects(part[chosen], [], value)
            for chosen in (part["layer"] < n_layers // 2, part["layer"] >= n_layers - n_layers // 2)
        )
        difference = (upper - lower).to_numpy()
        (low,), (high,) = mean_interval(difference, n_boot=2000, seed=seed)
        rows.append(
            {
                **dict(zip(cell, key, strict=True)),
                "lower": lower.mean(),
                "upper": upper.mean(),
                "difference": difference.mean(),
                "ci_low": low,
                "ci_high": high,
                "n": len(difference),
                "p_value": float(mean_test(difference, seed=seed)[0]),
            }
        )
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    table["q_value"] = false_discovery_control(table["p_value"])
    sure = table["q_value"] < alpha
    found = [sure & (table["difference"] > 0), sure & (table["difference"] < 0)]
    return table.assign(verdict=np.select(found, ["later", "earlier"], "no difference seen"))


def unit_effects(effects: pd.DataFrame, keys: list[str], value: str) -> pd.Series:
    """Mean effect by `keys` and unit, positions averaged within a question first, then questions within a unit.

    Args:
        effects: from `causal_trace`, without rows that miss the value
        keys: columns within which is averaged
        value: the column that is averaged

    Returns:
        the means, indexed by `keys` and the unit, or the question where the table has no units
    """
    unit = UNIT if UNIT in effects else "sample_id"
    question = list(dict.fromkeys([unit, "sample_id"]))
    by_question = effects.groupby([*keys, *question], sort=False)[value].mean()
    return by_question.groupby(level=[*keys, unit], sort=False).mean()
