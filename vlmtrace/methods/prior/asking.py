"""What a run answers, and how it weighs two given answers, whatever is done to its image or its heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vlmtrace.core.types import Array
from vlmtrace.inputs.answers import Answers, find_answers, read_answers, said_beside
from vlmtrace.inputs.batching import equal_length_batches
from vlmtrace.inputs.corruption import PREFIX, prefix_of
from vlmtrace.inputs.given_answers import GivenAnswers
from vlmtrace.inputs.pictures import given_images
from vlmtrace.inputs.words import folded
from vlmtrace.models import VLM, Inputs
from vlmtrace.models.diagnosis import named_rows
from vlmtrace.models.products import FastProducts


@dataclass(frozen=True)
class Asked:
    """What the runs of a batch say.

    Attributes:
        log_odds: (pair,), LD of the correct and the incorrect answer
        answers: what they answer, by pair
        is_correct: (pair,) bool, whether that is the correct option
        tokens: the tokens that were measured, by pair
    """

    log_odds: Array
    answers: list[str]
    is_correct: Array
    tokens: list[Answers]


def ask(
    model: VLM,
    pairs: pd.DataFrame,
    inputs: Inputs,
    tokens: Sequence[Answers] | None = None,
    image: Tensor | None = None,
    spelled: bool = True,
) -> Asked:
    """Run a batch and read it out.

    Args:
        model: the model that answers
        pairs: rows of a pairs table
        inputs: of their runs
        tokens: what is measured in each; None: both options, as this run writes them
        image: (pair, image position, width), what takes the place of the image embeddings; None: nothing does
        spelled: whether the answers are wanted, which take a forward pass for each token; if not, they are empty
    """
    names = [f"pair {name!r}" for name in pairs["sample_id"]]
    with torch.no_grad(), named_rows(model, inputs, names), FastProducts():
        given = GivenAnswers(model, inputs, model.answer_logits(inputs, image))
        if image is not None:
            given.image = image
        rows = pairs.to_dict("records")
        options = [(row["correct_answer"], row["incorrect_answer"]) for row in rows]
        if tokens is None:
            tokens = [
                find_answers(model, both, given, given, i, "image", prefix=prefix_of(row))
                for i, (both, row) in enumerate(zip(options, rows, strict=True))
            ]
        readout = read_answers(model, given, tokens)
        answers = model.spell_out(said_beside(given, tokens)) if spelled else [""] * len(rows)
    right = [folded(said.strip(" .")) == folded(both[0].strip()) for said, both in zip(answers, options, strict=True)]
    return Asked(readout.logit_diff.double().cpu().numpy(), answers, np.array(right), list(tokens))


def rejoined(parts: Sequence[Asked], rows: Sequence[int]) -> Asked:
    """What parts of a batch say, in the batch's order.

    Args:
        parts: one after the other they hold every pair
        rows: of each pair in them, its row in the batch
    """
    order = np.argsort(rows)
    answers = [said for part in parts for said in part.answers]
    tokens = [one for part in parts for one in part.tokens]
    return Asked(
        np.concatenate([part.log_odds for part in parts])[order],
        [answers[i] for i in order],
        np.concatenate([part.is_correct for part in parts])[order],
        [tokens[i] for i in order],
    )


def alike(model: VLM, pairs: pd.DataFrame, batch_size: int) -> Iterator[pd.DataFrame]:
    """Batches of pairs whose runs have inputs of equal shape: clean prompts, corrupt prompts, images and prefixes.

    Args:
        model: counts the tokens
        pairs: a pairs table
        batch_size: pairs in a batch at most

    Yields:
        rows of the table
    """
    prefixes = pairs[PREFIX].fillna("") if PREFIX in pairs else pd.Series("", index=pairs.index)
    for _, same in pairs.groupby(prefixes, sort=False):
        images = [[given_images(pair, name) for pair in same.to_dict("records")] for name in _IMAGES]
        for rows in equal_length_batches(model, same["clean_prompt"], len(same), *images):
            part = same.iloc[rows]
            for own in equal_length_batches(model, part["corrupt_prompt"], batch_size):
                yield part.iloc[own]


_IMAGES = ("clean_image", "corrupt_image")
