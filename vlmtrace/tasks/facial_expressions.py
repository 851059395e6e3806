"""Faces in folders named by emotion. The corrupt image is a face with the other emotion of the question.

The corrupt prompt offers emotions of the opposite valence, so that it speaks of another mood altogether; where a
tokenizer has none of as many tokens, it offers other emotions, and the column `replaced_by` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vlmtrace.tasks.building.label_folders import NAMED, images_below, labelled_pairs
from vlmtrace.tasks.building.row_audit import Filters
from vlmtrace.tasks.building.token_replacement import CountTokens, Pool, Replacer, mutual
from vlmtrace.tasks.sources import SOURCES

TASK = "facial_expressions"
SOURCE = SOURCES[TASK]

#: What folders are called → the adjective that the question uses.
EMOTIONS = {
    "angry": "angry",
    "anger": "angry",
    "disgust": "disgusted",
    "disgusted": "disgusted",
    "fear": "fearful",
    "fearful": "fearful",
    "afraid": "fearful",
    "happy": "happy",
    "happiness": "happy",
    "neutral": "neutral",
    "sad": "sad",
    "sadness": "sad",
    "surprise": "surprised",
    "surprised": "surprised",
}

#: Emotion words by valence. Neutral and surprised faces have none: what replaces them comes from either side.
VALENCE: dict[str, tuple[str, ...]] = {
    "positive": tuple(
        (
            "happy amused calm cheerful confident content curious delighted eager excited glad grateful hopeful "
            "inspired joyful pleased proud relaxed relieved satisfied"
        ).split()
    ),
    "negative": tuple(
        (
            "angry disgusted fearful sad afraid anxious ashamed bitter bored disappointed frustrated furious gloomy "
            "guilty hurt jealous lonely mad miserable nervous revolted scared tired upset worried"
        ).split()
    ),
    "neutral": ("neutral", "surprised", "astonished", "confused", "serious"),
}
VALENCE_OF = {word: valence for valence, words in VALENCE.items() for word in words}
OPPOSITE = {"positive": ("negative",), "negative": ("positive",), "neutral": ("positive", "negative")}

SYNONYMS = mutual(
    [
        ("happy cheerful content delighted glad joyful pleased amused excited satisfied").split(),
        ("neutral", "calm", "relaxed", "content", "serious", "bored"),
        ("surprised", "astonished", "confused"),
        ("angry", "furious", "mad", "frustrated", "upset", "bitter"),
        ("disgusted", "revolted"),
        ("fearful", "afraid", "scared", "anxious", "nervous", "worried"),
        ("sad", "gloomy", "miserable", "disappointed", "hurt", "lonely", "upset"),
    ]
)


def prepare(
    root: Path, n: int, seed: int, model: Any | CountTokens | None, filters: Filters, split: str = "test"
) -> pd.DataFrame:
    """Up to n pairs from the folders in root (or in its subfolder named as the split, where there is one).

    Raises:
        VlmtraceError: root holds no folders of images, or no pair comes of them
    """
    images = images_below(root / split if (root / split).is_dir() else root, TASK)
    labels = images["folder"].str.lower().str.strip().map(EMOTIONS)
    named = [
        None if isinstance(label, str) else f"the folder {folder!r} is named by none of the seven emotions"
        for label, folder in zip(labels, images["folder"], strict=True)
    ]
    images = filters.keep(NAMED, images.assign(label=labels), named, "images")
    return labelled_pairs(
        TASK,
        images.assign(category=images["label"], kind="emotion", group=""),
        filters,
        n=n,
        seed=seed,
        replacer=Replacer(model, SYNONYMS),
        prompt=lambda _, options: f"Is this person feeling {options[0]} or {options[1]}?",
        pools=lambda candidate, options: pools(options),
        further=lambda candidate, options, corrupt: {
            "noun": "person",
            "replaced_by": "opposite valence" if are_opposite(options, corrupt) else "other emotions",
        },
    )


def pools(options: Sequence[str]) -> list[Pool]:
    """Emotion words to replace each option with: of the opposite valence; where none fits, any."""
    first, second = (
        [word for valence in OPPOSITE[VALENCE_OF[option]] for word in VALENCE[valence]] for option in options
    )
    return [(first, second), (list(VALENCE_OF), list(VALENCE_OF))]


def are_opposite(options: Sequence[str], corrupt: str) -> bool:
    """Whether every option was replaced, in its place, by a word of an opposite valence."""
    words = corrupt.removesuffix("?").split()
    return all(
        VALENCE_OF[word] in OPPOSITE[VALENCE_OF[option]]
        for option, word in zip(options, (words[-3], words[-1]), strict=True)
    )
