"""Steering: what becomes of answers when a mean difference of activations is added?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vlmtrace.core import stats
from vlmtrace.core.arguments import Count, Natural, NonEmpty, Probability, Seed, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import UNIT, check_table, validate_pairs
from vlmtrace.core.shares import share_interval
from vlmtrace.inputs.corruption import CORRUPTIONS, run_inputs
from vlmtrace.inputs.pair_rows import images_alone
from vlmtrace.inputs.units import with_units
from vlmtrace.methods.prior.asking import Asked, alike, ask
from vlmtrace.methods.prior.early import said_incorrect
from vlmtrace.methods.prior.stacked import refuse_repeated
from vlmtrace.models import VLM, Site
from vlmtrace.models.hooks import HookPoint, attach_hooks

#: Columns of a steered table whose combinations are runs of one pair.
HOW = ("block", "layer", "direction", "draw", "factor")


@checked
def steer(
    model: VLM,
    pairs: pd.DataFrame,
    learn_from: pd.DataFrame,
    corruption: str = "text",
    layers: NonEmpty[Natural] | None = None,
    factors: NonEmpty[float] = (1.0,),
    n_random: Natural = 0,
    block: str | None = None,
    seed: Seed = 0,
    batch_size: Count = 32,
) -> pd.DataFrame:
    """Add a mean difference of activations to the residual stream, and ask every clean question again.

    The direction of a layer is the mean, over the pairs that are learned from, of the stream in the clean run less that
    in the corrupt run, where the answer is read: at the last position of the prompt in the block that answers, and over
    all positions of a block that another one reads. Behind this layer it is added there, multiplied by a factor: above
    0 towards what makes clean runs clean, below 0 away from it. Golovanevsky et
    al. 2025 (https://aclanthology.org/2025.emnlp-main.1262/) steer so between what is usual and what is shown.

    Args:
        model: the model that answers
        pairs: a pairs table; only clean images and clean prompts are run
        learn_from: a pairs table of other units: an answer that a direction was learned from says nothing about it;
            under "text", of its pairs those that have a corrupt prompt
        corruption: "text" or "image": which run of `learn_from` is compared with the clean one
        layers: behind which of the block's layers is added, one at a time; None: each
        factors: by which the direction is multiplied: 0 changes nothing, 1 adds it as it is, -1 takes it away
        n_random: how many random directions of the same length are added as a control
        block: whose layers these are; None: the block that answers
        seed: of the random directions
        batch_size: at most so many pairs in one forward pass

    Returns:
        the steered table, one row per pair and run: sample_id, unit, task, category, block, layer, direction
        ("difference" or "random"), draw, factor, and

        - log_odds, log_odds_before: LD of the correct and the incorrect answer, steered and as it is, in logits
        - answer, answer_before: what the model answers; is_correct, was_correct, is_incorrect, was_incorrect: whether
          that is the correct, or the incorrect option

    Raises:
        VlmtraceError: both tables have a unit in common, nothing is left to learn from, a block, layer or corruption
            does not exist, or a table breaks the contract

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=8)
        >>> steered = vt.steer(model, pairs.tail(4), pairs.head(4), layers=[2], factors=[0.0, -1.0])
        >>> same = steered[steered["factor"] == 0]
        >>> bool((same["log_odds"] - same["log_odds_before"]).abs().max() < 1e-4)
        True
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    block = model.answer_block if block is None else one_of(block, model.blocks, f"block of {model.name}")
    pairs, learn_from = (with_units(validate_pairs(table)).reset_index(drop=True) for table in (pairs, learn_from))
    shared = sorted(set(pairs[UNIT]) & set(learn_from[UNIT]))
    if shared:
        raise VlmtraceError(
            f"The unit {shared[0]!r} is learned from and asked about: steer pairs of other units than those of "
            "learn_from."
        )
    wanted = dict.fromkeys(range(model.blocks[block].n_layers) if layers is None else layers)
    sites = [model.check_site(Site(block, "residual", layer)) for layer in wanted]
    directions = _directions(model, learn_from, corruption, sites, batch_size)
    generator = torch.Generator().manual_seed(seed)
    added = []
    for site in sites:
        added.append((site, "difference", 0, directions[site]))
        added += [(site, "random", draw, _random_like(directions[site], generator)) for draw in range(n_random)]
    tables = []
    with counter(len(pairs), f"steering {len(pairs)} pairs behind {len(sites)} layers") as advance:
        for batch in alike(model, pairs, batch_size):
            inputs = run_inputs(model, batch, "clean")
            before = ask(model, batch, inputs)
            first = _first_read(model, block, model.trace(inputs, sites[:1])[sites[0]].shape[1])
            for site, name, draw, direction in added:
                for factor in factors:
                    with attach_hooks([_adding(model, site, factor * direction, first)]):
                        after = ask(model, batch, inputs, before.tokens)
                    how = dict(zip(HOW, (site.block, site.layer, name, draw, float(factor)), strict=True))
                    tables.append(_rows(batch, how, before, after))
            advance(len(batch))
    order = ["layer", "direction", "draw", "factor", "row"]
    return pd.concat(tables).rename_axis("row").sort_values(order, kind="stable").reset_index(drop=True)


