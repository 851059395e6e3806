"""What a model says in one run: the whole answer, and the tokens that could have come first."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
import torch

from vlmtrace.models import VLM, Inputs

#: Answers longer than this are cut.
LONGEST_ANSWER = 8


class Answer(NamedTuple):
    """What the model says in one run.

    Attributes:
        text: the whole answer, decoded greedily
        ids: its tokens' ids, without the token that ends it
        tokens: the same as the tokenizer writes them
        logits: (vocabulary,), float32, of the first answer token
    """

    text: str
    ids: list[int]
    tokens: list[str]
    logits: torch.Tensor


def answer_of(model: VLM, inputs: Inputs) -> Answer:
    """What a model says.

    Args:
        model: that is asked
        inputs: of one example
    """
    with torch.no_grad():
        logits = model.answer_logits(inputs)[0].cpu()
    ids = model.answer_tokens(inputs, LONGEST_ANSWER)
    return Answer(model.tokenizer.decode(ids).strip(), ids, model.tokenizer.convert_ids_to_tokens(ids), logits)


def top_tokens(model: VLM, logits: torch.Tensor, n: int = 10) -> pd.DataFrame:
    """The most probable tokens.

    Args:
        model: whose tokenizer
        logits: (vocabulary,)
        n: how many
    Returns:
        one row per token: rank (from 1), token, token_id, probability, logit
    """
    probabilities = logits.float().softmax(-1)
    ids = probabilities.argsort(descending=True, stable=True)[:n].tolist()
    return pd.DataFrame(
        {
            "rank": range(1, len(ids) + 1),
            "token": model.tokenizer.convert_ids_to_tokens(ids),
            "token_id": ids,
            "probability": probabilities[ids].tolist(),
            "logit": logits[ids].tolist(),
        }
    )
