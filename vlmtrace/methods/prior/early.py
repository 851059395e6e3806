"""Early decoding: what would be answered if the model ended behind an earlier layer?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
from torch import Tensor

from vlmtrace.core import stats
from vlmtrace.core.arguments import Count, Natural, NonEmpty, Probability, Seed, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import UNIT, check_table, validate_pairs
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.units import with_units
from vlmtrace.inputs.words import folded
from vlmtrace.methods.prior.asking import Asked, alike, ask
from vlmtrace.methods.prior.stacked import refuse_repeated
from vlmtrace.models import VLM, Site
from vlmtrace.models.hooks import HookPoint, attach_hooks


@checked
def decode_early(
    model: VLM,
    pairs: pd.DataFrame,
    block: str | None = None,
    batch_size: Count = 32,
    layers: NonEmpty[Natural] | None = None,
) -> pd.DataFrame:
    """Decode the answer behind layers: what the residual stream says if the layers that follow are left out.

    The stream behind a layer takes the place of the one behind the block's last layer, at all positions, and goes on
    through what follows: the logit lens (nostalgebraist 2020,
    https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens) where the block is the one that
    answers. Golovanevsky et al. 2025 (https://aclanthology.org/2025.emnlp-main.1262/) so find the layers at which
    answers turn from what is usual to what is shown.

    Args:
        model: the model that answers
        pairs: a pairs table; only clean images and clean prompts are run. The incorrect answer is what the correct one
            is compared with: the usual answer, say, of pictures that show another
        block: whose layers are left out; None: the block that answers
        batch_size: at most so many pairs in one forward pass
        layers: behind which of the block's layers is decoded; None: each

    Returns:
        the early_answers table, one row per pair and layer: sample_id, unit, task, category, block, layer (the last
        that is kept), log_odds (LD of the correct and the incorrect answer, in logits), answer, is_correct,
        is_incorrect (whether `answer` is the correct, or the incorrect option)

    Raises:
        VlmtraceError: there is no such block or layer, or the table breaks the contract

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-llava")
        >>> pairs = vt.load_pairs("rendered_states", n=3)
        >>> early = vt.decode_early(model, pairs)
        >>> last = early[early["layer"] == 3]
        >>> last["answer"].tolist() == vt.evaluate(model, pairs)["generated_answer"].tolist()
        True
    """
    block = model.answer_block if block is None else one_of(block, model.blocks, f"block of {model.name}")
    pairs = with_units(validate_pairs(pairs)).reset_index(drop=True)
    wanted = dict.fromkeys(range(model.blocks[block].n_layers) if layers is None else layers)
    for layer in wanted:
        model.check_site(Site(block, "residual", layer))
    tables = []
    with counter(len(pairs), f"decoding {len(pairs)} pairs behind {len(wanted)} layers") as advance:
        for batch in alike(model, pairs, batch_size):
            inputs = run_inputs(model, batch, "clean")
            whole = ask(model, batch, inputs)
            for layer in wanted:
                with attach_hooks(_left_out(model, block, layer)):
                    found = ask(model, batch, inputs, whole.tokens)
                tables.append(_rows(batch, block, layer, found))
            advance(len(batch))
    return pd.concat(tables).rename_axis("row").sort_values(["row", "layer"], kind="stable").reset_index(drop=True)


def _left_out(model: VLM, block: str, layer: int) -> list[tuple[HookPoint, Callable[[Tensor], Tensor | None]]]:
    """Hooks by which the block's stream leaves it as it is behind a layer."""
    kept: list[Tensor] = []

    def keep(value: Tensor) -> None:
        kept[:] = [value]

    last = model.blocks[block].n_layers - 1
    points = [model.hook_point(Site(block, "residual", one)) for one in (layer, last)]
    return [(points[0], keep), (points[1], lambda _: kept[0])]


def said_incorrect(batch: pd.DataFrame, found: Asked) -> list[bool]:
    """Whether each answer is the incorrect option.

    Args:
        batch: rows of a pairs table
        found: what they answer
    """
    return [
        folded(said.strip(" .")) == folded(option.strip())
        for said, option in zip(found.answers, batch["incorrect_answer"], strict=True)
    ]


def _rows(batch: pd.DataFrame, block: str, layer: int, found: Asked) -> pd.DataFrame:
    return pd.DataFrame(
        {
            **{name: batch[name] for name in ("sample_id", UNIT, "task", "category")},
            "block": block,
            "layer": layer,
            "log_odds": found.log_odds,
            "answer": found.answers,
            "is_correct": found.is_correct,
            "is_incorrect": said_incorrect(batch, found),
        },
        index=batch.index,
    )


@checked
def early_means(
    early: pd.DataFrame, by: Sequence[str] = ("category",), level: Probability = 0.95, seed: Seed = 0
) -> pd.DataFrame:
    """Average what is decoded behind each layer over units, and say where answers turn.

    Args:
        early: from `decode_early`
        by: columns; each combination of their values is averaged by itself
        level: of the intervals, 0 to 1
        seed: of the bootstrap

    Returns:
        one row per group and layer: the columns of `by`, block, layer, n (pairs), n_units, log_odds (mean over units,
        in logits), ci_low, ci_high, correct and incorrect (shares of pairs that say either option), and turned: the
        share of pairs of which this is the first layer, of those in the table, from which on the correct answer stays
        ahead of the incorrect one. What `turned` lacks to 1 over all layers are pairs in which it is not ahead in the
        end

    Raises:
        VlmtraceError: a column is missing, or there is no row

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-llava")
        >>> early = vt.decode_early(model, vt.load_pairs("rendered_states", n=3))
        >>> vt.early_means(early, by=["task"])[["layer", "n"]].values.tolist()
        [[0, 3], [1, 3], [2, 3], [3, 3]]
    """
    by = list(by)
    needed = ("sample_id", UNIT, *by, "block", "layer", "log_odds", "is_correct", "is_incorrect")
    early = check_table(early, needed, "early_answers")
    if early.empty:
        raise VlmtraceError("The early_answers table has no row: make it with decode_early.")
    key = [*by, "block", "sample_id"]
    refuse_repeated(early, [*by, "block", "layer"], "layer")
    early = early.sort_values("layer", kind="stable")
    order = early.groupby(key, observed=True).cumcount()  # the table may hold some layers only
    behind = order.where(early["log_odds"] <= 0, -1)
    first = behind.groupby([early[name] for name in key], observed=True).transform("max") + 1
    early = early.assign(turned=first == order).sort_index()
    rows = []
    for group, mine in early.groupby([*by, "block", "layer"], sort=False, observed=True):
        values = stats.unit_means(mine[["log_odds"]].to_numpy(), mine[UNIT])
        (low,), (high,) = stats.mean_interval(values, level, seed=seed)
        shares = mine[["is_correct", "is_incorrect", "turned"]].astype(float).mean().tolist()
        rows.append((*group, len(mine), len(values), values.mean(), low, high, *shares))
    names = ("n", "n_units", "log_odds", "ci_low", "ci_high", "correct", "incorrect", "turned")
    return pd.DataFrame(rows, columns=[*by, "block", "layer", *names])
