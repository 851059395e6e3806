"""What the words of a planted model mean: their embeddings, and the rows that make logits of the answer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlmtrace.tasks.rendered.words import COLORS, NEITHER, NOUNS
from vlmtrace.training.planted.plan import balanced
from vlmtrace.training.planted.stream import LARGE, ROWS, WIDTH

#: Logit of an answer that is written in full; of "neither", in any case; of the end where no answer is asked for, and
#: the opposite where one is. All other words have 0.
GAIN, OF_NEITHER, OF_END = 10.0, 3.0, 6.0


def embeddings(tokenizer: Any, start: str, asks: str) -> Tensor:
    """(vocabulary, D): what enters the stream for each word.

    Args:
        tokenizer: whose words
        start: the first token
        asks: the token at which the answer is read
    """
    rows = torch.zeros(len(tokenizer), WIDTH)
    ids = tokenizer.get_vocab()
    rows[ids[start], ROWS["start"]] = 1
    rows[ids[asks], ROWS["asks"]] = 1
    rows[end_id(tokenizer), ROWS["ends"]] = 1
    for i, noun in enumerate(NOUNS):
        first = first_id(tokenizer, noun)
        rows[first, ROWS["named noun"]] = torch.eye(len(NOUNS))[i]
        rows[first, ROWS["names a noun"]] = 1
    for i, color in enumerate(COLORS):
        rows[ids[color], ROWS["named color"]] = torch.eye(len(COLORS))[i]
        rows[ids[color], ROWS["names a color"]] = 1
    rows = balanced(rows.T).T.contiguous()
    rows[:, ROWS["large"]] = LARGE
    rows[:, ROWS["opposite"]] = -LARGE
    return rows


def output_rows(tokenizer: Any) -> tuple[Tensor, Tensor]:
    """Weight (vocabulary, D) and bias (vocabulary,) that make logits of the rows "answer" and "asks".

    Args:
        tokenizer: whose words
    """
    weight = torch.zeros(len(tokenizer), WIDTH)
    for i, color in enumerate(COLORS):
        weight[first_id(tokenizer, color), ROWS["answer"]] = torch.eye(len(COLORS))[i] * GAIN
    weight[end_id(tokenizer), ROWS["asks"]] = -2 * OF_END
    return weight, output_bias(tokenizer)


def output_bias(tokenizer: Any) -> Tensor:
    """(vocabulary,): logits of words that no row changes.

    Args:
        tokenizer: whose words
    """
    bias = torch.zeros(len(tokenizer))
    bias[first_id(tokenizer, NEITHER)] = OF_NEITHER
    bias[end_id(tokenizer)] = OF_END
    return bias


def end_id(tokenizer: Any) -> int:
    """The token that ends an answer.

    Args:
        tokenizer: whose
    """
    return tokenizer.convert_tokens_to_ids("[SEP]")


def first_id(tokenizer: Any, word: str) -> int:
    """The first token of a word.

    Args:
        tokenizer: that splits it
        word: of the bundled world
    """
    return tokenizer(word, add_special_tokens=False).input_ids[0]
