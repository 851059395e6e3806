"""Which pairs a model can be asked, and under which corruption.

Image corruption puts another image before the same prompt, so it needs the clean prompt alone. Text corruption is
patched position by position into a run with another prompt, which has to have its words where the clean one has them.
Under a tokenizer that splits words that is not so for every pair: such a pair loses its text corruption, and nothing
else. In the tables it is a pair of images alone, whose two prompts are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from vlmtrace.core.arguments import NonEmpty, checked
from vlmtrace.core.caller import warn
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.images import open_mask
from vlmtrace.core.schema import check_columns, validate_pairs
from vlmtrace.inputs.alignment import sizes_mismatch
from vlmtrace.inputs.answers import check_options
from vlmtrace.inputs.corruption import (
    CORRUPTIONS,
    NOTHING_CORRUPTED,
    drawn_mismatch,
    prefix_of,
    token_mismatch,
    with_instruction,
)
from vlmtrace.inputs.encodable import EncodingCheck
from vlmtrace.inputs.pair_rows import images_alone, row_problem
from vlmtrace.inputs.pictures import are_same, by_image, images_of
from vlmtrace.inputs.units import with_units
from vlmtrace.models import VLM
from vlmtrace.models.several_images import opened

#: The two steps of the table of filters that depend on the model: what is set aside at each, a pair or its text
#: corruption alone.
PAIR_STEP = "usable with this model"
TEXT_STEP = "text corruption usable with this model"


@checked
def check_pairs(
    model: VLM, pairs: pd.DataFrame, corruptions: Sequence[str] = ("image", "text")
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Set aside what cannot be used with this model, each with the reason: a pair, or its text corruption alone.

    What later stages do with a pair is tried here. A pair is set aside if

    - an image is missing, truncated or no image, or the model's processor refuses it (too narrow a strip, say);
    - a mask (a column that ends in "_mask") cannot be read, or is not of its image's size;
    - its clean prompt and its answer are longer than the model has positions for, or cannot be put into its tokens;
    - an answer cannot be written in the model's tokens, or both are the same tokens;
    - "image" is among the corruptions, and its two images are the same picture, or are not aligned (see
      `vlmtrace.inputs.alignment`): `same_size` brings them to one size;
    - "text" is the only corruption, and the pair has none, or none that can be used.

    Where both corruptions are asked for, a pair whose corrupt prompt cannot be used stays, without text corruption: its
    corrupt prompt does not have as many tokens as the clean one, or not its words at the same positions, or the model
    cannot be given it. In the usable pairs its corrupt prompt is the clean one.

    Args:
        model: its processor and tokenizer decide
        pairs: a pairs table
        corruptions: those that the pairs will be run with: "image", "text"

    Returns:
        (usable, set_aside): the usable rows of the pairs, counted anew from 0, and a table with the columns sample_id,
        step ("usable with this model": the pair is set aside; "text corruption usable with this model": only its text
        corruption is) and reason, one row per pair of which something is set aside

    Raises:
        VlmtraceError: the table lacks a column, repeats a sample_id or has no row, or a corruption is unknown

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=4)
        >>> pairs.loc[0, "corrupt_prompt"] += " Or is it?"
        >>> pairs.loc[1, "clean_image"] = "gone.png"
        >>> usable, set_aside = vt.check_pairs(model, pairs)
        >>> set_aside["step"].tolist()
        ['text corruption usable with this model', 'usable with this model']
        >>> len(usable), usable["corrupt_prompt"].iloc[0]
        (3, 'Is this triangle yellow or red?')
    """
    for corruption in corruptions:
        one_of(corruption, CORRUPTIONS, "corruption")
    pairs = with_units(validate_pairs(pairs))
    check = EncodingCheck(model)
    set_aside = []
    for pair in pairs.to_dict("records"):
        reason, step = _problem(model, pair, corruptions, check), PAIR_STEP
        if not reason and "text" in corruptions:
            reason = _text_problem(model, pair, check)
            # A pair of images alone has no corrupt prompt, and misses nothing.
            step = TEXT_STEP if len(set(corruptions)) > 1 else PAIR_STEP
            if reason == NOTHING_CORRUPTED["text"] and step == TEXT_STEP:
                continue
        if reason:
            set_aside.append((pair["sample_id"], step, reason))
    aside = pd.DataFrame(set_aside, columns=["sample_id", "step", "reason"], dtype=str)
    usable = pairs[~pairs["sample_id"].isin(aside.loc[aside["step"] == PAIR_STEP, "sample_id"])]
    return _without_text(usable, aside), aside


