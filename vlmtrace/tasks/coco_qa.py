"""COCO-QA: questions about photographs, with an answer of one word.

They are open questions, for causal tracing. Pairs are made of them too: two images of which the same question has
different answers, "What is the color of the bus, red or blue?".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from vlmtrace.tasks.building.label_folders import labelled_pairs
from vlmtrace.tasks.building.question_files import draw_questions, read_questions, sentence
from vlmtrace.tasks.building.token_replacement import Replacer, mutual
from vlmtrace.tasks.declaration import Request, Source, Task

SOURCE = Source(
    "COCO-QA",
    url="https://www.cs.toronto.edu/~mren/research/imageqa/data/cocoqa",
    licence="see the source; the photographs are those of MS COCO, under the licences of their Flickr owners",
    citation="Ren, Kiros and Zemel (2015): Exploring Models and Data for Image Question Answering. NeurIPS",
    needs="a CSV of image_id, question, answer (or the published text files) and a folder of COCO's images",
)

KINDS = ("color", "count", "location")
SPLITS = ("test", "train")

#: The types that the published files number, and another word for one of them.
TYPES = {"0": "object", "1": "count", "2": "color", "3": "location", "number": "count"}

NUMBERS = tuple("one two three four five six seven eight nine ten eleven twelve".split())
SYNONYMS = mutual([("gray", "grey"), ("couch", "sofa"), ("bike", "bicycle"), ("street", "road"), ("sea", "ocean")])


def category_of(row: Mapping[str, Any]) -> str:
    """What a question asks for: color, count, location or object.

    Args:
        row: with the question and, where the files tell it, its type

    >>> category_of({"question": "how many dogs are there ?"}), category_of({"question": "what is it ?", "type": "2"})
    ('count', 'color')
    """
    given = TYPES.get(row.get("type", "").lower(), row.get("type", "").lower())
    if given:
        return given
    asked = row["question"].lower()
    if re.search(r"\bcolou?rs?\b", asked):
        return "color"
    if re.search(r"\bhow many\b", asked):
        return "count"
    return "location" if re.search(r"\bwhere\b", asked) else "object"


def _read(request: Request) -> pd.DataFrame:
    return read_questions(request, KINDS, category_of, SPLITS)


def make_questions(request: Request) -> pd.DataFrame:
    """Open questions.

    Args:
        request: its root holds the questions and images

    Returns:
        up to n rows of a questions table

    Raises:
        VlmtraceError: root holds no questions, or none can be used
    """
    return draw_questions(_read(request), request)


def make_pairs(request: Request) -> pd.DataFrame:
    """Pairs of images of which the same question has different answers.

    Every question is the clean one of at most one pair, and its image the corrupt one of at most one.

    Args:
        request: its root holds the questions and images

    Returns:
        up to n rows of a pairs table; the request's filters account for every question

    Raises:
        VlmtraceError: root holds no questions, or no pair can be made of them
    """
    table = _read(request)
    table = table.assign(text=[sentence(question) for question in table["question"]], label=table["answer"])
    # An image of which the question is asked twice, with two answers, shows both: it can stand on neither side.
    clear = table.groupby(["text", "path"])["answer"].transform("nunique") == 1
    table = request.filters.keep(
        "one answer for one image",
        table,
        [None if one else "the image has several answers" for one in clear],
        "questions",
    )
    answers = {str(category): sorted(part["answer"].unique()) for category, part in table.groupby("category")}
    answers["count"] = sorted({*answers.get("count", ()), *NUMBERS})
    return labelled_pairs(
        request,
        table.assign(kind=table["category"], group=table["text"]),
        replacer=Replacer(request.model, SYNONYMS),
        prompt=lambda row, options: f"{row['group']}, {options[0]} or {options[1]}?",
        pools=lambda row, _: [(answers[row["category"]],) * 2],
        unit="questions",
    )


DECLARED = (Task("coco_qa", SOURCE, pairs=make_pairs, questions=make_questions, question_kinds=KINDS, splits=SPLITS),)
