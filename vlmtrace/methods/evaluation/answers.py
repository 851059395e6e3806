"""What does the model answer, clean and corrupt?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import pandas as pd
import torch
from scipy.stats import binomtest

from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.images import open_image
from vlmtrace.core.progress import progress
from vlmtrace.core.schema import validate_pairs
from vlmtrace.inputs.batching import equal_length_batches
from vlmtrace.inputs.corruption import CORRUPTIONS, run_inputs, token_mismatch
from vlmtrace.inputs.units import with_units
from vlmtrace.models import VLM, Readout


def check_pairs(model: VLM, pairs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Set aside the pairs that cannot be used with this model, each with the reason.

    A pair is set aside if an image is missing, truncated or no image; if its clean and corrupt prompts do not have
    the same number of tokens; if an answer does not start with a known token, or both start with the same one.

    Args:
        model: its tokenizer decides how many tokens a prompt has
        pairs: a pairs table

    Returns:
        (usable, set_aside): the usable rows of the pairs, counted anew from 0, and a table with the columns sample_id
        and reason, one row per pair that is set aside

    Raises:
        VlmtraceError: the table lacks a column, repeats a sample_id or has no row

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=4)
        >>> pairs.loc[0, "corrupt_prompt"] += " Or is it?"
        >>> usable, set_aside = vt.check_pairs(model, pairs)
        >>> len(usable), set_aside["sample_id"].tolist()
        (3, ['rendered_states-test-0-00000'])
    """
    pairs = with_units(validate_pairs(pairs))
    reasons = {row.sample_id: reason for row in pairs.itertuples() if (reason := _problem(model, row._asdict()))}
    usable = pairs[~pairs["sample_id"].isin(reasons)].reset_index(drop=True)
    set_aside = pd.DataFrame({"sample_id": list(reasons), "reason": list(reasons.values())}, dtype=str)
    return usable, set_aside


def _problem(model: VLM, pair: dict) -> str | None:
    try:
        for column in ("clean_image", "corrupt_image"):
            open_image(pair[column])
        model.answer_ids([pair["correct_answer"]], [pair["incorrect_answer"]])
    except VlmtraceError as error:
        return str(error)
    return token_mismatch(model, pair)


def evaluate(
    model: VLM, pairs: pd.DataFrame, corruptions: Sequence[str] = ("image", "text"), batch_size: int = 32
) -> pd.DataFrame:
    """Answer every pair clean and under each corruption.

    Pairs that cannot be used are left out and named in a warning (see `check_pairs`).

    Args:
        model: the model that answers
        pairs: a pairs table
        corruptions: "image" (the corrupt image with the clean prompt) and "text" (the clean image with the corrupt
            prompt), or one of them
        batch_size: at most so many pairs in one forward pass; results do not depend on it

    Returns:
        The evaluated table, one row per usable pair: the columns of the pairs, and

        - clean_input, corrupt_input: the exact texts handed to the processor
        - correct_token_id, incorrect_token_id: the first tokens of both options
        - generated_answer, image_generated_answer, text_generated_answer: the answers of the runs
        - clean_p_correct, clean_p_incorrect (probabilities, 0 to 1) and clean_logit_diff (LD = logit(correct) −
          logit(incorrect)) at the first answer token; the same with image_ and text_
        - is_correct: the clean answer is the correct option; image_is_flipped: under the corrupt image the answer is
          the other option; text_is_changed: under the corrupt prompt it is no longer the correct one

    Raises:
        VlmtraceError: the table breaks the contract, a corruption is unknown, or no pair is usable

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> evaluated = vt.evaluate(model, vt.load_pairs("rendered_states", n=4))
        >>> evaluated[["correct_answer", "generated_answer", "image_generated_answer"]].iloc[0].tolist()
        ['yellow', 'yellow', 'red']
    """
    for corruption in corruptions:
        one_of(corruption, CORRUPTIONS, "corruption")
    usable, set_aside = check_pairs(model, pairs)
    if len(set_aside):
        warnings.warn(_set_aside_warning(set_aside, len(pairs)), stacklevel=2)
    if usable.empty:
        raise VlmtraceError(
            f"None of the {len(pairs)} pairs can be used with {model.name}: {set_aside['reason'].iloc[0]}"
        )
    images = (usable["clean_image"], usable["corrupt_image"])
    batches = equal_length_batches(model, usable["clean_prompt"], batch_size, *images)
    tables = [
        _evaluate_batch(model, usable.iloc[rows], corruptions)
        for rows in progress(batches, f"answering {len(usable)} pairs")
    ]
    return pd.concat(tables).sort_index()


