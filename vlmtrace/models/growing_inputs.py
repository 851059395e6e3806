"""How inputs of an unknown model grow with its answer, found out by what its processor gives words behind a prompt.

Some models take further inputs with one entry per position, beside ids and masks: which positions are images, in which
place of a sequence of its own a token stands. A family says what a generated token has in them. Where no family does,
the processor's own answer is taken: it is handed a prompt, and the same with words behind it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.types import Inputs

#: What is put behind a prompt: the first is taken that leaves the prompt's own tokens as they are.
CONTINUATIONS = (" a b a b", "a b a b", "\na b a b")

#: From an input and a number of tokens to what the input has at these, behind all others.
Growth = Callable[[Tensor, int], Tensor]


def growths(name: str, encode: Callable[[str], Inputs], text: str, known: set[str]) -> dict[str, Growth]:
    """By input that has one entry per position, and of which it is not known already, how it grows.

    An input of another length than the sequence (the question, as a query transformer reads it for itself) grows with
    the prompt alone, and stays as it is while an answer is given.

    Args:
        name: the model's, for the sentences
        encode: from a text to the inputs of it and some image
        text: a prompt with a place for the image
        known: the inputs of which it is known

    Returns:
        for each such input what it has at further tokens

    Raises:
        VlmtraceError: an input grows with the prompt in a way that is not understood
    """
    short = encode(text)
    further = sorted(set(short) - known)
    if not further:
        return {}
    length = short["input_ids"].shape[1]
    for words in CONTINUATIONS:
        long = encode(text + words)
        longer = long["input_ids"].shape[1]
        if longer > length and torch.equal(long["input_ids"][:, :length], short["input_ids"]):
            break
    found = {}
    for one in further:
        # Sizes that follow the sequence's length. None follows it by chance: the image's tokens count as well.
        sizes = zip(short[one].shape, long.get(one, short[one]).shape, strict=False)
        if any((before, after) == (length, longer) for before, after in sizes):
            growth = _growth(short[one], long[one], length, longer)
            if growth is None:
                raise _unknown(name, one)
            found[one] = growth
    return found


def _growth(short: Tensor, long: Tensor, length: int, longer: int) -> Growth | None:
    """How one input grows from a length to a greater one; None: in another way than those that are known."""
    per_position = short.ndim >= 2 and (short.shape[1], long.shape[1]) == (length, longer)
    if (
        not per_position
        or short.shape[2:] != long.shape[2:]
        or short.dtype != long.dtype
        or not torch.equal(long[:, :length], short)
    ):
        return None
    last, behind = short[:, -1:], long[:, length:]
    steps = torch.arange(1, behind.shape[1] + 1, device=short.device).view(1, -1, *[1] * (short.ndim - 2))
    if torch.equal(behind, last.expand_as(behind)):
        return lambda value, n: value[:, -1:].expand(-1, n, *value.shape[2:])
    if torch.equal(behind, behind.flatten()[0].expand_as(behind)):
        fill = behind.flatten()[0].item()
        return lambda value, n: value.new_full((len(value), n, *value.shape[2:]), fill)
    if torch.equal(behind, last + steps.to(last.dtype)):
        return lambda value, n: value[:, -1:] + value.new_tensor(range(1, n + 1)).view(1, n, *steps.shape[2:])
    return None


def _unknown(name: str, one: str) -> VlmtraceError:
    return VlmtraceError(
        f"{name} is of a type that vlmtrace does not know, and takes {one} for each position, of which it is not known "
        "what a generated token has in it: compare answers of one token, or describe the type as a family (its "
        "more_token_fills say it)."
    )