def _without_text(pairs: pd.DataFrame, set_aside: pd.DataFrame) -> pd.DataFrame:
    """Pairs, counted anew; of those whose text corruption is set aside, the corrupt prompt is the clean one."""
    pairs = pairs.reset_index(drop=True)
    of_images = pairs["sample_id"].isin(set_aside.loc[set_aside["step"] == TEXT_STEP, "sample_id"])
    if not of_images.any():
        return pairs
    return pairs.assign(corrupt_prompt=pairs["corrupt_prompt"].where(~of_images, pairs["clean_prompt"]))


def _problem(model: VLM, pair: dict, corruptions: Sequence[str], check: EncodingCheck) -> str | None:
    """Why a pair cannot be used at all, whatever its corrupt prompt."""
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
        check.check(images["clean_image"], pair["clean_prompt"], options, prefix)
        if "image" not in corruptions:
            return None
        check.check(images["corrupt_image"], pair["clean_prompt"], options, prefix)
        if are_same(images["clean_image"], images["corrupt_image"]):
            return NOTHING_CORRUPTED["image"]
        sizes = [[image.size for image in images[column]] for column in ("clean_image", "corrupt_image")]
        return sizes_mismatch(model, *sizes) or drawn_mismatch(model, pair, ["image"])
    except VlmtraceError as error:
        return str(error)