def _directions(
    model: VLM, pairs: pd.DataFrame, corruption: str, sites: Sequence[Site], batch_size: int
) -> dict[Site, Tensor]:
    """By site, (width,): the mean over units of the clean run's stream less the corrupt one's, where it is read."""
    if corruption == "text":
        pairs = pairs[~images_alone(pairs)].reset_index(drop=True)
    if pairs.empty:
        raise VlmtraceError(
            'No pair of learn_from has a corrupt prompt: learn from others, or from corruption="image".'
        )
    found: dict[Site, list[Tensor]] = {site: [] for site in sites}
    units: list[str] = []
    for batch in alike(model, pairs, batch_size):
        clean, corrupt = (model.trace(run_inputs(model, batch, run), sites) for run in ("clean", corruption))
        for site in sites:
            read = [run[site][:, _first_read(model, site.block, run[site].shape[1]) :] for run in (clean, corrupt)]
            found[site].append(read[0].float().mean(1) - read[1].float().mean(1))  # (pair, width)
        units += batch[UNIT].tolist()
    means = {
        site: torch.as_tensor(stats.unit_means(torch.cat(rows).cpu().numpy(), units).mean(0))
        for site, rows in found.items()
    }
    for site, mean in means.items():
        if not mean.any():
            raise VlmtraceError(
                f"Behind layer {site.layer} of {site.block} clean and corrupt runs of learn_from do not differ where "
                "the answer is read: choose another layer, block or corruption."
            )
    return means


def _first_read(model: VLM, block: str, n_positions: int) -> int:
    """The first position from which on a block's last layer is read for the answer."""
    return n_positions - 1 if block == model.answer_block else 0


def _random_like(direction: Tensor, generator: torch.Generator) -> Tensor:
    """(width,): a random direction of the same length."""
    drawn = torch.randn(direction.shape, generator=generator, dtype=direction.dtype)
    return drawn * (direction.norm() / drawn.norm())


def _adding(
    model: VLM, site: Site, direction: Tensor, first: int
) -> tuple[HookPoint, Callable[[Tensor], Tensor | None]]:
    """A hook that adds a direction from a position on, so that answers of several tokens are steered throughout."""

    def hook(value: Tensor) -> Tensor:
        new = value.clone()
        new[:, first:] += direction.to(value)
        return new

    return model.hook_point(site), hook


def _rows(batch: pd.DataFrame, how: dict, before: Asked, after: Asked) -> pd.DataFrame:
    return pd.DataFrame(
        {
            **{name: batch[name] for name in ("sample_id", UNIT, "task", "category")},
            **how,
            "log_odds": after.log_odds,
            "log_odds_before": before.log_odds,
            "answer": after.answers,
            "answer_before": before.answers,
            "is_correct": after.is_correct,
            "was_correct": before.is_correct,
            "is_incorrect": said_incorrect(batch, after),
            "was_incorrect": said_incorrect(batch, before),
        },
        index=batch.index,
    )


