"""COCO-QA and CLEVR: questions about images, with an answer of one word.

They are open questions, for causal tracing. From COCO-QA come pairs too: two images of which the same question has
different answers, "What is the color of the bus, red or blue?".
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import relative
from vlmtrace.core.schema import check_columns
from vlmtrace.tasks.building.csv_files import find_csv, read_csv
from vlmtrace.tasks.building.image_files import image_files, image_problem
from vlmtrace.tasks.building.label_folders import labelled_pairs
from vlmtrace.tasks.building.row_audit import Filters, refused
from vlmtrace.tasks.building.sampling import IMAGE, Rejected, digest, draw
from vlmtrace.tasks.building.token_replacement import CountTokens, Replacer, mutual
from vlmtrace.tasks.sources import SOURCES

TASK = "coco_qa"
SOURCE = SOURCES[TASK]

KINDS = {"coco_qa": ("color", "count", "location"), "clevr": ("yes/no",)}

#: What files call the columns → what they are here.
COLUMNS = {
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
NEEDED = ("image_id", "question", "answer")

#: The four published text files, a line a question, and the types that the last one numbers.
TEXT_FILES = {"image_id": "img_ids.txt", "question": "questions.txt", "answer": "answers.txt", "type": "types.txt"}
TYPES = {"0": "object", "1": "count", "2": "color", "3": "location", "number": "count"}

NUMBERS = tuple("one two three four five six seven eight nine ten eleven twelve".split())
SYNONYMS = mutual([("gray", "grey"), ("couch", "sofa"), ("bike", "bicycle"), ("street", "road"), ("sea", "ocean")])

ANSWERED, KIND = "question and answer are there", "kind of question is asked for"


# Reading -----------------------------------------------------------------------------------------------------------


def read_questions(root: Path, task: str, filters: Filters) -> pd.DataFrame:
    """All questions: row, image_id, question, answer, category.

    Raises:
        VlmtraceError: there is no table of questions in root, or it lacks a column
    """
    if root.is_dir() and (root / TEXT_FILES["question"]).is_file():
        table = _text_files(root)
    elif root.suffix == ".json":
        table = _json_file(root)
    else:
        path = find_csv(root, NEEDED, task, COLUMNS)
        table = read_csv(path).rename(columns=lambda name: COLUMNS.get(name.lower(), name))
        check_columns(table, NEEDED, f"CSV {path.name}")
    table = table.assign(row=[f"row {i}" for i in range(2, len(table) + 2)])  # as a spreadsheet counts them
    empty = [
        next((f"{column} is empty" for column in NEEDED if not row[column].strip()), None)
        for row in table.to_dict("records")
    ]
    table = filters.keep(ANSWERED, table, empty, "questions")
    table["answer"] = table["answer"].str.lower()
    table["category"] = [_category(row, task) for row in table.to_dict("records")]
    known = [None if kind in KINDS[task] else f"it asks for {kind}" for kind in table["category"]]
    return filters.keep(KIND, table, known, "questions")


def _text_files(root: Path) -> pd.DataFrame:
    lines = {
        column: (root / name).read_text(encoding="utf-8").splitlines()
        for column, name in TEXT_FILES.items()
        if (root / name).is_file()
    }
    counts = {TEXT_FILES[column]: len(found) for column, found in lines.items()}
    if len(set(counts.values())) != 1 or not set(NEEDED) <= set(lines):
        said = ", ".join(f"{name} has {n}" for name, n in counts.items())
        raise VlmtraceError(f"The text files in {root} need one line a question each, but {said}: get them again.")
    return pd.DataFrame(lines, dtype=str).apply(lambda column: column.str.strip())


def _json_file(path: Path) -> pd.DataFrame:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        table = pd.DataFrame(content["questions"])
    except (ValueError, KeyError, TypeError) as error:
        raise VlmtraceError(f"{path} holds no list of questions: give CLEVR's file of questions, or a CSV.") from error
    table = table.rename(columns=lambda name: COLUMNS.get(name, name))
    check_columns(table, NEEDED, f"list {path.name}")
    return table[list(NEEDED)].astype(str)


def _category(row: dict[str, Any], task: str) -> str:
    if task == "clevr":
        return "yes/no" if row["answer"] in ("yes", "no") else "something else than yes or no"
    given = TYPES.get(row.get("type", "").lower(), row.get("type", "").lower())
    if given:
        return given
    asked = row["question"].lower()
    if re.search(r"\bcolou?rs?\b", asked):
        return "color"
    if re.search(r"\bhow many\b", asked):
        return "count"
    return "location" if re.search(r"\bwhere\b", asked) else "object"


class Images:
    """The images below a folder by the ids that questions call them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.by_name: dict[str, Path] = {}
        self.by_number: dict[int, Path] = {}
        for path in image_files(folder):
            self.by_name[path.name] = self.by_name[path.stem] = path
            number = re.search(r"(\d+)$", path.stem)
            if number:
                self.by_number.setdefault(int(number[1]), path)

    def find(self, image_id: str) -> Path | None:
        """A file of this name, or whose name ends in this number: 139 is COCO_val2014_000000000139.jpg."""
        named = self.by_name.get(Path(image_id).name)
        return named or (self.by_number.get(int(image_id)) if image_id.isdecimal() else None)


