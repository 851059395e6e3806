"""What a model cannot take, in one sentence: images that its processor refuses, texts longer than its positions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from PIL import Image

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.types import Inputs

if TYPE_CHECKING:
    from vlmtrace.models.interface import ModelInterface

#: Characters of a prompt that a sentence quotes.
QUOTED = 80


@contextlib.contextmanager
def processor_refusals(
    model: ModelInterface, text: str, image: Image.Image | None = None, part: str = "processor"
) -> Iterator[None]:
    """While this is entered, whatever a processor, tokenizer or chat template raises becomes one sentence.

    Args:
        model: whose processor works
        text: the prompt that it works on
        image: the image that it works on, if it does
        part: what works, for the sentence

    Raises:
        VlmtraceError: the processor raised; the sentence says of which image and prompt
    """
    try:
        yield
    except VlmtraceError:
        raise
    except Exception as error:
        # Each family's processor raises what it likes: ValueError, RuntimeError, IndexError, TemplateError …
        why = " ".join(str(error).split()) or type(error).__name__
        picture = "" if image is None else f"an image of {image.width} × {image.height} pixels with "
        raise VlmtraceError(
            f"The {part} of {model.name} cannot take {picture}the prompt {quoted(text)} ({why}): use another "
            f"{'prompt' if image is None else 'image or prompt'}, or leave it out."
        ) from error


def quoted(text: str) -> str:
    """A text in quotes, shortened in the middle where it is long.

    >>> quoted("is this red or blue?"), len(quoted("word " * 1000)) < 100
    ("'is this red or blue?'", True)
    """
    half = QUOTED // 2
    return repr(text if len(text) <= QUOTED + 10 else f"{text[:half]} … {text[-half:]}")


def holds_image(kind: str, text: str, what: str) -> VlmtraceError:
    """The sentence that what stands for an image is written where no image can be.

    Args:
        kind: "prompt" or "answer"
        text: that holds it
        what: stands for an image
    """
    return VlmtraceError(
        f"The {kind} {quoted(text)} holds {what}, and the images of a prompt are put into it by the model's own "
        "format: leave it out."
    )


def check_length(model: ModelInterface, inputs: Inputs, text: str, answer: int = 0) -> None:
    """Check that a prompt, its image and an answer are no longer than what a model has positions for.

    Args:
        model: says how many it has
        inputs: of the prompt
        text: the prompt, for the sentence
        answer: so many tokens will be generated

    Raises:
        VlmtraceError: they are longer
    """
    length = inputs["input_ids"].shape[1]
    image = "with its image, " if model.has_visual_tokens else ""
    check_positions(model, length, text, image, answer)
    asked = inputs.get("qformer_input_ids")
    limit = getattr(getattr(model.hf.config, "qformer_config", None), "max_position_embeddings", None)
    if asked is not None and limit is not None and asked.shape[1] > limit:
        raise _too_long(model, asked.shape[1], text, "in its Q-Former, ", limit)


def check_positions(model: ModelInterface, length: int, text: str, where: str = "", answer: int = 0) -> None:
    """As `check_length`, for a known length.

    Args:
        model: says how many positions it has
        length: of the prompt
        text: the prompt, for the sentence
        where: words put before the limit
        answer: so many tokens will be generated

    Raises:
        VlmtraceError: the prompt is longer, or the answer does not fit behind it
    """
    limit = model.max_positions
    if limit is None:
        return
    if length > limit:
        raise _too_long(model, length, text, where, limit)
    # Behind the last token of the answer nothing is read. An answer of its own block does not stand behind the prompt.
    behind = 1 if model.answers_apart else length
    if answer and behind + answer - 1 > limit:
        raise VlmtraceError(
            f"The prompt {quoted(text)} has {length} tokens, {where}and an answer of up to {answer} does not fit "
            f"behind it within the {limit} positions of {model.name}: shorten it."
        )


def check_extended(model: ModelInterface, length: int) -> None:
    """Check that a sequence that goes on with an answer is no longer than what a model has positions for.

    Args:
        model: says how many it has
        length: of the sequence, the answer included

    Raises:
        VlmtraceError: it is longer
    """
    limit = model.max_positions
    if limit is not None and length > limit:
        raise VlmtraceError(
            f"The prompt and its answer would have {length} tokens, more than the {limit} positions of {model.name}: "
            "shorten the prompt."
        )


def _too_long(model: ModelInterface, length: int, text: str, where: str, limit: int) -> VlmtraceError:
    return VlmtraceError(
        f"The prompt {quoted(text)} has {length} tokens, {where}more than the {limit} positions of {model.name}: "
        "shorten it."
    )