@checked
def steering_table(
    steered: pd.DataFrame, by: Sequence[str] = ("category",), level: Probability = 0.95, seed: Seed = 0
) -> pd.DataFrame:
    """Count the answers that steering turns, and those that it spoils.

    Args:
        steered: from `steer`
        by: columns; each combination of their values is counted by itself
        level: of the intervals over units, 0 to 1
        seed: of the bootstrap

    Returns:
        one row per group, block, layer, direction (random ones together) and factor: the columns of `by`, block, layer,
        direction, factor; n (pairs), n_units; before and after (share of right answers, 0 to 1); change (after −
        before, mean over units), change_low, change_high; n_right (pairs that were right), and of these turned (share
        that says the incorrect option now), turned_low, turned_high (where each unit turned or did not, Wilson's
        interval), and spoiled (share that says neither option).
        Random draws are averaged within each pair. Where no pair was right, the last four are missing

    Raises:
        VlmtraceError: a column is missing, there is no row, or a pair stands twice in a group

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=8)
        >>> steered = vt.steer(model, pairs.tail(4), pairs.head(4), layers=[2], factors=[0.0])
        >>> table = vt.steering_table(steered, by=[])
        >>> table[["n", "n_right", "turned", "spoiled"]].values.tolist()
        [[4.0, 4.0, 0.0, 0.0]]
    """
    needed = ("sample_id", UNIT, *by, *HOW, "is_correct", "was_correct", "is_incorrect")
    steered = check_table(steered, needed, "steered")
    if steered.empty:
        raise VlmtraceError("The steered table has no row: make it with steer.")
    refuse_repeated(steered, [*by, *HOW])
    group_by = [*by, "block", "layer", "direction", "factor"]
    rows = []
    for group, mine in steered.groupby(group_by, sort=False, observed=True):
        now, then = mine["is_correct"].astype(float), mine["was_correct"].astype(float)
        turned = mine["is_incorrect"].astype(float)
        values = pd.DataFrame({"before": then, "after": now, "change": now - then, "turned": turned})
        values["spoiled"] = 1 - now - turned
        values = values.assign(sample_id=mine["sample_id"], unit=mine[UNIT])
        pairs = values.groupby(["sample_id", "unit"], sort=False).mean().reset_index()
        right = pairs[pairs["before"] == 1]
        counted = [*pairs[["before", "after"]].mean().tolist(), *_change(pairs, level, seed)]
        turns = _turned(right, level, seed)
        n_units = pairs["unit"].nunique()
        rows.append((*group, len(pairs), n_units, *counted, len(right), *turns, right["spoiled"].mean()))
    names = ("n", "n_units", "before", "after", "change", "change_low", "change_high", "n_right", "turned")
    return pd.DataFrame(rows, columns=[*group_by, *names, "turned_low", "turned_high", "spoiled"])


def _change(pairs: pd.DataFrame, level: float, seed: int) -> tuple[float, float, float]:
    """Mean over units of what the share of right answers changes by, and its interval, within what it can be."""
    values = stats.unit_means(pairs[["change"]].to_numpy(), pairs["unit"])  # (unit, 1)
    (low,), (high,) = stats.mean_interval(values, level, seed=seed)
    return float(values.mean()), float(np.maximum(low, -1)), float(np.minimum(high, 1))


def _turned(right: pd.DataFrame, level: float, seed: int) -> tuple[float, float, float]:
    """Share of answers that turn, mean over units, and its interval; missing where no answer was right."""
    if right.empty:
        return (np.nan,) * 3
    values = stats.unit_means(right[["turned"]].to_numpy(), right["unit"])[:, 0]
    return float(values.mean()), *share_interval(values, level, seed)
