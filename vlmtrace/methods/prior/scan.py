"""Which answer is usual for what, whatever the picture shows: priors that nobody has named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from scipy.stats import false_discovery_control

from vlmtrace.core import stats
from vlmtrace.core.arguments import Count, NonEmpty, Probability, Seed, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import UNIT, check_table, validate_pairs
from vlmtrace.inputs.answers import Answers, chosen_variant, ended, read_answers, variants
from vlmtrace.inputs.corruption import prefix_of, run_inputs
from vlmtrace.inputs.given_answers import GivenAnswers
from vlmtrace.inputs.units import with_units
from vlmtrace.inputs.words import folded
from vlmtrace.methods.prior.asking import alike
from vlmtrace.methods.prior.stacked import refuse_repeated
from vlmtrace.models import VLM
from vlmtrace.models.diagnosis import named_rows
from vlmtrace.models.products import FastProducts

#: Resamples of a test that must pass a correction for hundreds of tests.
_RESAMPLES = 100_000


@checked
def score_options(model: VLM, pairs: pd.DataFrame, options: NonEmpty[str], batch_size: Count = 32) -> pd.DataFrame:
    """Ask clean questions about clean images, and read how probable each of some answers is.

    Args:
        model: the model that answers
        pairs: a pairs table; only clean images and clean prompts are run
        options: the answers, such as all colors; the same for every question
        batch_size: at most so many pairs in one forward pass

    Returns:
        the option_scores table, one row per pair and option: sample_id, unit, task, category, noun (where the pairs
        have one), option, log_prob (of the whole answer, in nats; with its end where it begins another option), share
        (its probability among the options, 0 to 1), is_shown (whether it is the correct answer)

    Raises:
        VlmtraceError: an option stands twice or cannot be written in the model's vocabulary, or the table breaks the
            contract

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_usual", n=2)
        >>> scores = vt.score_options(model, pairs, ["red", "green", "blue"])
        >>> len(scores), round(float(scores["share"].sum()), 4)
        (6, 2.0)
    """
    if len({_word(option) for option in options}) < len(options):
        raise VlmtraceError("An option stands twice: name each answer once.")
    pairs = with_units(validate_pairs(pairs)).reset_index(drop=True)
    tables = []
    with counter(len(pairs), f"scoring {len(options)} options in {len(pairs)} pairs") as advance:
        for batch in alike(model, pairs, batch_size):
            log_probs = _log_probs(model, batch, list(options))  # (pair, option)
            tables.append(_rows(batch, list(options), log_probs))
            advance(len(batch))
    return pd.concat(tables).rename_axis("row").sort_index(kind="stable").reset_index(drop=True)


def _log_probs(model: VLM, batch: pd.DataFrame, options: list[str]) -> np.ndarray:
    inputs = run_inputs(model, batch, "clean")
    names = [f"pair {name!r}" for name in batch["sample_id"]]
    prefixes = [prefix_of(row) for row in batch.to_dict("records")]
    columns = []
    with torch.no_grad(), named_rows(model, inputs, names), FastProducts():
        given = GivenAnswers(model, inputs, model.answer_logits(inputs))
        of_options = []
        for option in options:
            known = {prefix: variants(model, option, prefix) for prefix in set(prefixes)}
            # Where a tokenizer leaves one way to write it, no run has to be asked for its own.
            of_options.append(
                [
                    known[prefix][0] if len(known[prefix]) == 1 else chosen_variant(model, option, given, i, prefix)
                    for i, prefix in enumerate(prefixes)
                ]
            )
        for ways in of_options:
            ways = [ended(model, way, others) for way, others in zip(ways, zip(*of_options, strict=True), strict=True)]
            read = read_answers(model, given, [Answers(way, way) for way in ways])
            # Of answers of several tokens these are log-probabilities already, and the normalizer is 0.
            columns.append((read.correct - read.log_normalizer).double().cpu().numpy())
    return np.stack(columns, axis=1)


def _rows(batch: pd.DataFrame, options: list[str], log_probs: np.ndarray) -> pd.DataFrame:
    kept = [name for name in ("sample_id", UNIT, "task", "category", "noun", "correct_answer") if name in batch]
    table = batch[kept].loc[batch.index.repeat(len(options))]
    weights = np.exp(log_probs - log_probs.max(1, keepdims=True))
    option = np.tile(options, len(batch))
    return table.drop(columns="correct_answer").assign(
        option=option,
        log_prob=log_probs.ravel(),
        share=(weights / weights.sum(1, keepdims=True)).ravel(),
        is_shown=[_word(a) == _word(b) for a, b in zip(option, table["correct_answer"], strict=True)],
    )


def _word(answer: str) -> str:
    """An answer as `ask` compares what was said with it."""
    return folded(answer.strip())


@checked
def find_priors(
    scores: pd.DataFrame,
    by: NonEmpty[str] = ("noun",),
    least: Probability = 0.5,
    alpha: Probability = 0.05,
    level: Probability = 0.95,
    seed: Seed = 0,
) -> pd.DataFrame:
    """Find answers that are given whatever is shown.

    An answer is a prior of a thing if it is more probable than all other options together where the picture does not
    show it. Questions whose picture shows it are left out, so that a right answer is never taken for a prior. All
    things and answers are tried, and p-values are corrected for that.

    Args:
        scores: from `score_options`
        by: columns; each combination of their values is a thing, such as a noun
        least: the share above which an answer is a prior, 0 to 1: 0.5 is that of all others together
        alpha: the false discovery rate, 0 to 1
        level: of the intervals over units, 0 to 1
        seed: of bootstrap and test

    Returns:
        one row per thing and answer, in the order of the scores: the columns of `by`, option, n (pairs), n_units, share
        (mean over units), share_low, share_high, q_value of the one-sided test that the mean share is above `least`,
        corrected over all rows (Benjamini and Hochberg 1995, https://doi.org/10.1111/j.2517-6161.1995.tb02031.x), and
        is_prior: whether it is below alpha

    Raises:
        VlmtraceError: a column is missing, there is no row, or an option stands twice in a pair of a thing

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> scores = vt.score_options(model, vt.load_pairs("rendered_usual", n=16), ["red", "green", "blue"])
        >>> found = vt.find_priors(scores)
        >>> len(found), bool(found["is_prior"].any())
        (24, False)
    """
    scores = check_table(scores, ("sample_id", UNIT, *by, "option", "share", "is_shown"), "option_scores")
    refuse_repeated(scores, [*by, "option"], "option")
    hidden = scores[~scores["is_shown"].astype(bool)]
    if hidden.empty:
        raise VlmtraceError("No row of the option_scores table is left whose answer is not shown: score more options.")
    rows, p_values = [], []
    for group, mine in hidden.groupby([*by, "option"], sort=False, observed=True):
        shares = stats.unit_means(mine[["share"]].to_numpy(), mine[UNIT])  # (unit, 1)
        low, high = stats.mean_interval(shares, level, seed=seed)
        above = shares - least
        (p_value,) = stats.mean_test(above, _RESAMPLES, seed) if above.mean() > 0 else (2.0,)
        p_values.append(min(p_value / 2, 1.0))
        rows.append((*group, len(mine), len(shares), shares.mean(), max(low[0], 0.0), min(high[0], 1.0)))
    found = pd.DataFrame(rows, columns=[*by, "option", "n", "n_units", "share", "share_low", "share_high"])
    found["q_value"] = false_discovery_control(p_values)
    return found.assign(is_prior=found["q_value"] < alpha)
