"""Questions about images, with an answer of one word, from the files in which data sets publish them.

A CSV, a JSON file with a list of questions (as CLEVR has it), or four text files with one line per question (as
COCO-QA has them); and a folder of images that the questions name by file name or by number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import relative
from vlmtrace.core.schema import check_columns
from vlmtrace.tasks.building.csv_files import find_csv, read_csv
from vlmtrace.tasks.building.image_files import image_files, image_problem
from vlmtrace.tasks.building.row_audit import refused
from vlmtrace.tasks.building.sampling import IMAGE, Rejected, digest, draw
from vlmtrace.tasks.declaration import Request

#: What files call the columns → what they are here.
COLUMN_NAMES = {
    "image_id": "image_id",
    "img_id": "image_id",
    "image": "image_id",
    "image_filename": "image_id",
    "question": "question",
    "answer": "answer",
    "type": "type",
    "category": "type",
    "kind": "type",
}
NEEDED_COLUMNS = ("image_id", "question", "answer")

#: The four text files, with one line per question.
TEXT_FILES = {"image_id": "img_ids.txt", "question": "questions.txt", "answer": "answers.txt", "type": "types.txt"}

ANSWERED, KIND, IMAGE_THERE = "question and answer are there", "kind of question is asked for", "image is there"

#: The category of a question, from its row: image_id, question, answer (in lower case) and, where known, type.
CategoryOf = Callable[[Mapping[str, Any]], str]


def read_questions(request: Request, kinds: Sequence[str], category_of: CategoryOf) -> pd.DataFrame:
    """All questions of a data set whose image is there.

    Args:
        request: its root is a CSV, a JSON file, or the folder that holds a CSV or the text files; images lie beside or
            below
        kinds: categories that are used; questions of others are set aside
        category_of: gives a question's category

    Returns:
        one row per question: row (its name), image_id, question, answer, category, path (of its image); the request's
        filters account for those that were set aside

    Raises:
        VlmtraceError: there is no table of questions in root, or it lacks a column
    """
    root, filters = request.root, request.filters
    if root.is_dir() and (root / TEXT_FILES["question"]).is_file():
        table = _text_files(root)
    elif root.suffix == ".json":
        table = _json_file(root)
    else:
        path = find_csv(root, NEEDED_COLUMNS, request.task, COLUMN_NAMES)
        table = read_csv(path).rename(columns=lambda name: COLUMN_NAMES.get(name.lower(), name))
        check_columns(table, NEEDED_COLUMNS, f"CSV {path.name}")
    table = table.assign(row=[f"row {i}" for i in range(2, len(table) + 2)])  # as a spreadsheet counts them
    empty = [
        next((f"{column} is empty" for column in NEEDED_COLUMNS if not row[column].strip()), None)
        for row in table.to_dict("records")
    ]
    table = filters.keep(ANSWERED, table, empty, "questions")
    table["answer"] = table["answer"].str.lower()
    table["category"] = [category_of(row) for row in table.to_dict("records")]
    known = [None if kind in kinds else f"it asks for {kind}" for kind in table["category"]]
    table = filters.keep(KIND, table, known, "questions")
    images = ImagesById(root.parent if root.is_file() else root)
    found = [images.find(image_id) for image_id in table["image_id"]]
    missing = [None if path else f"there is no image {i!r}" for i, path in zip(table["image_id"], found, strict=True)]
    return filters.keep(IMAGE_THERE, table.assign(path=found), missing, "questions")


def _text_files(root: Path) -> pd.DataFrame:
    lines = {
        column: (root / name).read_text(encoding="utf-8").splitlines()
        for column, name in TEXT_FILES.items()
        if (root / name).is_file()
    }
    counts = {TEXT_FILES[column]: len(found) for column, found in lines.items()}
    if len(set(counts.values())) != 1 or not set(NEEDED_COLUMNS) <= set(lines):
        said = ", ".join(f"{name} has {n}" for name, n in counts.items())
        raise VlmtraceError(f"The text files in {root} need one line per question each, but {said}: get them again.")
    return pd.DataFrame(lines, dtype=str).apply(lambda column: column.str.strip())


def _json_file(path: Path) -> pd.DataFrame:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        table = pd.DataFrame(content["questions"])
    except (ValueError, KeyError, TypeError) as error:
        raise VlmtraceError(f"{path} holds no list of questions: give CLEVR's file of questions, or a CSV.") from error
    table = table.rename(columns=lambda name: COLUMN_NAMES.get(name, name))
    check_columns(table, NEEDED_COLUMNS, f"list {path.name}")
    return table[list(NEEDED_COLUMNS)].astype(str)


class ImagesById:
    """The images below a folder, found by what questions call them.

    Args:
        folder: the images lie in it, or in folders below
    """

    def __init__(self, folder: Path):
        self._by_name: dict[str, Path] = {}
        self._by_number: dict[int, Path] = {}
        for path in image_files(folder):
            self._by_name[path.name] = self._by_name[path.stem] = path
            number = re.search(r"(\d+)$", path.stem)
            if number:
                self._by_number.setdefault(int(number[1]), path)

    def find(self, image_id: str) -> Path | None:
        """The file of this name, or whose name ends in this number: 139 is COCO_val2014_000000000139.jpg.

        Args:
            image_id: a file's name, with or without its ending, or a number
        """
        named = self._by_name.get(Path(image_id).name)
        return named or (self._by_number.get(int(image_id)) if image_id.isdecimal() else None)


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
