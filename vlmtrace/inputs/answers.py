"""Which tokens are measured: those of the correct answer, and those of its contrast.

An effect is measured on LD = log-odds of the correct answer against another one, the *contrast*. For answers of one
token each that is the difference of their two logits; for longer ones the difference of the log-probabilities of all
of their tokens.

The contrast under image corruption is the incorrect option, which the corrupt image shows. Under text corruption both
options have left the prompt, and the model gives neither of them: the contrast is the answer that the corrupt run gives
itself, so that an effect of 0 means that answer and 1 the clean one. The published contrast, the incorrect option under
either corruption, stays available as "options".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.models import VLM, Inputs, Readout
from vlmtrace.models.types import WholeAnswer
from vlmtrace.models.vlm import inputs_of_pair

#: What the correct answer is compared with: the corrupt run's own answer, or the incorrect option.
CONTRASTS = ("answer", "options")


@dataclass(frozen=True)
class Answers:
    """The tokens that are measured in one pair.

    Attributes:
        correct: ids of the correct answer
        contrast: ids of the answer that it is compared with
    """

    correct: tuple[int, ...]
    contrast: tuple[int, ...]

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of both."""
        return len(self.correct), len(self.contrast)

    @property
    def is_single(self) -> bool:
        """Whether both have one token, so that one forward pass measures both."""
        return self.lengths == (1, 1)


def variants(model: VLM, answer: str, prefix: str = "") -> list[tuple[int, ...]]:
    """How a model may write an answer: as it stands, in other cases, with and without a blank before it.

    Args:
        model: its tokenizer decides
        answer: an option
        prefix: the given beginning of the answer

    Returns:
        the ids of each way, as it stands first; each once

    Raises:
        VlmtraceError: no way can be written in the model's vocabulary
    """
    found: dict[tuple[int, ...], None] = {}
    failure: VlmtraceError | None = None
    for blank in (None, True, False):
        for text in dict.fromkeys((answer, answer.lower(), answer.capitalize(), answer.title(), answer.upper())):
            try:
                found.setdefault(tuple(model.spell_answer(text, prefix, blank)))
            except VlmtraceError as error:
                failure = failure or error
    if not found:
        assert failure is not None
        raise failure
    return list(found)


def chosen_variant(model: VLM, answer: str, inputs: Inputs, logits: Tensor, prefix: str = "") -> tuple[int, ...]:
    """The way in which a run writes an answer.

    Args:
        model: its tokenizer decides
        answer: an option
        inputs: of one pair, of the run that is to give it
        logits: (vocabulary,), of the first answer token in that run
        prefix: the given beginning of the answer

    Returns:
        the ids of the variant that the run gives, if it gives one; otherwise, of the variants of one token, the most
        probable one; the answer as it stands where that has several tokens

    Raises:
        VlmtraceError: the answer cannot be written in the model's vocabulary
    """
    ways = variants(model, answer, prefix)
    said = int(logits.argmax())
    begun = [way for way in ways if way[0] == said]
    if begun:
        longest = max(map(len, begun))
        own = (said,) if longest == 1 else tuple(model.answer_tokens(inputs, longest))
        given = [way for way in begun if own[: len(way)] == way]
        if given:
            return given[0]
    if len(ways[0]) > 1:
        return ways[0]
    return max((way for way in ways if len(way) == 1), key=lambda way: float(logits[way[0]]))


def own_answer(model: VLM, inputs: Inputs, logits: Tensor, n: int) -> tuple[int, ...]:
    """The first tokens of the answer that a run gives itself.

    Args:
        model: the model that ran
        inputs: of one pair
        logits: (vocabulary,), of the first answer token
        n: so many tokens at most

    Returns:
        one id at least: a run that ends its answer at once answers with the token that ends it
    """
    first = int(logits.argmax())
    if n == 1 or first in model.stop_ids:
        return (first,)
    return tuple(model.answer_tokens(inputs, n))


