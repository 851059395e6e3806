"""How a model in training does on pairs that it never saw, by category and on held-out combinations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from vlmtrace.tasks.rendered.pairs import sample
from vlmtrace.tasks.rendered.words import TASKS
from vlmtrace.training.data import kind_of
from vlmtrace.training.smol.forward import answer_logits, is_right
from vlmtrace.training.smol.recipe import BARS
from vlmtrace.training.smol.stream import Batch, Encoder, made_ahead, packed

#: Pairs that are asked about together.
CHUNK = 24


class Asked(NamedTuple):
    """Questions about both images of a few pairs.

    Attributes:
        batch: two questions for each pair: about the clean image, and about the corrupt one
        about: task, category and seen_combination of each pair
    """

    batch: Batch
    about: list[tuple[str, str, bool]]


def validation(n: int, seed: int, split: str, encoder: Encoder, workers: int = 0) -> Iterator[Asked]:
    """Freshly drawn pairs of every task.

    Args:
        n: pairs of each task
        seed: of the pairs
        split: of the combinations: "train", "validation" or "test"
        encoder: of the questions
        workers: processes that render them
    """
    chunks = -(-n // CHUNK) * len(TASKS)
    return made_ahead(partial(_asked, n=n, seed=seed, split=split, encoder=encoder), range(chunks), workers)


def _asked(chunk: int, n: int, seed: int, split: str, encoder: Encoder) -> Asked:
    task, first = TASKS[chunk % len(TASKS)], chunk // len(TASKS) * CHUNK
    pairs = [sample(task, seed, index, split) for index in range(first, min(first + CHUNK, n))]
    pixels = np.stack([scene.render().pixels for pair in pairs for scene in (pair.clean, pair.corrupt)])
    about = [[encoder.about_image(pair.clean_prompt, option)] for pair in pairs for option in pair.options]
    return Asked(packed(pixels, about, [], encoder), [(task, pair.category, pair.seen_combination) for pair in pairs])


@torch.no_grad()
def score(model: Any, encoder: Encoder, asked: Iterable[Asked], device: torch.device) -> pd.DataFrame:
    """Ask about both images of pairs.

    Args:
        model: in training
        encoder: of the questions
        asked: of `validation`
        device: where the model is

    Returns:
        one row per pair: task, category (of faces: "emotion"), seen_combination, and as bools clean_right and
        corrupt_right (exactly the image's answer is generated), both_right
    """
    rows = []
    for batch, about in asked:
        moved = batch.to(device)
        right = is_right(answer_logits(model, moved, encoder), moved).cpu().view(-1, 2).tolist()
        for (task, category, seen), (clean, corrupt) in zip(about, right, strict=True):
            kind = kind_of(category)
            rows.append((task, kind, seen, clean, corrupt, clean and corrupt))
    columns = ["task", "category", "seen_combination", "clean_right", "corrupt_right", "both_right"]
    return pd.DataFrame(rows, columns=columns)


def summary(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Shares by category, and on pairs with a held-out combination by task, each beside the bars.

    Args:
        scores: of `score`

    Returns:
        rows of group, n (pairs), right (share of questions), both (share of pairs), and holds (both bars are reached)
    """
    groups = [(str(category), rows) for category, rows in scores.groupby("category", sort=False)]
    held_out = scores[~scores.seen_combination]
    groups += [(f"held out, {task}", rows) for task, rows in held_out.groupby("task", sort=False)]
    found = []
    for group, rows in groups:
        right = float(rows[["clean_right", "corrupt_right"]].to_numpy().mean())
        both = float(rows.both_right.mean())
        holds = right >= BARS[0] and both >= BARS[1]
        found.append({"group": group, "n": len(rows), "right": right, "both": both, "holds": holds})
    return found
