"""What does the model answer, clean and corrupt?"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from scipy.stats import binomtest

from vlmtrace.core.arguments import Count, NonEmpty, checked
from vlmtrace.core.caller import warn
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.images import open_mask
from vlmtrace.core.progress import progress
from vlmtrace.core.schema import SAME_PROMPTS, TABLES, check_columns, validate_pairs
from vlmtrace.inputs.alignment import sizes_mismatch
from vlmtrace.inputs.answers import (
    Answers,
    GivenAnswers,
    check_options,
    contrast_names,
    find_answers,
    read_answers,
)
from vlmtrace.inputs.batching import equal_length_batches
from vlmtrace.inputs.corruption import (
    CORRUPTIONS,
    NOTHING_CORRUPTED,
    PREFIX,
    drawn_mismatch,
    prefix_of,
    run_inputs,
    token_mismatch,
    with_instruction,
)
from vlmtrace.inputs.encodable import EncodingCheck, generated_tokens
from vlmtrace.inputs.pair_rows import images_alone, row_problem
from vlmtrace.inputs.pictures import are_same, by_image, given_images, images_of, prompt_of
from vlmtrace.inputs.units import with_units
from vlmtrace.inputs.words import folded
from vlmtrace.models import VLM
from vlmtrace.models.diagnosis import named_rows
from vlmtrace.models.products import FastProducts
from vlmtrace.models.several_images import opened


@checked
def check_pairs(
    model: VLM, pairs: pd.DataFrame, corruptions: Sequence[str] = ("image", "text")
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Set aside the pairs that cannot be used with this model, each with the reason.

    What later stages do with a pair is tried here. A pair is set aside if

    - an image is missing, truncated or no image, or the model's processor refuses it (too narrow a strip, say);
    - a mask (a column that ends in "_mask") cannot be read, or is not of its image's size;
    - a prompt and its answer are longer than the model has positions for, or cannot be put into its tokens;
    - an answer cannot be written in the model's tokens, or both are the same tokens;
    - "image" is among the corruptions, and its two images are the same picture, or are not aligned (see
      `vlmtrace.inputs.alignment`): `same_size` brings them to one size;
    - "text" is among the corruptions, and its clean and corrupt prompts do not have the same number of tokens or their
      words not at the same positions; or it is the only one, and they are the same.

    Args:
        model: its processor and tokenizer decide
        pairs: a pairs table
        corruptions: those that the pairs will be run with: "image", "text"

    Returns:
        (usable, set_aside): the usable rows of the pairs, counted anew from 0, and a table with the columns sample_id
        and reason, one row per pair that is set aside

    Raises:
        VlmtraceError: the table lacks a column, repeats a sample_id or has no row, or a corruption is unknown

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=4)
        >>> pairs.loc[0, "corrupt_prompt"] += " Or is it?"
        >>> usable, set_aside = vt.check_pairs(model, pairs)
        >>> len(usable), set_aside["sample_id"].tolist()
        (3, ['rendered_states-test-0-00000'])
    """
    for corruption in corruptions:
        one_of(corruption, CORRUPTIONS, "corruption")
    pairs = with_units(validate_pairs(pairs))
    check = EncodingCheck(model)
    reasons = {
        pair["sample_id"]: reason
        for pair in pairs.to_dict("records")
        if (reason := _problem(model, pair, corruptions, check))
    }
    usable = pairs[~pairs["sample_id"].isin(reasons)].reset_index(drop=True)
    set_aside = pd.DataFrame({"sample_id": list(reasons), "reason": list(reasons.values())}, dtype=str)
    return usable, set_aside


def _problem(model: VLM, pair: dict, corruptions: Sequence[str], check: EncodingCheck) -> str | None:
    problem = row_problem(pair)
    if problem:
        return problem
    options, prefix = (pair["correct_answer"], pair["incorrect_answer"]), prefix_of(pair)
    try:
        # Both images are read whatever the corruption: a table that names a broken file is at fault.
        images = {column: opened(images_of(pair, column)) for column in ("clean_image", "corrupt_image")}
        for i, one in enumerate(by_image(pair)):
            for column, mask in one.items():
                if str(column).endswith("_mask") and isinstance(mask, str) and mask:
                    side = "corrupt_image" if str(column).startswith("corrupt") else "clean_image"
                    open_mask(mask, images[side][i].size, f"pair {pair['sample_id']!r}")
        if prefix:
            _check_prefix(model, prefix)
        check_options(model, options, prefix)
        for run in ("clean", *corruptions):
            image, prompt = CORRUPTIONS.get(run, ("clean_image", "clean_prompt"))
            check.check(images[image], pair[prompt], options, prefix)
        sizes = [[image.size for image in images[column]] for column in ("clean_image", "corrupt_image")]
        if "image" in corruptions:
            if are_same(images["clean_image"], images["corrupt_image"]):
                return NOTHING_CORRUPTED["image"]
            problem = sizes_mismatch(model, *sizes)
        elif "text" in corruptions and pair["clean_prompt"] == pair["corrupt_prompt"]:
            return NOTHING_CORRUPTED["text"]
        problem = problem or (token_mismatch(model, pair) if "text" in corruptions else None)
        return problem or drawn_mismatch(model, pair, corruptions)
    except VlmtraceError as error:
        return str(error)