def _folder_of(root: Path) -> Path:
    """The folder below which the images are: that of the table."""
    return root.parent if root.is_file() else root


def _with_images(table: pd.DataFrame, root: Path, filters: Filters) -> pd.DataFrame:
    images = Images(_folder_of(root))
    found = [images.find(image_id) for image_id in table["image_id"]]
    missing = [None if path else f"there is no image {i!r}" for i, path in zip(table["image_id"], found, strict=True)]
    return filters.keep("image is there", table.assign(path=found), missing, "questions")


# Questions ---------------------------------------------------------------------------------------------------------


def questions(task: str, root: Path, n: int, seed: int, kind: str | None, filters: Filters) -> pd.DataFrame:
    """Up to n questions without options: sample_id, task, category, image, prompt, answer.

    Raises:
        VlmtraceError: root holds no questions, or none can be used
    """
    table = _with_images(read_questions(root, task, filters), root, filters)
    if kind is not None:
        table = table[table["category"] == kind].reset_index(drop=True)
    if table.empty:
        raise VlmtraceError(f"No question of {task} in {root} can be used: {refused(filters) or f'none is of {kind}'}.")

    def build(row: dict[str, Any], _: bool, __: np.random.Generator) -> dict[str, Any]:
        problem = image_problem(row["path"])
        if problem:
            raise Rejected(IMAGE, problem)
        return {
            "sample_id": f"{task}-{digest(row['row'], row['image_id'], row['question'])}",
            "task": task,
            "category": row["category"],
            "image": relative(row["path"]),
            "prompt": _asked(row["question"]) + "?",
            "answer": row["answer"],
        }

    turns = table.assign(label=table["answer"])
    return draw(turns, n, seed, build, filters, unit="questions", steps=(IMAGE,))


def _asked(question: str) -> str:
    """A question as a sentence begins, without its mark."""
    text = re.sub(r"\s+", " ", question).strip().rstrip("?. ")
    return text[:1].upper() + text[1:]


# Pairs -------------------------------------------------------------------------------------------------------------


def prepare(root: Path, n: int, seed: int, model: Any | CountTokens | None, filters: Filters) -> pd.DataFrame:
    """Up to n pairs of images of which the same question has different answers.

    Every question is the clean one of at most one pair, and its image the corrupt one of at most one.

    Raises:
        VlmtraceError: root holds no questions, or no pair comes of them
    """
    table = _with_images(read_questions(root, TASK, filters), root, filters)
    table = table.assign(text=[_asked(question) for question in table["question"]], label=table["answer"])
    # An image of which the question is asked twice, with two answers, shows both: it can stand on neither side.
    clear = table.groupby(["text", "path"])["answer"].transform("nunique") == 1
    table = filters.keep(
        "one answer for one image",
        table,
        [None if one else "the image has several answers" for one in clear],
        "questions",
    )
    answers = {str(category): sorted(part["answer"].unique()) for category, part in table.groupby("category")}
    answers["count"] = sorted({*answers.get("count", ()), *NUMBERS})
    return labelled_pairs(
        TASK,
        table.assign(kind=table["category"], group=table["text"]),
        filters,
        n=n,
        seed=seed,
        replacer=Replacer(model, SYNONYMS),
        prompt=lambda row, options: f"{row['group']}, {options[0]} or {options[1]}?",
        pools=lambda row, _: [(answers[row["category"]],) * 2],
        unit="questions",
    )
