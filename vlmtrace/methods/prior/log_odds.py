"""How much of the log-odds of an answer comes from the image, and how much from the words.

The image is kept or taken away, and so are the words (the corrupt prompt is asked in place of the clean one): four
runs, and f(I, W) is the LD of the one in which I and W say what is kept. The part of the image is what it adds,
averaged over both orders in which image and words can come (its Shapley value), ½ [f(1,0) − f(0,0)] + ½ [f(1,1) −
f(0,1)], and likewise that of the words. Both add up to f(1,1) − f(0,0).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from vlmtrace.core import stats
from vlmtrace.core.arguments import Count, NonEmpty, Probability, Seed, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import UNIT, check_table, validate_pairs
from vlmtrace.core.schema.prior_tables import WITHOUT
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.pair_rows import images_alone
from vlmtrace.inputs.units import with_units
from vlmtrace.methods.prior.asking import Asked, alike, ask
from vlmtrace.methods.prior.removal import Removal
from vlmtrace.methods.prior.stacked import refuse_repeated
from vlmtrace.models import VLM

#: Columns that `log_odds_means` averages, in its order.
PARTS = ("log_odds", "rest", "image", "words")


@checked
def split_log_odds(model: VLM, pairs: pd.DataFrame, without: str = "blank", batch_size: Count = 32) -> pd.DataFrame:
    """Split the log-odds of the correct answer into what the image and what the words bring.

    Image and words are kept or taken away, and their parts are Shapley values
    (https://doi.org/10.1515/9781400881970-018). The words are taken away by asking the corrupt prompt: of a pair that
    `reword` made, the one that leads to the incorrect answer. A pair whose two prompts are the same has one set of
    words; then the image's part is what is lost without it, and all else is `rest`.

    Args:
        model: the model that answers
        pairs: a pairs table; both prompts may have unlike numbers of tokens
        without: how the image is taken away. "blank": an image of the same size, in the mean color of all clean images;
            "mean": each image token is the mean one over all clean images; "cut": no position of the question attends
            to the image, in any layer; "corrupt": the pair's corrupt image
        batch_size: at most so many pairs in one forward pass

    Returns:
        the log_odds_parts table, one row per pair: sample_id, unit, task, category, without, and

        - log_odds, log_odds_no_image, log_odds_other_words, log_odds_neither: LD of the four runs, in logits. LD is
          logit(correct) − logit(incorrect), or the difference of log-probabilities where an answer has several tokens
        - image, words, rest, interaction: log_odds = rest + image + words
        - answer, answer_no_image: what the model answers with the clean prompt, with and without the image;
          is_correct, is_correct_no_image: whether that is the correct option

    Raises:
        VlmtraceError: the way is unknown or not possible with this model, or the table breaks the contract

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=4)
        >>> parts = vt.split_log_odds(model, pairs, without="mean")
        >>> total = parts["rest"] + parts["image"] + parts["words"]
        >>> bool((total - parts["log_odds"]).abs().max() < 1e-4)
        True
        >>> parts[["answer", "answer_no_image"]].iloc[0].tolist()
        ['yellow', 'neither']
    """
    one_of(without, WITHOUT, "way to take the image away")
    pairs = with_units(validate_pairs(pairs)).reset_index(drop=True)
    removal = Removal(model, pairs, without)
    tables = []
    with counter(len(pairs), f"image and words of {len(pairs)} pairs") as advance:
        for batch in alike(model, pairs, batch_size):
            kept = ask(model, batch, run_inputs(model, batch, "clean"))
            no_image = removal.ask(batch, kept.tokens)
            others = None
            if not images_alone(batch).all():
                other = batch.assign(clean_prompt=batch["corrupt_prompt"])
                others = (
                    ask(model, batch, run_inputs(model, other, "clean"), kept.tokens, spelled=False),
                    removal.ask(other, kept.tokens, spelled=False),
                )
            tables.append(_rows(batch, without, kept, no_image, others))
            advance(len(batch))
    return pd.concat(tables).sort_index()


def _rows(
    batch: pd.DataFrame, without: str, kept: Asked, no_image: Asked, others: tuple[Asked, Asked] | None
) -> pd.DataFrame:
    both, words_only = kept.log_odds, no_image.log_odds
    missing = np.full(len(batch), np.nan)
    image_only, neither = (missing, missing) if others is None else (one.log_odds for one in others)
    alone = images_alone(batch).to_numpy()
    image_only, neither = np.where(alone, np.nan, image_only), np.where(alone, np.nan, neither)
    return pd.DataFrame(
        {
            **{name: batch[name] for name in ("sample_id", UNIT, "task", "category")},
            "without": without,
            "log_odds": both,
            "log_odds_no_image": words_only,
            "log_odds_other_words": image_only,
            "log_odds_neither": neither,
            "image": np.where(alone, both - words_only, (image_only - neither + both - words_only) / 2),
            "words": (words_only - neither + both - image_only) / 2,
            "rest": np.where(alone, words_only, neither),
            "interaction": both - image_only - words_only + neither,
            "answer": kept.answers,
            "answer_no_image": no_image.answers,
            "is_correct": kept.is_correct,
            "is_correct_no_image": no_image.is_correct,
        },
        index=batch.index,
    )


@checked
def log_odds_means(
    parts: pd.DataFrame,
    by: NonEmpty[str] = ("category", "without"),
    level: Probability = 0.95,
    seed: Seed = 0,
) -> pd.DataFrame:
    """Average the parts of the log-odds over units, with intervals.

    Args:
        parts: from `split_log_odds`, one or several tables on top of each other
        by: columns; each combination of their values is averaged by itself
        level: of the intervals, 0 to 1
        seed: of the bootstrap

    Returns:
        the columns of `by`, part ("log_odds", "rest", "image", "words"), n (pairs), n_units, mean, ci_low, ci_high
        (in logits), and share, share_low, share_high: the part's mean over that of log_odds, with Fieller's interval;
        missing where the mean log-odds may be 0. A part that all pairs lack has no row

    Raises:
        VlmtraceError: a column is missing, there is no row, or a pair stands twice in a group

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> parts = vt.split_log_odds(model, vt.load_pairs("rendered_states", n=8), without="corrupt")
        >>> means = vt.log_odds_means(parts, by=["without"])
        >>> means[["part", "n"]].values.tolist()
        [['log_odds', 8], ['rest', 8], ['image', 8], ['words', 8]]
    """
    parts = check_table(parts, ("sample_id", *by, UNIT, *PARTS), "log_odds_parts")
    refuse_repeated(parts, by)
    rows = []
    for group, mine in parts.groupby(list(by), sort=False, observed=True):
        for part in PARTS:
            known = mine[mine[part].notna()]
            if known.empty:
                continue
            both = stats.unit_means(known[[part, "log_odds"]].to_numpy(), known[UNIT])  # (unit, 2)
            (low,), (high,) = stats.mean_interval(both[:, 0], level, seed=seed)
            (share_low,), (share_high,) = stats.ratio_interval(both[:, 0], both[:, 1], level, seed=seed)
            mean, total = both.mean(0)
            share = mean / total if np.isfinite(share_low) and total else np.nan
            rows.append((*group, part, len(known), len(both), mean, low, high, share, share_low, share_high))
    if not rows:
        raise VlmtraceError("The log_odds_parts table has no row: make it with split_log_odds.")
    names = ("part", "n", "n_units", "mean", "ci_low", "ci_high", "share", "share_low", "share_high")
    return pd.DataFrame(rows, columns=[*by, *names])