def _check_prefix(model: VLM, prefix: str) -> None:
    try:
        model.spell_answer(prefix)
    except VlmtraceError as error:
        raise VlmtraceError(f"The beginning of the answer (answer_prefix) cannot be given: {error}") from error


@checked
def usable_pairs(
    model: VLM,
    pairs: pd.DataFrame,
    corruptions: NonEmpty[str] = ("image", "text"),
    instruction: str = "",
    answer_prefix: str = "",
) -> pd.DataFrame:
    """The pairs that `evaluate` answers; those that it would leave out are named in a warning.

    `evaluate` of any part of these pairs leaves none out: what is answered in parts is what is answered at once.

    Args:
        model: its processor and tokenizer decide
        pairs: a pairs table
        corruptions: as in `evaluate`
        instruction: as in `evaluate`
        answer_prefix: as in `evaluate`

    Returns:
        the usable rows, counted anew from 0, with their units; prompts without the instruction, which `evaluate` adds

    Raises:
        VlmtraceError: the table breaks the contract, a corruption is unknown, or no pair is usable

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.usable_pairs(model, vt.load_pairs("rendered_states", n=4), instruction="Answer with one word.")
        >>> len(pairs), pairs["clean_prompt"].iloc[0]
        (4, 'Is this triangle yellow or red?')
    """
    asked = with_instruction(validate_pairs(pairs), instruction, answer_prefix)
    usable, _ = _usable(model, asked, corruptions)
    pairs = with_units(validate_pairs(pairs))
    return pairs[pairs["sample_id"].isin(usable["sample_id"])].reset_index(drop=True)


def _usable(model: VLM, pairs: pd.DataFrame, corruptions: Sequence[str]) -> tuple[pd.DataFrame, pd.Series]:
    """The usable pairs, and which of them are pairs of images alone."""
    usable, set_aside = check_pairs(model, pairs, corruptions)
    alone = images_alone(usable)
    if len(set_aside):
        warn(_set_aside_warning(set_aside, len(pairs)))
    if "text" in corruptions and alone.any():
        warn(
            f"{int(alone.sum())} of {len(usable)} pairs are pairs of images alone ({NOTHING_CORRUPTED['text']}): they "
            "are answered with the corrupt image only, and their columns of text corruption are empty."
        )
    if usable.empty:
        raise VlmtraceError(
            f"None of the {len(pairs)} pairs can be used with {model.name}: {set_aside['reason'].iloc[0]}"
        )
    return usable, alone


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
    it writes are measured. Pairs that cannot be used are left out and named in a warning (see `check_pairs`).

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
        - correct_tokens, incorrect_tokens: all tokens of both, by their names in the vocabulary
        - generated_answer, image_generated_answer, text_generated_answer: the answers of the runs
        - clean_p_correct, clean_p_incorrect (probabilities, 0 to 1) and clean_logit_diff (LD = logit(correct) −
          logit(incorrect), or the difference of the log-probabilities of all tokens where an option has several); the
          same with image_
        - text_p_correct, text_p_incorrect, and text_logit_diff: LD against the answer that the corrupt run gives
          itself, text_contrast_token (first token: text_contrast_token_id); clean_text_logit_diff: the clean run's LD
          against the same answer; text_options_logit_diff: the corrupt run's LD against the incorrect option
        - is_correct: the clean answer is the correct option; image_is_flipped: under the corrupt image the answer is
          the other option; text_is_changed: under the corrupt prompt it is no longer the correct one

        Pairs whose two prompts are the same have no text corruption: columns of it are missing in their rows, which is
        said in a warning.

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
    usable, alone = _usable(model, with_instruction(validate_pairs(pairs), instruction, answer_prefix), corruptions)
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


def _set_aside_warning(set_aside: pd.DataFrame, total: int) -> str:
    lines = [f"  {row.sample_id}: {row.reason}" for row in set_aside.head(5).itertuples()]
    more = f"\n  … and {len(set_aside) - 5} more" if len(set_aside) > 5 else ""
    return f"{len(set_aside)} of {total} pairs are set aside:\n" + "\n".join(lines) + more


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
    longest = generated_tokens(max(max(one.lengths) for one in options))
    for run, given in runs.items():
        readout = read_answers(model, given, options)
        ids = given.ids(longest)
        answers = model.spell_out(ids)
        out["generated_answer" if run == "clean" else f"{run}_generated_answer"] = answers
        out[f"{run}_p_correct"] = readout.p_correct.cpu().numpy()
        out[f"{run}_p_incorrect"] = readout.p_incorrect.cpu().numpy()
        against_option = readout.logit_diff.cpu().numpy()
        is_correct = _gives(answers, ids, pairs["correct_answer"], [one.correct for one in options])
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
            out["image_is_flipped"] = _gives(answers, ids, pairs["incorrect_answer"], [one.contrast for one in options])
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
    answers: Sequence[str], ids: Sequence[Sequence[int]], expected: Sequence[str], measured: Sequence[Sequence[int]]
) -> list[bool]:
    """Whether each answer is the expected one, in the very tokens that are measured."""
    return [
        folded(answer.strip(" .")) == folded(other.strip()) and tuple(own[: len(tokens)]) == tuple(tokens)
        for answer, own, other, tokens in zip(answers, ids, expected, measured, strict=True)
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
