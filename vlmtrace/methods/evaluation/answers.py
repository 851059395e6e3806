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
from vlmtrace.models import VLM, Readout


def check_pairs(model: VLM, pairs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Set aside the pairs that cannot be used with this model, each with the reason.

    A pair is set aside if an image is missing, truncated or no image; if its clean and corrupt prompts do not have
    the same number of tokens; if an answer does not start with a known token, or both start with the same one.

    Returns:
        the usable rows, and a table of sample_id and reason
    """
    pairs = validate_pairs(pairs)
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

    Returns:
        the pairs and, for each run (clean, image, text), the generated answer, p_correct, p_incorrect and logit_diff
        at the first answer token; whether the clean answer is_correct; image_is_flipped: the corrupt image makes the
        model give the other option; text_is_changed: the corrupt prompt makes it give up the correct answer
    Raises:
        VlmtraceError: the table breaks the contract, or no pair is usable
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
    """Share of pairs for which the model does what a minimal pair asks of it, with Wilson's 95 % interval.

    Returns:
        columns *by, measure (clean, image_flipped, text_changed, both_sides: clean right and flipped), accuracy, n,
        ci_low, ci_high
    """
    table = evaluated.copy()
    if "image_is_flipped" in table:
        table["both_sides"] = table["is_correct"] & table["image_is_flipped"]
    rows = []
    for group, part in table.groupby(list(by), sort=True):
        for measure, column in MEASURE_COLUMNS.items():
            if column in part:
                hits, n = int(part[column].sum()), len(part)
                low, high = binomtest(hits, n).proportion_ci(method="wilson")
                rows.append((*group, measure, hits / n, n, low, high))
    return pd.DataFrame(rows, columns=[*by, "measure", "accuracy", "n", "ci_low", "ci_high"])
