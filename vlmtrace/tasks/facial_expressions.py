"""Faces in folders named by emotion. The corrupt image is a face with the other emotion of the question.

The corrupt prompt offers emotions of the opposite valence, so that it speaks of another mood altogether; where a
tokenizer has none of as many tokens, it offers other emotions, and the column `replaced_by` says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.tasks.building.folder_layouts import images_below
from vlmtrace.tasks.building.label_folders import NAMED, labelled_pairs
from vlmtrace.tasks.building.token_replacement import Pool, Replacer, mutual
from vlmtrace.tasks.declaration import Request, Source, Task

SOURCE = Source(
    "facial expressions, any collection in folders named by emotion",
    url="the collection's own",
    licence="the collection's own: photographs of faces often may not be shown or passed on",
    citation="the collection's own",
    needs="folders angry, disgust, fear, happy, neutral, sad, surprise with images of faces",
)

#: What folders are called, but for numbers and fillers around it → the adjective that the question uses.
EMOTIONS = {
    "angry": "angry",
    "anger": "angry",
    "disgust": "disgusted",
    "disgusted": "disgusted",
    "fear": "fearful",
    "fearful": "fearful",
    "afraid": "fearful",
    "scared": "fearful",
    "happy": "happy",
    "happiness": "happy",
    "neutral": "neutral",
    "sad": "sad",
    "sadness": "sad",
    "surprise": "surprised",
    "surprised": "surprised",
    "suprise": "surprised",  # as several collections spell it
    "suprised": "surprised",
}

#: Words beside the emotion that say nothing about it: angry_faces, 0_angry_images.
FILLERS = frozenset("face faces facial expression expressions emotion emotions image images img imgs people".split())

#: RAF-DB numbers its folders, in an order of its own: other collections mean other emotions by the same numbers, so
#: that they count only where all seven are there and every file is named as in RAF-DB.
RAF_DB = dict(zip("1234567", ("surprised", "fearful", "disgusted", "happy", "sad", "angry", "neutral"), strict=True))
_RAF_DB_FILE = re.compile(r"(train|test)_\d+(_aligned)?")

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


def make_pairs(request: Request) -> pd.DataFrame:
    """Pairs of faces with two emotions.

    Args:
        request: its root holds the folders of images, or folders of splits that do, or one folder that holds either

    Returns:
        up to n rows of a pairs table, with the columns noun and replaced_by; the request's filters account for every
        image

    Raises:
        VlmtraceError: root holds no folders of images or has not the split, no folder is named by an emotion, or no
            pair can be made
    """
    images = images_below(request, is_label=lambda name: emotion_of(name) is not None)
    labels = emotions_of(images)
    named = [
        None if label else f"the folder {folder!r} is named by none of the seven emotions"
        for label, folder in zip(labels, images["folder"], strict=True)
    ]
    if not any(labels):
        folders = sorted(images["folder"].unique())
        found = ", ".join(folders[:8]) + (", …" if len(folders) > 8 else "")
        raise VlmtraceError(
            f"{request.root} holds the folders {found}: {request.task} expects folders named angry, disgust, fear, "
            "happy, neutral, sad, surprise, or RAF-DB's 1 to 7 with the names of its files; rename them by what they "
            "show."
        )
    images = request.filters.keep(NAMED, images.assign(label=labels), named, "images")
    return labelled_pairs(
        request,
        images.assign(category=images["label"], kind="emotion", group=""),
        replacer=Replacer(request.model, SYNONYMS),
        prompt=lambda _, options: _question(options),
        pools=lambda candidate, options: pools(options),
        further=lambda candidate, options, corrupt: {"noun": "person", "replaced_by": _replaced_by(options, corrupt)},
    )


def emotion_of(folder: str) -> str | None:
    """The emotion that a folder's name says.

    Args:
        folder: its name, in any case; a number before the word, and words such as "faces", do not count

    Returns:
        the adjective; None: there is no emotion in it, or more than an emotion

    >>> emotion_of("0_Anger"), emotion_of("happy faces"), emotion_of("not happy"), emotion_of("contempt")
    ('angry', 'happy', None, None)
    """
    words = re.split(r"[\W_]+", re.sub(r"^\d+", "", folder.lower()))
    said = [word for word in words if word and word not in FILLERS]
    return EMOTIONS.get(said[0]) if len(said) == 1 else None


def emotions_of(images: pd.DataFrame) -> list[str | None]:
    """The emotions of images in folders that are named, or numbered as RAF-DB numbers them.

    Args:
        images: with the columns folder and path

    Returns:
        one adjective per image; None: its folder says none
    """
    numbered = set(images["folder"]) == set(RAF_DB)
    if numbered and all(_RAF_DB_FILE.fullmatch(path.stem) for path in images["path"]):
        return [RAF_DB[folder] for folder in images["folder"]]
    return [emotion_of(folder) for folder in images["folder"]]


def _question(options: Sequence[str]) -> str:
    return f"Is this person feeling {options[0]} or {options[1]}?"


def _replaced_by(options: Sequence[str], corrupt: str) -> str | None:
    """What the corrupt prompt offers; None for a pair of images alone."""
    if corrupt == _question(options):
        return None
    return "opposite valence" if are_opposite(options, corrupt) else "other emotions"


def pools(options: Sequence[str]) -> list[Pool]:
    """Emotion words that may replace the options: first those of the opposite valence; where none fits, any.

    Args:
        options: the two emotions, in the order in which the prompt has them

    Returns:
        two pools, the better one first; each holds the words for the first and for the second option
    """
    first, second = (
        [word for valence in OPPOSITE[VALENCE_OF[option]] for word in VALENCE[valence]] for option in options
    )
    return [(first, second), (list(VALENCE_OF), list(VALENCE_OF))]


def are_opposite(options: Sequence[str], corrupt: str) -> bool:
    """Whether each option was replaced, where it stood, by a word of an opposite valence.

    Args:
        options: the two emotions, in the order in which the clean prompt has them
        corrupt: the corrupt prompt
    """
    words = corrupt.removesuffix("?").split()
    return all(
        VALENCE_OF[word] in OPPOSITE[VALENCE_OF[option]]
        for option, word in zip(options, (words[-3], words[-1]), strict=True)
    )


DECLARED = (Task("facial_expressions", SOURCE, pairs=make_pairs, splits=("test", "train", "val")),)
