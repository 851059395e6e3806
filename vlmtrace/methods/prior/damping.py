"""Damping: what becomes of answers when the output of some heads is multiplied by a factor below 1?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from torch import Tensor

from vlmtrace.core import stats
from vlmtrace.core.arguments import Count, Natural, NonEmpty, Probability, Seed, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import HEAD, UNIT, check_columns, check_table, validate_pairs
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.units import with_units
from vlmtrace.methods.patching import attention_heads
from vlmtrace.methods.prior.asking import Asked, alike, ask
from vlmtrace.methods.prior.stacked import refuse_repeated
from vlmtrace.models import VLM, Site
from vlmtrace.models.hooks import HookPoint, attach_hooks

#: (block, module, layer, head)
Head = tuple[str, str, int, int]


@checked
def damp_heads(
    model: VLM,
    pairs: pd.DataFrame,
    heads: pd.DataFrame,
    factors: NonEmpty[float] = (0.0,),
    n_random: Natural = 0,
    seed: Seed = 0,
    batch_size: Count = 32,
) -> pd.DataFrame:
    """Multiply the output of some heads by a factor, at all positions at once, and ask every clean question again.

    Args:
        model: the model that answers
        pairs: a pairs table; only clean images and clean prompts are run
        heads: a table with the columns block, module, layer, head, such as rows of `head_sides`: all of its heads are
            damped together
        factors: by which their output is multiplied: 0 takes it away, 1 changes nothing, above 1 makes it stronger
        n_random: how many random sets of as many other heads are damped as a control, of the same blocks and modules
        seed: of their drawing
        batch_size: at most so many pairs in one forward pass

    Returns:
        the damped table, one row per pair, set and factor: sample_id, unit, task, category, heads ("chosen" or
        "random"), draw, factor, and

        - log_odds, log_odds_before: LD of the correct and the incorrect answer, damped and as it is, in logits
        - answer, answer_before: what the model answers; is_correct, was_correct: whether that is the correct option

    Raises:
        VlmtraceError: a head does not exist, there are too few others for a random set, or the table breaks the
            contract

    Example:
        >>> import pandas as pd
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=4)
        >>> heads = pd.DataFrame({"block": "text_encoder", "module": "cross_attention", "layer": 3, "head": [2, 6]})
        >>> damped = vt.damp_heads(model, pairs, heads, factors=[0.0, 1.0])
        >>> same = damped[damped["factor"] == 1]
        >>> bool((same["log_odds"] - same["log_odds_before"]).abs().max() < 1e-4)
        True
    """
    pairs = with_units(validate_pairs(pairs)).reset_index(drop=True)
    chosen = _checked_heads(model, heads)
    sets = [("chosen", 0, chosen)]
    sets += [("random", draw, drawn) for draw, drawn in enumerate(_random_sets(model, chosen, n_random, seed))]
    tables = []
    with counter(len(pairs), f"damping heads in {len(pairs)} pairs") as advance:
        for batch in alike(model, pairs, batch_size):
            inputs = run_inputs(model, batch, "clean")
            before = ask(model, batch, inputs)
            for name, draw, members in sets:
                for factor in factors:
                    with attach_hooks(_scaled(model, members, factor)):
                        after = ask(model, batch, inputs, before.tokens)
                    tables.append(_rows(batch, {"heads": name, "draw": draw, "factor": float(factor)}, before, after))
            advance(len(batch))
    order = ["heads", "draw", "factor"]
    return pd.concat(tables).rename_axis("row").sort_values([*order, "row"], kind="stable").reset_index(drop=True)


def _rows(batch: pd.DataFrame, what: dict, before: Asked, after: Asked) -> pd.DataFrame:
    return pd.DataFrame(
        {
            **{name: batch[name] for name in ("sample_id", UNIT, "task", "category")},
            **what,
            "log_odds": after.log_odds,
            "log_odds_before": before.log_odds,
            "answer": after.answers,
            "answer_before": before.answers,
            "is_correct": after.is_correct,
            "was_correct": before.is_correct,
        },
        index=batch.index,
    )


def _checked_heads(model: VLM, heads: pd.DataFrame) -> list[Head]:
    check_columns(heads, HEAD, "heads")
    known = _all_heads(model)
    found = [(str(b), str(m), int(layer), int(h)) for b, m, layer, h in heads[HEAD].itertuples(index=False, name=None)]
    if not found:
        raise VlmtraceError("There is no head to damp: pass a table with at least one row.")
    for head in found:
        if head not in known:
            name = f"{head[1]} {head[2]}.{head[3]} in {head[0]}"
            raise VlmtraceError(f"{model.name} has no head {name}: see model.blocks.")
    return list(dict.fromkeys(found))


def _all_heads(model: VLM) -> list[Head]:
    return [(one.block, one.module, one.layer, one.heads[0]) for one in attention_heads(model) if one.heads]


def _random_sets(model: VLM, chosen: Sequence[Head], n: int, seed: int) -> list[list[Head]]:
    """Sets of other heads, as many of each block and module as were chosen."""
    generator = np.random.default_rng(seed)
    kinds = dict.fromkeys(head[:2] for head in chosen)
    sets = []
    for _ in range(n):
        drawn: list[Head] = []
        for kind in kinds:
            wanted = sum(head[:2] == kind for head in chosen)
            others = [head for head in _all_heads(model) if head[:2] == kind and head not in chosen]
            if len(others) < wanted:
                raise VlmtraceError(
                    f"{model.name} has {len(others)} other heads of {kind[0]} {kind[1]}, too few for a random set of "
                    f"{wanted}: choose fewer heads, or n_random=0."
                )
            drawn += [others[i] for i in generator.choice(len(others), wanted, replace=False)]
        sets.append(drawn)
    return sets


def _scaled(
    model: VLM, heads: Sequence[Head], factor: float
) -> list[tuple[HookPoint, Callable[[Tensor], Tensor | None]]]:
    """Hooks that multiply the heads' outputs, where they lie side by side before the output projection."""
    by_site: dict[Site, list[int]] = {}
    for block, module, layer, head in heads:
        by_site.setdefault(Site(block, module, layer), []).append(head)

    def scale(n_heads: int, mine: list[int]) -> Callable[[Tensor], Tensor]:
        def hook(value: Tensor) -> Tensor:
            parts = value.unflatten(-1, (n_heads, -1)).clone()  # (…, H, width of a head)
            parts[..., mine, :] *= factor
            return parts.flatten(-2)

        return hook

    return [
        (model.hook_point(site), scale(model.blocks[site.block].heads_at(site.layer), mine))
        for site, mine in by_site.items()
    ]