def find_answers(
    model: VLM,
    options: Sequence[str],
    clean_logits: Tensor,
    corrupt_logits: Tensor,
    corruption: str,
    inputs: tuple[Inputs, Inputs],
    contrast: str = "answer",
    prefix: str = "",
) -> Answers:
    """The tokens that are measured in one pair.

    Args:
        model: the model that ran
        options: the correct and the incorrect one
        clean_logits: (vocabulary,), of the clean run at the first answer token
        corrupt_logits: the same of the corrupt run
        corruption: "image" or "text"
        inputs: of the pair's clean run, and of its corrupt run
        contrast: "answer": under text corruption the corrupt run's own answer, cut to as many tokens as the correct
            answer has; where that is the correct answer in any writing, the incorrect option. "options": always the
            incorrect option
        prefix: the given beginning of the answer

    Returns:
        the tokens of both

    Raises:
        VlmtraceError: an option cannot be written in the model's vocabulary, or both are the same tokens
    """
    one_of(contrast, CONTRASTS, "contrast")
    clean, corrupt = (inputs[0], clean_logits), (inputs[1], corrupt_logits)
    correct = chosen_variant(model, options[0], *clean, prefix)
    if corruption == "text" and contrast == "answer":
        own = own_answer(model, *corrupt, len(correct))
        if own != correct and own not in variants(model, options[0], prefix):
            return Answers(correct, own)
    # Under text corruption no run gives the incorrect option: it is written as the clean run would write it.
    incorrect = chosen_variant(model, options[1], *(corrupt if corruption == "image" else clean), prefix)
    if correct == incorrect:
        raise VlmtraceError(
            f"The options {options[0]!r} and {options[1]!r} are the same tokens under {model.name}'s tokenizer: "
            "replace one of them."
        )
    return Answers(correct, incorrect)


def check_options(model: VLM, options: Sequence[str], prefix: str = "") -> None:
    """Check that a model can write both options, and that it writes them differently.

    Args:
        model: its tokenizer decides
        options: the correct and the incorrect one
        prefix: the given beginning of the answer

    Raises:
        VlmtraceError: an option cannot be written in the model's vocabulary, or both are the same tokens
    """
    first, second = (variants(model, option, prefix) for option in options)
    if set(first) & set(second):
        raise VlmtraceError(
            f"The options {options[0]!r} and {options[1]!r} can be the same tokens under {model.name}'s tokenizer: "
            "replace one of them."
        )


@torch.no_grad()
def read_answers(model: VLM, inputs: Inputs, logits: Tensor, answers: Sequence[Answers]) -> Readout:
    """What a run says of each pair's answers, whatever their numbers of tokens.

    Args:
        model: the model that ran
        inputs: of a batch
        logits: (pair, vocabulary), of its first answer token
        answers: of each pair

    Returns:
        readout of shape (pair,): logits of answers of one token; log-probabilities where either has several
    """
    single = Readout.of(logits, first_ids(answers, logits.device))
    columns = [single.correct.clone(), single.incorrect.clone(), single.log_normalizer.clone()]
    for row, one in enumerate(answers):
        if one.is_single:
            continue
        own = inputs_of_pair(inputs, row, len(answers))
        for column, ids in ((0, one.correct), (1, one.contrast)):
            last = model.last_logits(model.extend(own, ids[:-1]), len(ids))  # (1, token, vocabulary)
            columns[column][row] = Readout.of_last(last, WholeAnswer(torch.tensor([ids], device=last.device))).correct[
                0
            ]
        columns[2][row] = 0
    return Readout(*columns)


def contrast_names(model: VLM, answers: Sequence[Answers]) -> list[str]:
    """The contrasts as text, for a column that says what was measured against."""
    return [spelled(model, one.contrast) for one in answers]


def spelled(model: VLM, ids: Sequence[int]) -> str:
    """Tokens as text, special ones included; a token without text by its name in the vocabulary."""
    text = model.tokenizer.decode(list(ids), skip_special_tokens=False).strip()
    return text or str(model.tokenizer.convert_ids_to_tokens(ids[0]))


def first_ids(answers: Sequence[Answers], device: torch.device) -> Tensor:
    """(pair, 2): first tokens of the correct answer and of the contrast."""
    return torch.tensor([[one.correct[0], one.contrast[0]] for one in answers], device=device)
