"""The bundled world: scenes drawn from a seed, in true minimal pairs.

canvas      draws, and remembers which part of the scene every pixel shows
states      two things, each with a color, a shape and a texture
faces       a face with an emotion, something beside it
svo, props  somebody doing something with something, before some scenery
questions   what can be asked about a scene, and what is true of it
options     both options of a pair, and the words that replace them, for the tokenizer in use
pairs       minimal pairs as a table with images and masks; open questions likewise
several     minimal pairs of questions about two pictures
absent      minimal pairs of questions about something that is not there
poses       verb pairs that differ in some parts of the pose only
usual       minimal pairs of questions for what is shown and for what is usual
words       the vocabulary, the options, the combinations that are kept out of training
"""

from __future__ import annotations

import pandas as pd

from vlmtrace.tasks.declaration import Request, Source, Task
from vlmtrace.tasks.rendered.absent import ABSENT
from vlmtrace.tasks.rendered.absent import load as load_absent
from vlmtrace.tasks.rendered.pairs import OPEN, OPEN_KINDS, SPLITS, load, open_questions
from vlmtrace.tasks.rendered.several import PICTURES
from vlmtrace.tasks.rendered.several import load as load_pictures
from vlmtrace.tasks.rendered.usual import USUAL
from vlmtrace.tasks.rendered.usual import load as load_usual
from vlmtrace.tasks.rendered.words import OPTIONS, SYNONYMS, TASKS

__all__ = [
    "ABSENT",
    "DECLARED",
    "OPEN",
    "OPTIONS",
    "PICTURES",
    "SPLITS",
    "SYNONYMS",
    "TASKS",
    "USUAL",
    "load",
    "open_questions",
]

SOURCE = Source(
    "the rendered world of vlmtrace",
    url="vlmtrace/tasks/rendered",
    licence="MIT, as vlmtrace",
    citation="see CITATION.cff",
)


def make_pairs(request: Request) -> pd.DataFrame:
    """Rendered minimal pairs.

    Args:
        request: its task is one of `TASKS`

    Returns:
        n rows of a pairs table, with masks (see `load`)
    """
    request.filters.add("rendered", request.n, {}, "pairs")
    return load(request.task, request.n, request.seed, request.split, request.model)


def make_pictures(request: Request) -> pd.DataFrame:
    """Rendered minimal pairs of questions about two pictures.

    Args:
        request: how many, from which seed and of which split

    Returns:
        n rows of a pairs table, with lists of images and masks (see `vlmtrace.tasks.rendered.several.load`)
    """
    request.filters.add("rendered", request.n, {}, "pairs")
    return load_pictures(request.n, request.seed, request.split, request.model)


def make_absent(request: Request) -> pd.DataFrame:
    """Rendered minimal pairs of questions about something that is not there.

    Args:
        request: how many, from which seed and of which split

    Returns:
        n rows of a pairs table, with masks (see `vlmtrace.tasks.rendered.absent.load`)
    """
    request.filters.add("rendered", request.n, {}, "pairs")
    return load_absent(request.n, request.seed, request.split)


def make_usual(request: Request) -> pd.DataFrame:
    """Rendered minimal pairs of questions for what is shown and for what is usual.

    Args:
        request: how many, from which seed and of which split

    Returns:
        n rows of a pairs table, with masks (see `vlmtrace.tasks.rendered.usual.load`)
    """
    request.filters.add("rendered", request.n, {}, "pairs")
    return load_usual(request.n, request.seed, request.split)


def make_questions(request: Request) -> pd.DataFrame:
    """Rendered scenes with a question without options.

    Args:
        request: how many, from which seed, and of which kind

    Returns:
        n rows of a questions table, with masks and sentences (see `open_questions`)
    """
    return open_questions(request.n, request.seed, request.kind)


DECLARED = (
    *(
        Task(name, SOURCE, kind="rendered", pairs=make_pairs, needs_root=False, splits=("test", "train"))
        for name in TASKS
    ),
    Task(PICTURES, SOURCE, kind="rendered", pairs=make_pictures, needs_root=False, splits=("test", "train")),
    Task(ABSENT, SOURCE, kind="rendered", pairs=make_absent, needs_root=False, splits=("test", "train")),
    Task(USUAL, SOURCE, kind="rendered", pairs=make_usual, needs_root=False, splits=("test", "train")),
    Task(OPEN, SOURCE, kind="rendered", questions=make_questions, question_kinds=OPEN_KINDS, needs_root=False),
)
