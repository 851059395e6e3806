"""Which tokens are measured: those of the correct answer, and those of its contrast.

An effect is measured on LD = log-odds of the correct answer against another one, the *contrast*. For answers of one
token each that is the difference of their two logits; for longer ones the difference of the log-probabilities of all
of their tokens. An answer whose tokens begin the other's ("light", "light blue") is measured with the token that ends
it: otherwise it would contain the other, and never be the less probable.

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
from vlmtrace.inputs.encodable import generated_tokens
from vlmtrace.inputs.given_answers import GivenAnswers, own_answer
from vlmtrace.models import VLM, Readout
from vlmtrace.models.products import by_fast_products
from vlmtrace.models.types import WholeAnswer
from vlmtrace.models.vlm import inputs_of_pairs

#: What the correct answer is compared with: the corrupt run's own answer, or the incorrect option.
CONTRASTS = ("answer", "options")


@dataclass(frozen=True)
class Answers:
    """The tokens that are measured in one pair.

    Attributes:
        correct: ids of the correct answer; with the token that ends it, where they begin those of the contrast
        contrast: ids of the answer that it is compared with, likewise
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


def chosen_variant(model: VLM, answer: str, given: GivenAnswers, row: int, prefix: str = "") -> tuple[int, ...]:
    """The way in which a run writes an answer.

    Args:
        model: its tokenizer decides
        answer: an option
        given: what the runs of the batch answer
        row: of the pair in the batch
        prefix: the given beginning of the answer

    Returns:
        the ids of the variant that the run gives, if it gives one; otherwise, of the variants of one token, the most
        probable one; the answer as it stands where that has several tokens

    Raises:
        VlmtraceError: the answer cannot be written in the model's vocabulary
    """
    ways = variants(model, answer, prefix)
    said = given.first[row]
    begun = [way for way in ways if way[0] == said]
    if begun:
        longest = max(map(len, begun))
        own = (said,) if longest == 1 else tuple(given.ids(longest)[row])
        spelled_out = [way for way in begun if own[: len(way)] == way]
        if spelled_out:
            return spelled_out[0]
    if len(ways[0]) > 1:
        return ways[0]
    return max((way for way in ways if len(way) == 1), key=lambda way: float(given.logits[row, way[0]]))


def ended(model: VLM, answer: tuple[int, ...], others: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """An answer with the token that ends it, if it begins one of some others.

    Args:
        model: says what ends an answer
        answer: its ids
        others: that it is compared with

    Raises:
        VlmtraceError: it begins another, and no token is known to end an answer
    """
    if not any(len(other) > len(answer) and other[: len(answer)] == answer for other in others):
        return answer
    if not model.stop_ids:
        raise VlmtraceError(
            f"An option of several begins with another's tokens, {spelled(model, answer)!r}, and no token is known to "
            f"end an answer of {model.name}: replace one of them."
        )
    own = model.tokenizer.eos_token_id
    return (*answer, own if own in model.stop_ids else min(model.stop_ids))


def said_beside(given: GivenAnswers, answers: Sequence[Answers]) -> list[list[int]]:
    """What each run answers itself, as far as it takes to tell that from the answers that are measured.

    Args:
        given: runs of a batch
        answers: that are measured in each pair

    Returns:
        by pair, the ids; they do not depend on the other pairs of the batch
    """
    wanted = [generated_tokens(max(one.lengths)) for one in answers]
    return [ids[:n] for ids, n in zip(given.ids(max(wanted)), wanted, strict=True)]


def find_answers(
    model: VLM,
    options: Sequence[str],
    clean: GivenAnswers,
    corrupt: GivenAnswers,
    row: int,
    corruption: str,
    contrast: str = "answer",
    prefix: str = "",
) -> Answers:
    """The tokens that are measured in one pair.

    Args:
        model: the model that ran
        options: the correct and the incorrect one
        clean: what the clean runs of the batch answer
        corrupt: what the corrupt runs answer
        row: of the pair in the batch
        corruption: "image" or "text"
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
    correct = chosen_variant(model, options[0], clean, row, prefix)
    if corruption == "text" and contrast == "answer":
        own = own_answer(model, corrupt, row, len(correct))
        if own != correct and not _is_begun(model, own, variants(model, options[0], prefix), corrupt, row):
            return Answers(ended(model, correct, [own]), ended(model, own, [correct]))
    # Under text corruption no run gives the incorrect option: it is written as the clean run would write it.
    incorrect = chosen_variant(model, options[1], corrupt if corruption == "image" else clean, row, prefix)
    if correct == incorrect:
        raise VlmtraceError(
            f"The options {options[0]!r} and {options[1]!r} are the same tokens under {model.name}'s tokenizer: "
            "replace one of them."
        )
    return Answers(ended(model, correct, [incorrect]), ended(model, incorrect, [correct]))


def _is_begun(model: VLM, own: tuple[int, ...], ways: Sequence[tuple[int, ...]], given: GivenAnswers, row: int) -> bool:
    """Whether an answer that was cut to some tokens is one of these, or goes on as one that has more of them."""
    longer = (way for way in ways if way[: len(own)] == own)
    return any(way == own or own_answer(model, given, row, len(way)) == way for way in longer)


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
@by_fast_products
def read_answers(model: VLM, given: GivenAnswers, answers: Sequence[Answers]) -> Readout:
    """What a run says of each pair's answers, whatever their numbers of tokens.

    Args:
        model: the model that ran
        given: its runs of a batch
        answers: of each pair

    Returns:
        readout of shape (pair,): logits of answers of one token; log-probabilities where either has several
    """
    single = Readout.of(given.logits, first_ids(answers, given.logits.device))
    columns = [single.correct.clone(), single.incorrect.clone(), single.log_normalizer.clone()]
    for column, which in enumerate(("correct", "contrast")):
        if which == "contrast" and all(one.contrast == one.correct for one in answers):
            columns[column] = columns[0].clone()  # one answer alone is asked about, and need not be run twice
            continue
        by_length: dict[int, list[int]] = {}
        for row, one in enumerate(answers):
            if not one.is_single:
                by_length.setdefault(len(getattr(one, which)), []).append(row)
        for length, rows in by_length.items():
            ids = torch.tensor([getattr(answers[row], which) for row in rows], device=given.logits.device)
            own = inputs_of_pairs(given.inputs, rows, len(answers))
            last = model.last_logits(model.extend(own, ids[:, :-1]), length, given.image[rows])
            columns[column][rows] = Readout.of_last(last, WholeAnswer(ids)).correct  # last: (pair, token, vocabulary)
            columns[2][rows] = 0
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
