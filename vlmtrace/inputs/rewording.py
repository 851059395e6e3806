"""The same pairs under other questions: reworded, leading to the correct answer, or leading away from it."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import UNIT, validate_pairs
from vlmtrace.inputs.units import with_units

#: Fields of a prompt that are no columns.
FIELDS = ("question", "answer", "a", "b")


@checked
def reword(pairs: pd.DataFrame, prompt: str, category: str = "", misleading: bool = False) -> pd.DataFrame:
    """The same pairs with another question about their images.

    In the prompt, {question} stands for the clean prompt as it was, {a} and {b} for the options in the order in which
    it names them, and any column of the table for its value, such as {noun}. {answer} makes a leading question: it is
    the correct answer in the clean prompt, and the incorrect one in the corrupt prompt, so that image and words agree
    in the clean run and speak for different answers under either corruption. Without {answer}, both prompts are the
    same: pairs of images alone.

    Args:
        pairs: a pairs table
        prompt: the new question, with fields in braces
        category: of the new pairs, also put behind each sample_id, so that tables can be put on top of each other;
            empty: both stay
        misleading: whether the two prompts of a leading question are exchanged: the clean one says the incorrect answer

    Returns:
        the pairs table with new prompts; each pair has the unit that it had

    Raises:
        VlmtraceError: a field is no column, a row has no value for it, the braces do not match, misleading is asked for
            without {answer}, or the table breaks the contract

    Example:
        >>> import vlmtrace as vt
        >>> pairs = vt.load_pairs("rendered_states", n=1)
        >>> leading = vt.reword(pairs, "The {noun} is {answer}. {question}", "leading", misleading=True)
        >>> leading["clean_prompt"].iloc[0], leading["sample_id"].iloc[0]
        ('The triangle is red. Is this triangle yellow or red?', 'rendered_states-test-0-00000-leading')
    """
    pairs = with_units(validate_pairs(pairs)).reset_index(drop=True)
    fields = _fields(prompt, pairs)
    if misleading and "answer" not in fields:
        raise VlmtraceError("A question misleads by saying the incorrect answer: put {answer} into the prompt.")
    rows = pairs.to_dict("records")
    said = ("correct_answer", "incorrect_answer")
    prompts = [[_filled(prompt, fields, row, row[side]) for row in rows] for side in said]
    clean, corrupt = reversed(prompts) if misleading else prompts
    new = pairs.assign(clean_prompt=clean, corrupt_prompt=corrupt)
    if category:
        new = new.assign(category=category, sample_id=[f"{name}-{category}" for name in new["sample_id"]])
    return new


def _fields(prompt: str, pairs: pd.DataFrame) -> list[str]:
    try:
        parts = list(string.Formatter().parse(prompt))
    except ValueError as error:
        raise VlmtraceError(f"The braces of the prompt {prompt!r} do not match ({error}): correct them.") from error
    fields = [name for _, name, _, _ in parts if name is not None]
    if any(spec or conversion for _, _, spec, conversion in parts):
        raise VlmtraceError(f"The fields of the prompt {prompt!r} must be plain names, such as {{noun}}: correct them.")
    columns = [name for name in map(str, pairs.columns) if name != UNIT]
    for name in fields:
        if name not in (*FIELDS, *columns):
            raise VlmtraceError(
                f"The prompt's field {{{name}}} is no column of the pairs: use {', '.join(FIELDS)} or a column's name."
            )
    return fields


def _filled(prompt: str, fields: list[str], row: Mapping[str, Any], answer: str) -> str:
    options = row["correct_answer"], row["incorrect_answer"]
    first, second = options if row["correct_first"] else options[::-1]
    values = {**row, "question": row["clean_prompt"], "answer": answer, "a": first, "b": second}
    for name in fields:
        if not isinstance(values[name], str | int | float | bool) or values[name] != values[name]:
            raise VlmtraceError(
                f"The pair {row['sample_id']!r} has no value for the field {{{name}}} of the prompt: leave the field "
                "or the pair out."
            )
    # Fields are replaced by hand: a format string would also look into attributes.
    return "".join(
        text + ("" if name is None else str(values[name])) for text, name, _, _ in string.Formatter().parse(prompt)
    )