def _set_aside_warning(set_aside: pd.DataFrame, total: int) -> str:
    lines = [f"  {row.sample_id}: {row.reason}" for row in set_aside.head(5).itertuples()]
    more = f"\n  … and {len(set_aside) - 5} more" if len(set_aside) > 5 else ""
    return f"{len(set_aside)} of {total} pairs are set aside:\n" + "\n".join(lines) + more


def _evaluate_batch(model: VLM, pairs: pd.DataFrame, corruptions: Sequence[str]) -> pd.DataFrame:
    ids = model.answer_ids(list(pairs["correct_answer"]), list(pairs["incorrect_answer"]))
    out = pairs.assign(
        clean_input=[model.prompt_text(prompt) for prompt in pairs["clean_prompt"]],
        corrupt_input=[model.prompt_text(prompt) for prompt in pairs["corrupt_prompt"]],
        correct_token_id=ids[:, 0].tolist(),
        incorrect_token_id=ids[:, 1].tolist(),
    )
    for run in ("clean", *corruptions):
        inputs = run_inputs(model, pairs, run)
        with torch.no_grad():
            readout = Readout.of(model.answer_logits(inputs), ids)
        answers = model.generate(inputs)
        out["generated_answer" if run == "clean" else f"{run}_generated_answer"] = answers
        out[f"{run}_p_correct"] = readout.p_correct.cpu().numpy()
        out[f"{run}_p_incorrect"] = readout.p_incorrect.cpu().numpy()
        out[f"{run}_logit_diff"] = readout.logit_diff.cpu().numpy()
        if run == "clean":
            out["is_correct"] = _matches(answers, pairs["correct_answer"])
        elif run == "image":
            out["image_is_flipped"] = _matches(answers, pairs["incorrect_answer"])
        else:
            out["text_is_changed"] = [not same for same in _matches(answers, pairs["correct_answer"])]
    return out


def _matches(answers: Sequence[str], expected: Sequence[str]) -> list[bool]:
    return [
        answer.strip(" .").casefold() == other.strip().casefold()
        for answer, other in zip(answers, expected, strict=True)
    ]


#: The measures of the accuracy table, and the column of the evaluated table whose true rows each one counts.
MEASURE_COLUMNS = {
    "clean": "is_correct",
    "image_flipped": "image_is_flipped",
    "text_changed": "text_is_changed",
    "both_sides": "both_sides",
}


def accuracy_table(evaluated: pd.DataFrame, by: Sequence[str] = ("task", "category")) -> pd.DataFrame:
    """Count the pairs for which the model does what a minimal pair asks of it.

    Measures are "clean" (the clean answer is correct), "image_flipped" (the corrupt image gives the other option),
    "text_changed" (the corrupt prompt gives up the correct answer) and "both_sides" (clean and image_flipped).

    Args:
        evaluated: from `evaluate`; measures of a corruption that was not evaluated are left out
        by: columns of `evaluated`; pairs are counted for each combination of their values

    Returns:
        columns *by, measure, accuracy (share of pairs, 0 to 1), n (pairs), and ci_low, ci_high: the 95 % interval of
        Wilson 1927 (https://doi.org/10.1080/01621459.1927.10502953); one row per group and measure

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> evaluated = vt.evaluate(model, vt.load_pairs("rendered_states", n=4))
        >>> accuracy = vt.accuracy_table(evaluated, by=["task"])
        >>> accuracy.set_index("measure")["accuracy"].to_dict()
        {'clean': 1.0, 'image_flipped': 1.0, 'text_changed': 1.0, 'both_sides': 1.0}
    """
    table = evaluated.copy()
    if "image_is_flipped" in table:
        table["both_sides"] = table["is_correct"] & table["image_is_flipped"]
    rows = []
    for group, group_rows in table.groupby(list(by), sort=True):
        for measure, column in MEASURE_COLUMNS.items():
            if column in group_rows:
                hits, n = int(group_rows[column].sum()), len(group_rows)
                low, high = binomtest(hits, n).proportion_ci(method="wilson")
                rows.append((*group, measure, hits / n, n, low, high))
    return pd.DataFrame(rows, columns=[*by, "measure", "accuracy", "n", "ci_low", "ci_high"])
