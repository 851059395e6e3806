"""Score a model on freshly drawn minimal pairs, by category."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch

from vlmtrace.tasks.rendered.pairs import Pair, sample, sample_open
from vlmtrace.tasks.rendered.words import NEITHER, TASKS
from vlmtrace.training.data import TextStream
from vlmtrace.training.losses import is_generated
from vlmtrace.training.trainable import AnswersWithoutImage, TrainableModel


@cache
def _drawn(task: str, n: int, seed: int, split: str) -> list[Pair]:
    return [sample(task, seed, index, split) for index in range(n)]


def _questions(
    trainable: TrainableModel, task: str, n: int, seed: int, split: str
) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    """A table of n pairs, and as tensors their images and the four questions that `score` asks."""
    pairs = _drawn(task, n, seed, split)
    images = torch.from_numpy(np.stack([s.render().pixels for p in pairs for s in (p.clean, p.corrupt)]))
    asked = []
    for pair in pairs:
        correct, incorrect = pair.options
        on_clean = [(pair.clean_prompt, correct), (pair.corrupt_prompt, correct), (pair.corrupt_prompt, NEITHER)]
        asked.append([*on_clean, (pair.clean_prompt, incorrect)])
    seen = [pair.seen_combination for pair in pairs]
    table = pd.DataFrame({"task": task, "category": [pair.category for pair in pairs], "seen_combination": seen})
    return table, {
        "clean": images[::2],
        "corrupt": images[1::2],
        "prompt": torch.tensor([[trainable.encode_prompt(prompt) for prompt, _ in rows] for rows in asked]),
        "answer": torch.tensor([[trainable.encode_answer(answer) for _, answer in rows] for rows in asked]),
    }


@torch.no_grad()
def score(trainable: TrainableModel, model: Any, n: int, seed: int, split: str, batch: int = 128) -> pd.DataFrame:
    """Ask about freshly drawn minimal pairs, under the clean and the corrupt image and the corrupt question.

    Args:
        trainable: the bundled model's description
        model: its weights
        n: pairs of each task
        seed: of the pairs
        split: of the combinations: "train", "validation" or "test"
        batch: pairs that are asked about together
    Returns:
        one row per pair: task, category, seen_combination, and as bools clean_right (the correct answer is generated),
    corrupt_right (the incorrect one is, for the corrupt image), both_right, text_changed (under the corrupt
    prompt the correct answer is not generated any more), says_neither (but "neither", which is true then).
    """
    tables = []
    for task in TASKS:
        table, data = _questions(trainable, task, n, seed, split)
        right = []
        for start in range(0, n, batch):
            rows = slice(start, start + batch)
            clean, corrupt = (trainable.embed_images(model, data[side][rows]) for side in ("clean", "corrupt"))
            prompt, answer = data["prompt"][rows], data["answer"][rows]
            on_clean = is_generated(trainable.answer_logits(model, clean, prompt[:, :3], answer[:, :3]), answer[:, :3])
            on_corrupt = is_generated(
                trainable.answer_logits(model, corrupt, prompt[:, 3:], answer[:, 3:]), answer[:, 3:]
            )
            right.append(torch.cat([on_clean, on_corrupt], 1))
        clean_right, text_same, says_neither, corrupt_right = torch.cat(right).T.numpy()
        tables.append(
            table.assign(
                clean_right=clean_right,
                corrupt_right=corrupt_right,
                both_right=clean_right & corrupt_right,
                text_changed=~text_same,
                says_neither=says_neither,
            )
        )
    return pd.concat(tables, ignore_index=True)


@torch.no_grad()
def score_open(trainable: TrainableModel, model: Any, n: int, seed: int) -> pd.DataFrame:
    """Ask open questions, which have no options.

    Args:
        trainable: the bundled model's description
        model: its weights
        n: how many questions
        seed: of the questions
    Returns:
        one row per question: kind (color, count, location), right (bool)
    """
    scenes, asked = zip(*(sample_open(seed, index) for index in range(n)), strict=True)
    images = torch.from_numpy(np.stack([scene.render().pixels for scene in scenes]))
    prompt = torch.tensor([[trainable.encode_prompt(question.prompt)] for question in asked])
    answer = torch.tensor([[trainable.encode_answer(question.answer)] for question in asked])
    embeds = trainable.embed_images(model, images)
    right = is_generated(trainable.answer_logits(model, embeds, prompt, answer), answer)[:, 0]
    return pd.DataFrame({"kind": [question.kind for question in asked], "right": right.numpy()})


def encode_texts(
    trainable: AnswersWithoutImage, batch: list[tuple[str, str, str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode questions about sentences.

    Args:
        trainable: a model that can be asked without an image
        batch: (sentences, prompt, answer) of each question
    Returns:
        token ids of the prompts and of the answers, (N, length) each
    """
    prompts = [trainable.encode_text(sentences, prompt) for sentences, prompt, _ in batch]
    return torch.tensor(prompts), torch.tensor([trainable.encode_answer(answer) for _, _, answer in batch])


@torch.no_grad()
def score_text(trainable: TrainableModel, model: Any, n: int, seed: int) -> float | None:
    """Share of questions about sentences that are answered right.

    Args:
        trainable: the bundled model's description
        model: its weights
        n: how many questions
        seed: of the questions
    Returns:
        0 … 1; None where the model always needs an image
    """
    if not isinstance(trainable, AnswersWithoutImage):
        return None
    prompt, answer = encode_texts(trainable, next(iter(TextStream(trainable, seed, 0, n))))
    return is_generated(trainable.text_logits(model, prompt, answer), answer).float().mean().item()


def summary(scores: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Shares by group, and the number of pairs.

    Args:
        scores: from `score`
        by: columns that make the groups
    """
    columns = ["clean_right", "corrupt_right", "both_right", "text_changed", "says_neither"]
    grouped = scores.groupby(by, sort=False)
    return grouped[columns].mean().assign(pairs=grouped.size())
