"""CLEVR: questions about rendered scenes of solids; those that are answered by yes or no."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from vlmtrace.tasks.building.question_files import draw_questions, read_questions
from vlmtrace.tasks.declaration import Request, Source, Task

SOURCE = Source(
    "CLEVR",
    url="https://cs.stanford.edu/people/jcjohns/clevr",
    licence="CC BY 4.0",
    citation="Johnson et al. (2017): CLEVR: A Diagnostic Dataset for Compositional Language and Elementary "
    "Visual Reasoning. CVPR",
    needs="the unpacked archive (or a CSV of image_id, question, answer and a folder with the images)",
)

KINDS = ("yes/no",)

#: Those with answers; of the test split none are published.
SPLITS = ("val", "train")


def category_of(row: Mapping[str, Any]) -> str:
    """What a question asks for: yes/no, or something else.

    Args:
        row: with the answer

    >>> category_of({"answer": "yes"})
    'yes/no'
    """
    return "yes/no" if row["answer"] in ("yes", "no") else "something else than yes or no"


def make_questions(request: Request) -> pd.DataFrame:
    """Questions that are answered by yes or no.

    Args:
        request: its root holds the questions (a CSV, or the published JSON file) and the images

    Returns:
        up to n rows of a questions table, balanced over the two answers

    Raises:
        VlmtraceError: root holds no questions, or none can be used
    """
    return draw_questions(read_questions(request, KINDS, category_of, SPLITS), request)


DECLARED = (Task("clevr", SOURCE, questions=make_questions, question_kinds=KINDS, splits=SPLITS),)
