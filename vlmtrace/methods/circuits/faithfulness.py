"""Do the heads that were found carry the answer together? Run the model on the best k heads alone, and without them.

Patching single heads says what each of them can restore. That k of them together carry the answer is another claim,
and it is tested here: on pairs that did not find the heads, and against as many heads drawn at random.

The faithfulness of a set of heads is the mean over pairs of each pair's patching effect, with the output of every head
fixed: only the set's clean (sufficiency), or only the set's corrupt (necessity).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vlmtrace.core import stats
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.schema import check_columns
from vlmtrace.core.types import Array
from vlmtrace.methods.evaluation.selection import USE
from vlmtrace.methods.patching.sweeps import patch_head_sets
from vlmtrace.models import VLM

#: A head of the model's head block: (module, layer, head).
HeadSite = tuple[str, int, int]


def faithfulness_table(
    model: VLM,
    pairs: pd.DataFrame,
    ranking: pd.DataFrame | Sequence[HeadSite],
    corruption: str = "image",
    sizes: Sequence[int] | None = None,
    n_random: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """Run the model on its best k heads, and without them, for growing k.

    For sufficiency, the k heads ranked first keep their clean output and all others get their corrupt one. For
    necessity, those k get their corrupt output and all others keep the clean one. The control takes as many heads of
    the same modules at random: the module at each rank is that of the ranking, the head is drawn from all heads of
    that module. So a ranking cannot win by naming the right module alone. Circuits and their faithfulness: Wang et al.
    2022 (https://arxiv.org/abs/2211.00593).

    Every head's output is fixed at what it was in the clean or the corrupt run, at all positions; only what lies
    between the heads is computed anew. So a late clean head brings along what earlier heads gave it in the clean run:
    the claim tested is that these heads pass the answer on, not that they could build it without the others. All heads
    clean give 1 under image corruption. Under text corruption they need not: the options' embeddings, which reach the
    answer through the residual stream, stay corrupt.

    Args:
        model: the model to patch
        pairs: a pairs table, not of those that gave the ranking; rows that `select_samples` marked "discover" are
            refused
        ranking: from `rank_heads`, or (module, layer, head) in order
        corruption: "image" or "text"
        sizes: values of k; None: `circuit_sizes`, from none to all heads of the ranking
        n_random: how many random orders
        seed: of the random orders

    Returns:
        the faithfulness table, one row per pair, direction, order, draw and k: sample_id, corruption, direction
        ("sufficiency" or "necessity"), order ("ranked" or "random"), draw (which random order; 0 for ranked), k (heads
        in the circuit), patching_effect (0: the corrupt answer, 1: the clean one)

    Raises:
        VlmtraceError: a pair helped to find the heads, a head is unknown or ranked twice, or a size is out of range
    """
    if USE in pairs and (found := pairs[USE] == "discover").any():
        raise VlmtraceError(
            f"{found.sum()} of the {len(pairs)} pairs helped to find the heads and cannot test them: "
            f"pass only those with {USE} == 'verify'."
        )
    ranked = _ranked_heads(model, ranking)
    sizes = circuit_sizes(len(ranked)) if sizes is None else sorted(set(sizes))
    if not sizes or sizes[0] < 0 or sizes[-1] > len(ranked):
        raise VlmtraceError(f"Sizes of a circuit must lie between 0 and {len(ranked)}, the heads ranked, not {sizes}.")
    generator = np.random.default_rng(seed)
    orders = [("ranked", 0, ranked)]
    orders += [("random", draw, _random_order(model, ranked, generator)) for draw in range(n_random)]
    # Different orders start from the same empty set and often end in the same full one: each is run once.
    sets: dict[frozenset[HeadSite], int] = {}
    plan = pd.DataFrame(
        [
            (order, draw, k, sets.setdefault(frozenset(heads[:k]), len(sets)))
            for order, draw, heads in orders
            for k in sizes
        ],
        columns=["order", "draw", "k", "set"],
    )
    tables = []
    for direction, reverse in (("sufficiency", False), ("necessity", True)):
        effects = patch_head_sets(model, pairs, [sorted(heads) for heads in sets], corruption, reverse=reverse)
        tables.append(effects.merge(plan, on="set").assign(corruption=corruption, direction=direction))
    table = pd.concat(tables, ignore_index=True)
    return table[["sample_id", "corruption", "direction", "order", "draw", "k", "patching_effect"]]


def circuit_sizes(n_heads: int) -> list[int]:
    """Sizes of a circuit from none to all heads, every one at first and then in steps of a third to a half.

    Args:
        n_heads: how many heads are ranked

    Returns:
        the sizes, ascending

    Example:
        >>> from vlmtrace.methods.circuits import circuit_sizes
        >>> circuit_sizes(64)
        [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    """
    powers = [2**i for i in range(n_heads.bit_length())]
    between = [power + power // 2 for power in powers[1:]]
    return sorted({0, *(size for size in powers + between if size < n_heads), n_heads})


def faithfulness_means(table: pd.DataFrame, level: float = 0.95, n_boot: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Average the effects of circuits of each size, with an interval over pairs.

    Args:
        table: from `faithfulness_table`; a column task may have been added
        level: of the interval, 0 to 1
        n_boot: bootstrap resamples of pairs
        seed: of the bootstrap

    Returns:
        task (if given), corruption, direction, order, k, n (pairs), mean_effect (over pairs, and for random orders over
        draws), ci_low, ci_high; one row per curve and size

    Raises:
        VlmtraceError: a column is missing, or no pair has a clean-corrupt contrast
    """
    rows = []
    for curves in _curves(table):
        for order, effects in curves.effects.items():
            low, high = stats.bootstrap_mean(effects.mean(axis=0), level, n_boot, seed)
            columns = {"k": curves.sizes, "n": curves.n, "mean_effect": effects.mean(axis=(0, 1))}
            rows.append({**curves.group, "order": order, **columns, "ci_low": low, "ci_high": high})
    return pd.concat([pd.DataFrame(row) for row in rows], ignore_index=True)


def faithfulness_summary(
    table: pd.DataFrame,
    sizes: Sequence[int] = (),
    level: float = 0.95,
    n_boot: int = 10_000,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure the area under each curve, and test whether ranked heads beat random ones.

    The area is over k as a share of the largest k: a mean effect over circuit sizes. The advantage is, pair by pair,
    how much better the area of the ranked heads is than that of random ones (mean over their orders), positive in both
    directions: a sufficient circuit rises sooner, a necessary one falls sooner. Its p-value comes from a two-sided
    sign-flip test over pairs. The random orders are a sample themselves: `n_beaten` of `n_random` have a worse mean
    area than the ranking.

    Args:
        table: from `faithfulness_table`; a column task may have been added
        sizes: values of k whose mean effect is wanted, as columns `effect_at_<k>`
        level: of the intervals, 0 to 1
        n_boot: bootstrap resamples of pairs
        n_permutations: sign flips of the test
        seed: of bootstrap and test

    Returns:
        one row per curve: task (if given), corruption, direction, order; n (pairs), n_missing (pairs set aside, without
        contrast); auc, ci_low, ci_high; effect_at_<k>; and, missing in the rows "random": advantage, advantage_low,
        advantage_high, p_value, n_beaten, n_random

    Raises:
        VlmtraceError: a column is missing, a size was not run, or no pair has a contrast
    """
    rows = []
    for curves in _curves(table):
        for size in sizes:
            one_of(size, curves.sizes, "size of a circuit in the faithfulness table")  # type: ignore[arg-type]
        areas = {order: stats.area_under_curve(curve, curves.sizes) for order, curve in curves.effects.items()}
        for order, effects in curves.effects.items():
            area = areas[order].mean(axis=0)
            (low,), (high,) = stats.bootstrap_mean(area, level, n_boot, seed)
            row = {**curves.group, "order": order, "n": curves.n, "n_missing": curves.n_missing}
            row |= {"auc": area.mean(), "ci_low": low, "ci_high": high}
            row |= {f"effect_at_{size}": effects[..., curves.sizes.index(size)].mean() for size in sizes}
            if order == "ranked" and "random" in areas:
                better = 1 if curves.group["direction"] == "sufficiency" else -1
                gain = better * (areas["ranked"] - areas["random"])
                row |= _advantage(gain, level, n_boot, n_permutations, seed)
            rows.append(row)
    table = pd.DataFrame(rows)
    return table.reindex(columns=list(dict.fromkeys([*table, *_ADVANTAGE]))).astype(_ADVANTAGE)


#: Columns of the summary that only ranked heads have, and their types.
_ADVANTAGE = {
    "advantage": "float64",
    "advantage_low": "float64",
    "advantage_high": "float64",
    "p_value": "float64",
    "n_beaten": "Int64",
    "n_random": "Int64",
}


def _advantage(gain: Array, level: float, n_boot: int, n_permutations: int, seed: int) -> dict[str, float | int]:
    """What `_ADVANTAGE` names, from gains in area (random order, pair): positive where ranked is better."""
    by_pair = gain.mean(axis=0)
    (low,), (high,) = stats.bootstrap_mean(by_pair, level, n_boot, seed)
    (p_value,) = stats.sign_flip_test(by_pair, n_permutations, seed)
    n_beaten = int((gain.mean(axis=1) > 0).sum())
    return dict(zip(_ADVANTAGE, (by_pair.mean(), low, high, p_value, n_beaten, len(gain)), strict=True))


class _Curves(NamedTuple):
    """Curves of one task, corruption and direction: `effects` are (draw, pair, size), by order."""

    group: dict[str, str]
    sizes: list[int]
    effects: dict[str, Array]
    n: int
    n_missing: int


def _curves(table: pd.DataFrame) -> Iterator[_Curves]:
    needed = ["corruption", "direction", "order", "draw", "sample_id", "k", "patching_effect"]
    check_columns(table, needed, "faithfulness")
    keys = [key for key in ("task", "corruption", "direction") if key in table]
    for group, rows in table.groupby(keys, sort=False, observed=True):
        wide = rows.pivot(index=["order", "draw", "k"], columns="sample_id", values="patching_effect")
        usable = wide.dropna(axis="columns")
        n, n_missing = usable.shape[1], wide.shape[1] - usable.shape[1]
        if not n:
            name = "/".join(map(str, group))
            raise VlmtraceError(f"No pair of {name} has a clean-corrupt contrast: select other pairs.")
        sizes = sorted(rows["k"].unique().tolist())
        effects = {
            order: usable.loc[order].to_numpy().reshape(-1, len(sizes), n).swapaxes(1, 2)
            for order in dict.fromkeys(rows["order"])
        }
        yield _Curves(dict(zip(keys, group, strict=True)), sizes, effects, n, n_missing)


def _ranked_heads(model: VLM, ranking: pd.DataFrame | Sequence[HeadSite]) -> list[HeadSite]:
    """The ranking as (module, layer, head), each of them checked to exist and to stand there once."""
    if isinstance(ranking, pd.DataFrame):
        check_columns(ranking, ["module", "layer", "head"], "ranking")
        ranking = list(ranking[["module", "layer", "head"]].itertuples(index=False, name=None))
    block = model.head_block
    for module, layer, head in ranking:
        one_of(module, block.head_modules, f"module of {block.name}")
        if not (0 <= layer < block.n_layers and 0 <= head < block.n_heads):
            raise VlmtraceError(
                f"The ranking names head {head} of layer {layer}, but {block.name} of {model.name} has "
                f"{block.n_layers} layers of {block.n_heads} heads: rank the heads of this model."
            )
    heads = [(module, int(layer), int(head)) for module, layer, head in ranking]
    if not heads or len(set(heads)) < len(heads):
        raise VlmtraceError("The ranking must name at least one head, and each head once: use rank_heads.")
    return heads


def _random_order(model: VLM, ranked: Sequence[HeadSite], generator: np.random.Generator) -> list[HeadSite]:
    """Heads drawn without replacement, each from all heads of the module that stands at its rank."""
    block = model.head_block
    every = [(layer, head) for layer in range(block.n_layers) for head in range(block.n_heads)]
    modules = dict.fromkeys(module for module, _, _ in ranked)
    shuffled = {module: iter(generator.permutation(every).tolist()) for module in modules}
    return [(module, *next(shuffled[module])) for module, _, _ in ranked]


def circuit_claims(heads: pd.DataFrame, faithfulness: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Test whether the heads found important and helpful are, together, what the model uses.

    Args:
        heads: from `head_table`
        faithfulness: from `faithfulness_table` with a column task, on pairs that did not find the heads
        seed: of the bootstrap

    Returns:
        one row per task and corruption: task, corruption, k (heads with is_important and mean_effect > 0), n (pairs);
        clean, clean_low, clean_high: mean patching effect with only these heads clean, and its 95 % interval over
        pairs; clean_random: with as many random ones; corrupt, corrupt_low, corrupt_high, corrupt_random: with only
        these corrupt; holds: with them clean the effect is larger than with random heads, with them corrupt smaller
        (95 % intervals of both differences, pair by pair, exclude 0)

    Raises:
        VlmtraceError: the curves were not run at k
    """
    rows = []
    for (task, corruption), cell in heads.groupby(["task", "corruption"], sort=False):
        k = int((cell["is_important"] & (cell["mean_effect"] > 0)).sum())
        at_k = faithfulness.query("task == @task and corruption == @corruption and k == @k")
        if at_k.empty:
            raise VlmtraceError(f"The faithfulness table has no circuit of {k} heads for {task}/{corruption}: run it.")
        effects = (
            at_k.groupby(["sample_id", "direction", "order"])["patching_effect"].mean().unstack(["direction", "order"])
        )
        effects = effects.dropna()
        row: dict[str, Any] = {"task": task, "corruption": corruption, "k": k, "n": len(effects)}
        beats = []
        for name, direction, sign in (("clean", "sufficiency", 1), ("corrupt", "necessity", -1)):
            ranked, random = (effects[direction, order].to_numpy()[:, None] for order in ("ranked", "random"))
            (low,), (high,) = stats.bootstrap_mean(ranked, seed=seed)
            row |= {name: ranked.mean(), f"{name}_low": low, f"{name}_high": high, f"{name}_random": random.mean()}
            (least,), _ = stats.bootstrap_mean(sign * (ranked - random), seed=seed)
            beats.append(least > 0)
        rows.append(row | {"holds": bool(k > 0 and all(beats))})
    return pd.DataFrame(rows)
