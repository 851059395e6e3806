"""Heads taken out of the answer's position: is the answer lost without them, from images and from sentences?

Heads, such as those that are strong in both kinds of run (see `modality`), are mean-ablated: their outputs at the
answer's position are replaced by their mean over questions, in runs on images and in runs on sentences. As many other
heads, drawn at random, are the control.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from scipy.stats import false_discovery_control
from torch import Tensor

from vlmtrace.core import stats
from vlmtrace.core.arguments import Count, Seed, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import UNIT, check_columns
from vlmtrace.methods.lens.decomposition import BLOCK
from vlmtrace.methods.lens.modality import RUNS
from vlmtrace.methods.lens.questions import asked, check_questions, lens_of
from vlmtrace.models import VLM, Inputs, Site
from vlmtrace.models.hooks import attach_hooks


@checked
@torch.no_grad()
def ablate_heads(
    model: VLM,
    questions: pd.DataFrame,
    heads: Sequence[tuple[int, int]],
    text_only: str = "sentences",
    prefix: str = "",
    n_random: Count = 10,
    seed: Seed = 0,
) -> pd.DataFrame:
    """Mean-ablate heads at the answer's position: how much of the answer's log-odds is left?

    The mean is taken over the runs of the same kind (images, or sentences). Random heads are drawn anew `n_random`
    times, as many as `heads`, in the same layers as often where enough others are there, and none of `heads`
    themselves.

    Args:
        model: a decoder-only model
        questions: sample_id, image, prompt, and sentences in the column `text_only`
        heads: (layer, head) of those to ablate
        text_only: the column of sentences that are read instead of the image
        prefix: the beginning of an answer, put behind every prompt
        n_random: how many sets of random heads; without one there would be nothing to compare with
        seed: of the random heads
    Returns:
        one row per question, run ("visual", "textual") and set ("chosen", "random"; of random the mean over draws):
        sample_id, run, heads, p_before (of the token that the model predicts), p, log_odds_change (nats); log-odds go
        on moving where a probability is close to 1
    Raises:
        VlmtraceError: a column is missing, there is no head to ablate, or there are too few others
    """
    check_questions(questions, text_only)
    if not heads:
        raise VlmtraceError("No head to ablate: choose more of the strongest heads, so that some are shared.")
    block = model.blocks[BLOCK]
    sets = [list(heads), *random_heads(heads, block.n_layers, block.n_heads, n_random, seed)]
    unit = {row["sample_id"]: {UNIT: row[UNIT]} for row in questions.to_dict("records") if UNIT in row}
    rows = []
    with counter(2 * len(questions), f"ablating {len(heads)} heads in {len(questions)} questions") as advance:
        for run, column in zip(RUNS, (None, text_only), strict=True):
            told, mean = _told(model, questions, prefix, column)
            for question, (at, token, before) in zip(questions.to_dict("records"), told, strict=True):
                sample_id = question["sample_id"]
                with asked(model, question, prefix, column) as inputs:
                    after = np.array([ablated_log_odds(model, inputs, at, token, chosen, mean) for chosen in sets])
                for name, found in (("chosen", after[:1]), ("random", after[1:])):
                    left = {"p": expit(found).mean(), "log_odds_change": found.mean() - before}
                    row = {"sample_id": sample_id, **unit.get(sample_id, {}), "run": run, "heads": name}
                    rows.append({**row, "p_before": expit(before), **left})
                advance(1)
    return pd.DataFrame(rows)


class _Told(NamedTuple):
    """What a question is remembered by: a whole lens holds every activation of its run.

    Attributes:
        at: the answer's position
        token: that the model predicts there
        before: its log-odds
    """

    at: int
    token: int
    before: float


def _told(model: VLM, questions: pd.DataFrame, prefix: str, column: str | None) -> tuple[list[_Told], Tensor]:
    """What each question is remembered by, and every head's mean output at the answer's position."""
    told: list[_Told] = []
    total: Tensor | None = None
    for row in questions.to_dict("records"):
        lens = lens_of(model, row, prefix, column)
        at = lens.heads[:, lens.at].cpu().double()  # (layer, head, width of a head)
        total = at if total is None else total + at
        told.append(_Told(lens.at, lens.token, log_odds(lens.logits, lens.token)))
    if total is None:
        raise VlmtraceError("There is no question to ablate heads in: pass a table with at least one row.")
    return told, (total / len(told)).float()


@torch.no_grad()
def ablated_log_odds(
    model: VLM, inputs: Inputs, at: int, token: int, heads: Sequence[tuple[int, int]], mean: Tensor
) -> float:
    """Log-odds of the predicted token with some heads' outputs at the answer's position replaced.

    Args:
        model: a decoder-only model
        inputs: of one question
        at: the answer's position
        token: that is predicted there
        heads: (layer, head) of those to replace
        mean: (layer, head, width of a head), what they are replaced by
    """

    def replace(layer: int) -> Callable[[Tensor], Tensor]:
        chosen = [head for where, head in heads if where == layer]

        def put(value: Tensor) -> Tensor:
            value = value.clone()
            value.unflatten(-1, mean.shape[1:])[:, at, chosen] = mean[layer, chosen].to(value.device, value.dtype)
            return value

        return put

    layers = sorted({layer for layer, _ in heads})
    points = [(model.hook_point(Site(BLOCK, "self_attention", layer)), replace(layer)) for layer in layers]
    with attach_hooks(points, n_pairs=1):
        return log_odds(model.answer_logits(inputs)[0], token)


def log_odds(logits: Tensor, token: int) -> float:
    """log(p / (1 − p)) of a token, exact where p is close to 1, too.

    Args:
        logits: (vocabulary,)
        token: the token's id
    """
    others = torch.cat([logits[:token], logits[token + 1 :]])
    return float(logits[token] - others.logsumexp(-1))


def random_heads(
    heads: Sequence[tuple[int, int]], n_layers: int, n_heads: int, n_sets: int, seed: int = 0
) -> list[list[tuple[int, int]]]:
    """Sets of as many other heads, drawn without replacement, of the same layers as far as there are enough of them.

    Args:
        heads: (layer, head) of those that are left out
        n_layers: of the model
        n_heads: of each layer
        n_sets: how many sets
        seed: of the draws
    Raises:
        VlmtraceError: there are too few other heads
    """
    taken = set(heads)
    if 2 * len(taken) > n_layers * n_heads:
        raise VlmtraceError(f"There are not {len(taken)} other heads than these to compare with: choose fewer.")
    rng = np.random.default_rng(seed)
    sets = []
    for _ in range(n_sets):
        drawn: list[tuple[int, int]] = []
        for layer in sorted({layer for layer, _ in heads}):
            others = [(layer, head) for head in range(n_heads) if (layer, head) not in taken]
            wanted = sum(at == layer for at, _ in taken)
            drawn += [others[i] for i in rng.permutation(len(others))[:wanted]]
        rest = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
        rest = [head for head in rest if head not in taken and head not in drawn]
        drawn += [rest[i] for i in rng.permutation(len(rest))[: len(taken) - len(drawn)]]
        sets.append(drawn)
    return sets


@checked
def ablation_table(ablated: pd.DataFrame, seed: Seed = 0) -> pd.DataFrame:
    """Mean change of the answer's log-odds under ablation, with 95 % intervals over questions, by run.

    Args:
        ablated: from `ablate_heads`
        seed: of the bootstrap
    Returns:
        one row per run and set of heads, and one for their difference, question by question: run, heads ("chosen",
        "random", "chosen − random"), n, log_odds_change, low, high, p_before, p; of the difference, whether it is 0:
        p_value, q_value (corrected for all runs)

    Raises:
        VlmtraceError: a column is missing, or a run has no rows of random heads, or of the chosen ones
    """
    check_columns(ablated, ("sample_id", "run", "heads", "p_before", "p", "log_odds_change"), "ablated")
    rows = []
    for run, part in ablated.groupby("run", sort=False):
        missing = {"chosen", "random"} - set(part["heads"])
        if missing:
            raise VlmtraceError(
                f"The {run} run has no row of {min(missing)} heads, and chosen ones are compared with random ones: "
                "pass all that ablate_heads returns."
            )
        unit = UNIT if UNIT in part else "sample_id"
        wide = part.pivot_table(index=unit, columns="heads", values="log_odds_change")
        wide["chosen − random"] = wide["chosen"] - wide["random"]
        p = part.groupby("heads")[["p_before", "p"]].mean()
        for name, values in wide.items():
            low, high = (float(end[0]) for end in stats.mean_interval(values, seed=seed))
            row = {"run": run, "heads": name, "n": len(values), "log_odds_change": values.mean()}
            row |= {"low": low, "high": high}
            tested = {"p_value": float(stats.mean_test(values, seed=seed)[0])}
            rows.append(row | (p.loc[name].to_dict() if name in p.index else tested))
    table = pd.DataFrame(rows)
    differences = table["p_value"].notna()
    table.loc[differences, "q_value"] = false_discovery_control(table.loc[differences, "p_value"])
    return table
