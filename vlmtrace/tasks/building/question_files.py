"""Questions about images, with an answer of one word: those of a table whose image is there, and a sample of them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import relative
from vlmtrace.tasks.building.image_files import image_problem
from vlmtrace.tasks.building.named_files import NamedImages, NoFile
from vlmtrace.tasks.building.question_tables import NEEDED_COLUMNS, find_table, read_table
from vlmtrace.tasks.building.row_audit import refused
from vlmtrace.tasks.building.sampling import IMAGE, Rejected, digest, draw
from vlmtrace.tasks.building.unnamed_files import account_unnamed
from vlmtrace.tasks.declaration import Request

ANSWERED, KIND, IMAGE_THERE = "question and answer are there", "kind of question is asked for", "image is there"

#: The category of a question, from its row: image_id, question, answer (in lower case) and, where known, type.
CategoryOf = Callable[[Mapping[str, Any]], str]


def read_questions(
    request: Request, kinds: Sequence[str], category_of: CategoryOf, splits: Sequence[str]
) -> pd.DataFrame:
    """All questions of a data set whose image is there.

    Args:
        request: its root is a table of questions, or a folder that holds one (see `question_tables`); images lie beside
            it or below
        kinds: categories that are used; questions of others are set aside
        category_of: gives a question's category
        splits: those that the data set has

    Returns:
        one row per question: row (its name), image_id, question, answer, category, path (of its image); the request's
        filters account for those that were set aside

    Raises:
        VlmtraceError: there is no table of questions in root, or it lacks a column, or no image of it is there
    """
    filters = request.filters
    place = find_table(request.root, request.task, request.split, splits)
    read = read_table(place)
    table = read.table.assign(row=read.rows)
    images = NamedImages(place if place.is_dir() else place.parent, request.root if request.root.is_dir() else None)
    account_unnamed(filters, _files_of(images, table["image_id"]), images.folder)
    empty = [
        fault or next((f"{column} is empty" for column in NEEDED_COLUMNS if not row[column].strip()), None)
        for row, fault in zip(table.to_dict("records"), read.faults, strict=True)
    ]
    table = filters.keep(ANSWERED, table, empty, "questions")
    table["answer"] = table["answer"].str.lower()
    table["category"] = [category_of(row) for row in table.to_dict("records")]
    known = [None if kind in kinds else f"it asks for {kind}" for kind in table["category"]]
    table = filters.keep(KIND, table, known, "questions")
    found: list[Path | None] = []
    reasons: list[str | None] = []
    for name in table["image_id"]:
        try:
            found.append(images.find(name))
            reasons.append(None)
        except NoFile as reason:
            found.append(None)
            reasons.append(str(reason))
    if reasons and not any(found):
        raise VlmtraceError(
            f"No question in {place} has its image ({reasons[0]}; {len(images)} images lie in {images.where}): put "
            "the images beside the questions or into a folder images, under the names that the questions use."
        )
    return filters.keep(IMAGE_THERE, table.assign(path=found), reasons, "questions")


def _files_of(images: NamedImages, names: pd.Series) -> Iterator[Path]:
    """The files that questions name, whatever becomes of these questions."""
    for name in names.unique():
        with contextlib.suppress(NoFile):
            yield images.find(name)


def draw_questions(table: pd.DataFrame, request: Request) -> pd.DataFrame:
    """A balanced sample of questions without options.

    Args:
        table: from `read_questions`
        request: how many, from which seed, and of which kind

    Returns:
        up to n rows of a questions table: sample_id, task, category, image, prompt, answer

    Raises:
        VlmtraceError: no question can be used
    """
    task, filters = request.task, request.filters
    if request.kind is not None:
        table = table[table["category"] == request.kind].reset_index(drop=True)
    if table.empty:
        reason = refused(filters) or f"none is of {request.kind}"
        raise VlmtraceError(f"No question of {task} in {request.root} can be used: {reason}.")

    def build(row: dict[str, Any], _: bool, __: np.random.Generator) -> dict[str, Any]:
        problem = image_problem(row["path"])
        if problem:
            raise Rejected(IMAGE, problem)
        return {
            "sample_id": f"{task}-{digest(row['row'], row['image_id'], row['question'])}",
            "task": task,
            "category": row["category"],
            "image": relative(row["path"]),
            "prompt": sentence(row["question"]) + "?",
            "answer": row["answer"],
        }

    turns = table.assign(label=table["answer"])
    return draw(turns, request.n, request.seed, build, filters, unit="questions", steps=(IMAGE,))


def sentence(question: str) -> str:
    """A question as a sentence begins, without its mark.

    >>> sentence("what is the color of  the bus ?")
    'What is the color of the bus'
    """
    text = re.sub(r"\s+", " ", question).strip().rstrip("?. ")
    return text[:1].upper() + text[1:]
