"""From a row of a questions table to its lens, and to whether its answer is right."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.progress import counter
from vlmtrace.inputs.encodable import named
from vlmtrace.inputs.words import folded
from vlmtrace.methods.lens.decomposition import Lens, open_lens
from vlmtrace.models import VLM, Inputs
from vlmtrace.models.diagnosis import named_rows

#: Columns that a table of questions needs (see `load_questions`).
QUESTION = ("sample_id", "image", "prompt")


@checked
def lens_of(model: VLM, question: Any, prefix: str = "", text_only: str | None = None) -> Lens:
    """Run a model on one row of a questions table and keep what the lens reads.

    Args:
        model: a decoder-only model
        question: a row with image and prompt
        prefix: the beginning of an answer, put behind the prompt
        text_only: the column of sentences that are read instead of the image; None: the image is shown
    Raises:
        VlmtraceError: as `open_lens`
    """
    if not model.has_visual_tokens:
        return open_lens(model, {})  # says why not
    with asked(model, question, prefix, text_only) as inputs:
        return open_lens(model, inputs)


@contextlib.contextmanager
def asked(model: VLM, question: Any, prefix: str, text_only: str | None) -> Iterator[Inputs]:
    """The inputs of a row of a questions table; what fails with them names the question.

    Args:
        model: that is asked
        question: the row
        prefix: the beginning of an answer, put behind the prompt
        text_only: the column of sentences that are read instead of the image; None: the image is shown

    Yields:
        the inputs
    """
    name = f"question {question['sample_id']!r}"
    with named(name):
        if text_only is None:
            inputs = question_inputs(model, question["image"], question["prompt"], prefix)
        else:
            inputs = text_only_inputs(model, question[text_only], question["prompt"], prefix)
    with named_rows(model, inputs, [name]):
        yield inputs


@checked
def right_answers(model: VLM, questions: pd.DataFrame, prefix: str = "", text_only: str | None = None) -> np.ndarray:
    """Which questions a model answers rightly, by its whole answer: a first token can be the beginning of many words.

    Args:
        model: the model that is asked
        questions: sample_id, image, prompt, answer (the right one)
        prefix: the beginning of an answer, put behind every prompt
        text_only: the column of sentences that are read instead of the image; None: the image is shown
    Returns:
        bool, one for each question
    Raises:
        VlmtraceError: a column is missing, or a question cannot be asked

    Example:
        >>> import vlmtrace as vt
        >>> questions = vt.load_questions("rendered_open", n=2, kind="color")
        >>> right_answers(vt.load_model("tiny-llava"), questions).tolist()
        [True, True]
    """
    check_questions(questions, "answer", *([text_only] if text_only else []))
    found = []
    with counter(len(questions), f"answers to {len(questions)} questions") as advance:
        for row in questions.to_dict("records"):
            with asked(model, row, prefix, text_only) as inputs:
                said = model.generate(inputs)[0]
            found.append(folded(said.strip(" .")) == folded(str(row["answer"]).strip()))
            advance(1)
    return np.array(found)


def question_inputs(model: VLM, image: Any, prompt: str, prefix: str = "") -> Inputs:
    """Inputs of a question about an image.

    Args:
        model: the model that is asked
        image: a path or a picture
        prompt: the question, before a chat template
        prefix: the beginning of an answer, e.g. "The color of the circle is"
    Returns:
        model inputs (batch 1)
    """
    text = model.prompt_text(prompt)
    return _with_prefix(model, model.encode([image], [text]), text, prefix)


def text_only_inputs(model: VLM, sentences: str, prompt: str, prefix: str = "") -> Inputs:
    """Inputs of a question about what some sentences say; they stand in front of it, and there is no image.

    Args:
        model: the model that is asked
        sentences: what the image would show, in words
        prompt: the question, before a chat template
        prefix: the beginning of an answer
    Returns:
        model inputs (batch 1)
    """
    text = model.text_only_prompt(f"{sentences} {prompt}")
    return _with_prefix(model, model.encode_text(text), text, prefix)


def _with_prefix(model: VLM, inputs: Inputs, text: str, prefix: str) -> Inputs:
    if not prefix.strip():
        return inputs
    longer = text if text[-1:].isspace() else f"{text} "
    ids, more = (model.tokenizer(part, add_special_tokens=False).input_ids for part in (text, longer + prefix.strip()))
    same = next((i for i, (a, b) in enumerate(zip(ids, more, strict=False)) if a != b), len(ids))
    return model.extend(inputs, more[same:])


def check_questions(questions: pd.DataFrame, *more: str) -> None:
    """Check that a questions table has its columns and at least one row.

    Args:
        questions: the table
        more: columns that are needed beside sample_id, image and prompt
    Raises:
        VlmtraceError: a column is missing or there is no row
    """
    missing = [column for column in (*QUESTION, *more) if column not in questions]
    if missing or questions.empty:
        lacks = f"lacks the columns {', '.join(missing)}" if missing else "has no row"
        raise VlmtraceError(f"The table of questions {lacks}: make it with load_questions.")