def _text_problem(model: VLM, pair: dict, check: EncodingCheck) -> str | None:
    """Why the corrupt prompt of a pair that can be used otherwise cannot be."""
    if pair["clean_prompt"] == pair["corrupt_prompt"]:
        return NOTHING_CORRUPTED["text"]
    options = pair["correct_answer"], pair["incorrect_answer"]
    try:
        check.check(opened(images_of(pair, "clean_image")), pair["corrupt_prompt"], options, prefix_of(pair))
        return token_mismatch(model, pair) or drawn_mismatch(model, pair, ["text"])
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
    """The pairs that `evaluate` answers; what it would leave out, a pair or its text corruption, a warning names.

    `evaluate` of any part of these pairs leaves none out: what is answered in parts is what is answered at once.

    Args:
        model: its processor and tokenizer decide
        pairs: a pairs table
        corruptions: as in `evaluate`
        instruction: as in `evaluate`
        answer_prefix: as in `evaluate`

    Returns:
        the usable rows, counted anew from 0, with their units; prompts without the instruction, which `evaluate` adds.
        Where a pair's text corruption cannot be used, its corrupt prompt is the clean one

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
    usable, set_aside = checked_with_warnings(model, asked, corruptions)
    pairs = with_units(validate_pairs(pairs))
    return _without_text(pairs[pairs["sample_id"].isin(usable["sample_id"])], set_aside)


def checked_with_warnings(
    model: VLM, pairs: pd.DataFrame, corruptions: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """As `check_pairs`; a warning names what is set aside, and counts the pairs that have no text corruption.

    Args:
        model: its processor and tokenizer decide
        pairs: a pairs table
        corruptions: as in `evaluate`

    Returns:
        usable and set_aside, as `check_pairs`

    Raises:
        VlmtraceError: as `check_pairs`, or no pair is usable
    """
    usable, set_aside = check_pairs(model, pairs, corruptions)
    whole, text = (set_aside[set_aside["step"] == step] for step in (PAIR_STEP, TEXT_STEP))
    if len(whole):
        warn(f"{len(whole)} of {len(pairs)} pairs are set aside:\n{_reasons(whole)}")
    if usable.empty:
        raise VlmtraceError(f"None of the {len(pairs)} pairs can be used with {model.name}: {whole['reason'].iloc[0]}")
    if len(text):
        remain = corruption_table(usable).groupby("category", sort=False)[["text", "image"]].sum()
        counts = ", ".join(f"{row.Index} {row.text} of {row.image}" for row in remain.itertuples())
        warn(
            f"{len(text)} of {len(usable)} pairs cannot be used with text corruption under {model.name}: they are "
            "answered with the corrupt image only, and their columns of text corruption are empty. With text "
            f"corruption there remain, by category: {counts}.\n{_reasons(text)}"
        )
    n_alone = int(images_alone(usable).sum()) - len(text)
    if "text" in corruptions and n_alone:
        warn(
            f"{n_alone} of {len(usable)} pairs are pairs of images alone ({NOTHING_CORRUPTED['text']}): they "
            "are answered with the corrupt image only, and their columns of text corruption are empty."
        )
    return usable, set_aside


def _reasons(set_aside: pd.DataFrame) -> str:
    lines = [f"  {row.sample_id}: {row.reason}" for row in set_aside.head(5).itertuples()]
    more = f"\n  … and {len(set_aside) - 5} more" if len(set_aside) > 5 else ""
    return "\n".join(lines) + more


@checked
def corruption_table(pairs: pd.DataFrame, made: pd.DataFrame | None = None) -> pd.DataFrame:
    """Count by category the pairs that can be used under each corruption.

    Args:
        pairs: a pairs table as `check_pairs` or `usable_pairs` gives it for a model, or one that came of it
            (`evaluated`, `selected`)
        made: the pairs before the model was asked; None: `pairs`

    Returns:
        columns task, category, made, image and text (numbers of pairs); one row per task and category of `made`

    Raises:
        VlmtraceError: a column is missing

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.methods.evaluation import corruption_table
        >>> pairs = vt.load_pairs("rendered_states", n=4)
        >>> pairs.loc[0, "corrupt_prompt"] += " Or is it?"
        >>> usable, _ = vt.check_pairs(vt.load_model("tiny-blip"), pairs)
        >>> corruption_table(usable, made=pairs).set_index("category")[["image", "text"]].to_dict("list")
        {'image': [2, 2], 'text': [1, 2]}
    """
    by, needed = ["task", "category"], ("task", "category", "clean_prompt", "corrupt_prompt")
    made = pairs if made is None else made
    for table, name in ((pairs, "pairs"), (made, "made")):
        check_columns(table, needed, name)
    counts = {
        "made": made.groupby(by, sort=True).size(),
        "image": pairs.groupby(by).size(),
        "text": pairs[~images_alone(pairs)].groupby(by).size(),
    }
    rows = counts["made"].index
    found = {name: count.reindex(rows, fill_value=0) for name, count in counts.items()}
    return pd.DataFrame(found).reset_index()


@checked
def model_filters(pairs: pd.DataFrame, set_aside: pd.DataFrame) -> pd.DataFrame:
    """The rows of the table of filters that `check_pairs` makes: what a model can use of pairs, and of corrupt prompts.

    Args:
        pairs: those that were checked
        set_aside: from `check_pairs`

    Returns:
        columns step, unit, rows_in, rows_used, rows_set_aside; a row for the pairs, and one for the corrupt prompts of
        those that are left, where any has one

    Raises:
        VlmtraceError: a column is missing

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.methods.evaluation import model_filters
        >>> pairs = vt.load_pairs("rendered_states", n=4)
        >>> pairs.loc[0, "corrupt_prompt"] += " Or is it?"
        >>> _, set_aside = vt.check_pairs(vt.load_model("tiny-blip"), pairs)
        >>> model_filters(pairs, set_aside)[["unit", "rows_in", "rows_used", "rows_set_aside"]].values.tolist()
        [['pairs', 4, 4, 0], ['corrupt prompts', 4, 3, 1]]
    """
    check_columns(pairs, ["sample_id", "clean_prompt", "corrupt_prompt"], "pairs")
    check_columns(set_aside, ["sample_id", "step"], "check_pairs")
    whole = set_aside.loc[set_aside["step"] == PAIR_STEP, "sample_id"]
    left = pairs[~pairs["sample_id"].isin(whole) & ~images_alone(pairs)]
    steps = [(PAIR_STEP, "pairs", len(pairs), len(whole))]
    if len(left):
        steps.append((TEXT_STEP, "corrupt prompts", len(left), int((set_aside["step"] == TEXT_STEP).sum())))
    return pd.DataFrame(
        [
            {"step": step, "unit": unit, "rows_in": n, "rows_used": n - aside, "rows_set_aside": aside}
            for step, unit, n, aside in steps
        ]
    )
