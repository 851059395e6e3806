"""What does the model answer, clean and corrupt?"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from scipy.stats import binomtest

from vlmtrace.core.arguments import Count, NonEmpty, checked
from vlmtrace.core.progress import progress
from vlmtrace.core.schema import SAME_PROMPTS, TABLES, check_columns, validate_pairs
from vlmtrace.inputs.answers import Answers, contrast_names, find_answers, read_answers, said_beside
from vlmtrace.inputs.batching import equal_length_batches
from vlmtrace.inputs.corruption import PREFIX, prefix_of, run_inputs, with_instruction
from vlmtrace.inputs.given_answers import GivenAnswers
from vlmtrace.inputs.pair_rows import images_alone
from vlmtrace.inputs.pictures import given_images, prompt_of
from vlmtrace.inputs.words import folded
from vlmtrace.methods.evaluation.usable import checked_with_warnings
from vlmtrace.models import VLM
from vlmtrace.models.diagnosis import named_rows
from vlmtrace.models.products import FastProducts


@checked
def evaluate(
    model: VLM,
    pairs: pd.DataFrame,
    corruptions: NonEmpty[str] = ("image", "text"),
    batch_size: Count = 32,
    instruction: str = "",
    answer_prefix: str = "",
) -> pd.DataFrame:
    """Answer every pair clean and under each corruption.

    The answer of a run is what its most probable tokens spell, one after the other: the logits that are read are those
    that are judged. Where the model writes an option in another way than the table ("Red" for "red"), the tokens that
    it writes are measured. Pairs that cannot be used are left out, and those whose corrupt prompt cannot be used are
    answered without it; a warning names both (see `check_pairs`).

    Args:
        model: the model that answers
        pairs: a pairs table
        corruptions: "image" (the corrupt image with the clean prompt) and "text" (the clean image with the corrupt
            prompt), or one of them
        batch_size: at most so many pairs in one forward pass; results do not depend on it
        instruction: put behind every prompt, such as "Answer with one word."
        answer_prefix: the beginning of every answer, behind which the model goes on, such as "The answer is"

    Returns:
        The evaluated table, one row per usable pair: the columns of the pairs, with the prompts as they were asked, and

        - answer_prefix: if one was given
        - clean_input, corrupt_input: the exact texts handed to the processor
        - correct_token_id, incorrect_token_id: the first tokens of both options, as they are measured
        - correct_tokens, incorrect_tokens: all tokens of both, by their names in the vocabulary; with the token that
          ends an answer, where those of one option begin those of the other
        - generated_answer, image_generated_answer, text_generated_answer: the answers of the runs
        - clean_p_correct, clean_p_incorrect (probabilities, 0 to 1) and clean_logit_diff (LD = logit(correct) −
          logit(incorrect), or the difference of the log-probabilities of all tokens where an option has several); the
          same with image_
        - text_p_correct, text_p_incorrect, and text_logit_diff: LD against the answer that the corrupt run gives
          itself, text_contrast_token (first token: text_contrast_token_id); clean_text_logit_diff: the clean run's LD
          against the same answer; text_options_logit_diff: the corrupt run's LD against the incorrect option
        - is_correct: the clean answer is the correct option; image_is_flipped: under the corrupt image the answer is
          the other option; text_is_changed: under the corrupt prompt it is no longer the correct one

        Pairs whose two prompts are the same have no text corruption, and neither have those whose corrupt prompt cannot
        be used with this model, which stands in the table as the clean one: columns of text corruption are missing in
        their rows, which is said in a warning.

    Raises:
        VlmtraceError: the table breaks the contract, a corruption is unknown, no pair is usable, or a run gives numbers
            that are not finite

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> evaluated = vt.evaluate(model, vt.load_pairs("rendered_states", n=4))
        >>> evaluated[["correct_answer", "generated_answer", "image_generated_answer"]].iloc[0].tolist()
        ['yellow', 'yellow', 'red']
        >>> evaluated["text_contrast_token"].iloc[0]
        'neither'
    """
    asked = with_instruction(validate_pairs(pairs), instruction, answer_prefix)
    usable, _ = checked_with_warnings(model, asked, corruptions)
    alone = images_alone(usable)
    prefixes = usable[PREFIX].fillna("") if PREFIX in usable else pd.Series("", index=usable.index)
    batches = []
    for (_, images_only), part in usable.groupby([prefixes, alone], sort=False):
        rows_of = part.to_dict("records")
        images = [[given_images(pair, column) for pair in rows_of] for column in ("clean_image", "corrupt_image")]
        runs = ["image"] if images_only else corruptions
        for rows in equal_length_batches(model, part["clean_prompt"], batch_size, *images):
            batches.append((part.iloc[rows], runs))
    tables = [
        _evaluate_batch(model, batch, runs) for batch, runs in progress(batches, f"answering {len(usable)} pairs")
    ]
    return _with_missing(pd.concat(tables).sort_index(), corruptions)


def _with_missing(evaluated: pd.DataFrame, corruptions: Sequence[str]) -> pd.DataFrame:
    """All columns of the corruptions that were asked for, also where no pair has one."""
    named = {column.name: column.kind for column in TABLES["evaluated"].columns if column.missing == SAME_PROMPTS}
    for name, kind in named.items() if "text" in corruptions else ():
        if name not in evaluated:
            evaluated[name] = None if kind in ("text", "boolean") else float("nan")
        elif kind in ("text", "boolean") and evaluated[name].isna().any():
            evaluated[name] = evaluated[name].astype(object).where(evaluated[name].notna(), None)
    return evaluated


def _evaluate_batch(model: VLM, pairs: pd.DataFrame, corruptions: Sequence[str]) -> pd.DataFrame:
    runs = {}
    for run in ("clean", *corruptions):
        inputs = run_inputs(model, pairs, run)
        names = [f"pair {name!r} ({run} run)" for name in pairs["sample_id"]]
        with torch.no_grad(), named_rows(model, inputs, names), FastProducts():
            runs[run] = GivenAnswers(model, inputs, model.answer_logits(inputs))
    shown = "image" if "image" in corruptions else "text"  # the runs that may give the incorrect option
    options = _answers(model, pairs, runs, shown, "options")
    asked = pairs.to_dict("records")
    out = pairs.assign(
        clean_input=[prompt_of(model, pair["clean_prompt"], given_images(pair)) for pair in asked],
        corrupt_input=[prompt_of(model, pair["corrupt_prompt"], given_images(pair)) for pair in asked],
        correct_token_id=[one.correct[0] for one in options],
        incorrect_token_id=[one.contrast[0] for one in options],
        correct_tokens=[_names(model, one.correct) for one in options],
        incorrect_tokens=[_names(model, one.contrast) for one in options],
    )
    for run, given in runs.items():
        readout = read_answers(model, given, options)
        ids = said_beside(given, options)
        answers = model.spell_out(ids)
        out["generated_answer" if run == "clean" else f"{run}_generated_answer"] = answers
        out[f"{run}_p_correct"] = readout.p_correct.cpu().numpy()
        out[f"{run}_p_incorrect"] = readout.p_incorrect.cpu().numpy()
        against_option = readout.logit_diff.cpu().numpy()
        is_correct = _gives(model, answers, ids, pairs["correct_answer"], [one.correct for one in options])
        if run == "text":
            own = _answers(model, pairs, runs, run, "answer")
            out["text_logit_diff"] = read_answers(model, given, own).logit_diff.cpu().numpy()
            clean = read_answers(model, runs["clean"], own)
            out["clean_text_logit_diff"] = clean.logit_diff.cpu().numpy()
            out["text_options_logit_diff"] = against_option
            out["text_contrast_token"] = contrast_names(model, own)
            out["text_contrast_token_id"] = [one.contrast[0] for one in own]
            out["text_is_changed"] = [not same for same in is_correct]
        else:
            out[f"{run}_logit_diff"] = against_option
        if run == "clean":
            out["is_correct"] = is_correct
        elif run == "image":
            out["image_is_flipped"] = _gives(
                model, answers, ids, pairs["incorrect_answer"], [one.contrast for one in options]
            )
    return out


def _answers(
    model: VLM, pairs: pd.DataFrame, runs: dict[str, GivenAnswers], corruption: str, contrast: str
) -> list[Answers]:
    """The tokens that are measured in each pair of a batch, given its runs."""
    found = []
    for row, pair in enumerate(pairs.to_dict("records")):
        options = pair["correct_answer"], pair["incorrect_answer"]
        of_pair = runs["clean"], runs[corruption], row
        found.append(find_answers(model, options, *of_pair, corruption, contrast, prefix_of(pair)))
    return found


def _names(model: VLM, ids: Sequence[int]) -> str:
    return " ".join(map(str, model.tokenizer.convert_ids_to_tokens(list(ids))))


def _gives(
    model: VLM,
    answers: Sequence[str],
    ids: Sequence[Sequence[int]],
    expected: Sequence[str],
    measured: Sequence[Sequence[int]],
) -> list[bool]:
    """Whether each answer is the expected one, in the very tokens that are measured."""
    tokens_of = [[token for token in tokens if token not in model.stop_ids] for tokens in measured]
    return [
        folded(answer.strip(" .")) == folded(other.strip()) and own[: len(tokens)] == tokens
        for answer, own, other, tokens in zip(answers, ids, expected, tokens_of, strict=True)
    ]


#: The measures of the accuracy table, and the column of the evaluated table whose true rows each one counts.
MEASURE_COLUMNS = {
    "clean": "is_correct",
    "image_flipped": "image_is_flipped",
    "text_changed": "text_is_changed",
    "both_sides": "both_sides",
}


@checked
def accuracy_table(evaluated: pd.DataFrame, by: NonEmpty[str] = ("task", "category")) -> pd.DataFrame:
    """Count the pairs for which the model does what a minimal pair asks of it.

    Measures are "clean" (the clean answer is correct), "image_flipped" (the corrupt image gives the other option),
    "text_changed" (the corrupt prompt gives up the correct answer) and "both_sides" (clean and image_flipped).

    Args:
        evaluated: from `evaluate`; measures of a corruption that was not evaluated are left out
        by: columns of `evaluated`; pairs are counted for each combination of their values; those that have no text
            corruption do not count for text_changed

    Returns:
        columns *by, measure, accuracy (share of pairs, 0 to 1), n (pairs), and ci_low, ci_high: the 95 % interval of
        Wilson 1927 (https://doi.org/10.1080/01621459.1927.10502953); one row per group and measure

    Raises:
        VlmtraceError: a column is missing

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> evaluated = vt.evaluate(model, vt.load_pairs("rendered_states", n=4))
        >>> accuracy = vt.accuracy_table(evaluated, by=["task"])
        >>> accuracy.set_index("measure")["accuracy"].to_dict()
        {'clean': 1.0, 'image_flipped': 1.0, 'text_changed': 1.0, 'both_sides': 1.0}
    """
    check_columns(evaluated, (*by, "is_correct"), "evaluated")
    table = evaluated.copy()
    if "image_is_flipped" in table:
        table["both_sides"] = table["is_correct"] & table["image_is_flipped"]
    rows = []
    for group, group_rows in table.groupby(list(by), sort=True):
        for measure, column in MEASURE_COLUMNS.items():
            known = group_rows[column].dropna() if column in group_rows else pd.Series(dtype=bool)
            if len(known):
                hits, n = int(known.sum()), len(known)
                low, high = binomtest(hits, n).proportion_ci(method="wilson")
                rows.append((*group, measure, hits / n, n, low, high))
    return pd.DataFrame(rows, columns=[*by, "measure", "accuracy", "n", "ci_low", "ci_high"])
