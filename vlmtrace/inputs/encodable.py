"""Whether images and prompts can become a model's inputs at all, tried before a run depends on it.

Processors and models have limits that no table shows: Qwen's families take no strip narrower than 1 : 200, and a text
may be longer than the positions that a model has. What is tried here is what later runs do, one example of each kind:
whether inputs can be made depends on an image's size and on a prompt's number of tokens and special tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from PIL import Image

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.pictures import prompt_of
from vlmtrace.models import VLM, Inputs
from vlmtrace.models.input_limits import check_positions, processor_refusals

#: Tokens that a run generates to see what the model answers, at least.
GENERATED = 8


def generated_tokens(longest: int) -> int:
    """How many tokens a run generates to tell an answer of `longest` tokens from a longer one."""
    return max(GENERATED, 2 + longest)


class EncodingCheck:
    """Tries whether images and prompts can be made into inputs of a model; those of one kind are tried once.

    Args:
        model: its processor is tried
    """

    def __init__(self, model: VLM):
        self.model = model
        self._specials = frozenset(model.tokenizer.all_special_ids)
        self._lengths: dict[tuple, int] = {}  # by kind, positions of the text sequence

    def check(
        self,
        image: Image.Image | Sequence[Image.Image],
        prompt: str,
        answers: Sequence[str] = (),
        prefix: str = "",
    ) -> None:
        """Check that a question about an image can be asked, and that its answer fits behind it.

        Args:
            image: the opened image, or several
            prompt: the question, before a chat template
            answers: the options, as far as there are any
            prefix: the given beginning of the answer

        Raises:
            VlmtraceError: it cannot; the sentence says why
        """
        images = list(image) if isinstance(image, Sequence) else [image]
        model, text = self.model, prompt_of(self.model, prompt, images)
        with processor_refusals(model, prompt):
            ids = model.tokenizer(text, **model.tokenizer_options(text)).input_ids
        sizes = tuple(one.size for one in images) if model.image_size_matters else len(images)
        kind = (sizes, len(ids), tuple(i for i in ids if i in self._specials))
        if kind not in self._lengths:
            self._lengths[kind] = model.encode([images[0] if len(images) == 1 else images], [text])["input_ids"].shape[
                1
            ]
        longest = max((len(model.spell_answer(answer, prefix)) for answer in answers), default=1)
        before = len(model.spell_answer(prefix)) if prefix else 0
        check_positions(model, self._lengths[kind] + before, text, answer=generated_tokens(longest))


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """While this is entered, what is wrong with the input is said with the name of its row.

    Args:
        name: such as "pair 'a'"

    Raises:
        VlmtraceError: as it was raised, behind the name
    """
    try:
        yield
    except VlmtraceError as error:
        raise VlmtraceError(f"{name[:1].upper()}{name[1:]}: {error}") from error


def encode_questions(
    model: VLM, questions: Mapping[str, Any] | Sequence[Mapping[str, Any]] | pd.DataFrame, kind: str = "question"
) -> Inputs:
    """The inputs of one question, or of some that share a batch.

    Args:
        model: its processor makes them
        questions: a row of a questions table, or several rows whose inputs have one length; the image of a row may be a
            list of several
        kind: what a row is called

    Returns:
        what the model takes

    Raises:
        VlmtraceError: an image cannot be read or cannot be taken, or a prompt is too long; the sentence names the
            question
    """
    if isinstance(questions, pd.DataFrame):
        questions = questions.to_dict("records")
    rows = [questions] if isinstance(questions, Mapping) else list(questions)

    def encoded(some: Sequence[Mapping[str, Any]]) -> Inputs:
        texts = [prompt_of(model, row["prompt"], row["image"]) for row in some]
        return model.encode([row["image"] for row in some], texts)

    try:
        return encoded(rows)
    except VlmtraceError:
        # One of them is at fault, or they do not fit together.
        for row in rows:
            with named(f"{kind} {row.get('sample_id')!r}"):
                encoded([row])
        raise