@checked
def damping_table(
    damped: pd.DataFrame, by: Sequence[str] = ("category",), level: Probability = 0.95, seed: Seed = 0
) -> pd.DataFrame:
    """Count what damping repairs and what it spoils.

    Args:
        damped: from `damp_heads`
        by: columns; each combination of their values is counted by itself
        level: of the intervals over units, 0 to 1
        seed: of the bootstrap

    Returns:
        one row per group, set of heads (random ones together) and factor: the columns of `by`, heads, factor; n
        (pairs), n_units, better and worse (units whose share of right answers rose or fell); before and after (share of
        right answers, 0 to 1); repaired (share of pairs that were wrong and are right now), spoiled (the other way
        round); change (after − before, mean over units), ci_low, ci_high; p_value of the exact sign test of better
        against worse (McNemar's test, where each pair is a unit: https://doi.org/10.1007/BF02295996); log_odds_change
        (mean over units, in logits), log_odds_low, log_odds_high.
        Random draws are averaged within each pair; their p-value is missing, since draws are not pairs

    Raises:
        VlmtraceError: a column is missing, there is no row, or a pair stands twice in a group

    Example:
        >>> import pandas as pd
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=4)
        >>> heads = pd.DataFrame({"block": "text_decoder", "module": "cross_attention", "layer": 3, "head": range(8)})
        >>> table = vt.damping_table(vt.damp_heads(model, pairs, heads, factors=[1.0]), by=["task"])
        >>> table[["n", "repaired", "spoiled"]].values.tolist()
        [[4.0, 0.0, 0.0]]
    """
    needed = ("sample_id", UNIT, *by, "heads", "draw", "factor", "log_odds", "log_odds_before", "is_correct")
    damped = check_table(damped, (*needed, "was_correct"), "damped")
    if damped.empty:
        raise VlmtraceError("The damped table has no row: make it with damp_heads.")
    refuse_repeated(damped, [*by, "heads", "draw", "factor"])
    rows = []
    for group, mine in damped.groupby([*by, "heads", "factor"], sort=False, observed=True):
        now, then = mine["is_correct"].astype(float), mine["was_correct"].astype(float)
        values = pd.DataFrame(
            {
                "before": then,
                "after": now,
                "repaired": (now > then).astype(float),
                "spoiled": (now < then).astype(float),
                "change": now - then,
                "log_odds_change": mine["log_odds"] - mine["log_odds_before"],
            }
        ).assign(sample_id=mine["sample_id"], unit=mine[UNIT])
        pairs = values.groupby(["sample_id", "unit"], sort=False).mean().reset_index()
        of_units = stats.unit_means(pairs[["change", "log_odds_change"]].to_numpy(), pairs["unit"])
        low, high = stats.mean_interval(of_units, level, seed=seed)
        change, log_odds = of_units.mean(0)
        low[0], high[0] = max(low[0], -1), min(high[0], 1)  # beyond lies no change of a share
        shares = pairs[["before", "after", "repaired", "spoiled"]].mean().tolist()
        better, worse = (int((sign * of_units[:, 0] > 0).sum()) for sign in (1, -1))
        p_value = _sign_test(better, worse) if mine["heads"].iloc[0] == "chosen" else np.nan
        counts = (len(pairs), len(of_units), better, worse)
        rows.append((*group, *counts, *shares, change, low[0], high[0], p_value, log_odds, low[1], high[1]))
    names = ("n", "n_units", "better", "worse", "before", "after", "repaired", "spoiled", "change", "ci_low", "ci_high")
    more = ("p_value", "log_odds_change", "log_odds_low", "log_odds_high")
    return pd.DataFrame(rows, columns=[*by, "heads", "factor", *names, *more])


def _sign_test(better: int, worse: int) -> float:
    """Two-sided p-value of the exact sign test; 1 where nothing changes."""
    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
