"""Tables of questions in the files in which data sets publish them.

A CSV; JSON (a list of questions, as CLEVR has it; questions and answers in two files, as VQA has them; a list of
records; or one record per line); or four text files with one line per question, as COCO-QA has them. In a folder that
an archive unpacks to, the table may lie in `questions/` or in a folder named as the split.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_columns, is_writable
from vlmtrace.core.unreadable import reading_as_sentences
from vlmtrace.tasks.building.csv_files import (
    CsvTable,
    csv_fault,
    encoding_of,
    find_csv,
    read_csv,
    several_tables,
    tables_in,
)

#: What files call the columns → what they are here; where a file has several names of one, the first of these counts.
COLUMN_NAMES = {
    "image_filename": "image_id",
    "file_name": "image_id",
    "filename": "image_id",
    "image_path": "image_id",
    "image": "image_id",
    "image_id": "image_id",
    "img_id": "image_id",
    "question": "question",
    "answer": "answer",
    "multiple_choice_answer": "answer",
    "type": "type",
    "category": "type",
    "kind": "type",
}
NEEDED_COLUMNS = ("image_id", "question", "answer")

#: The four text files, with one line per question.
TEXT_FILES = {"image_id": "img_ids.txt", "question": "questions.txt", "answer": "answers.txt", "type": "types.txt"}

JSON_ENDINGS = (".json", ".jsonl", ".ndjson")

#: So much of a JSON file is looked at to see whether it holds questions.
PEEK = 65_536


def find_table(root: Path, task: str, split: str, splits: Sequence[str]) -> Path:
    """Where the questions are.

    Args:
        root: a file, or a folder that holds one, or one in `questions/` or in a folder named as the split
        task: name of the data set, for sentences
        split: the one that is asked for
        splits: all that the data set has

    Returns:
        a file, or the folder of the text files

    Raises:
        VlmtraceError: there are no questions, there is no telling which are meant, or the folder may not be read
    """
    if root.is_file():
        return root
    with reading_as_sentences(root):
        inside = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    of_splits = {name: inside[name] for name in splits if name in inside and _tables(inside[name])}
    found = _tables(root) or _tables(inside.get("questions", root))
    if not found and of_splits:
        if split not in of_splits:
            raise _no_split(root, task, split, list(of_splits))
        found = _tables(of_splits[split])
    said = {path: _split_of(path) for path in found}
    fitting = [path for path in found if said[path] in (split, None)]
    if not fitting and any(name in splits for name in said.values()):
        raise _no_split(root, task, split, [str(name) for name in said.values()])
    found = fitting or found
    if len(found) > 1:
        raise several_tables(root, task, found)
    others = tables_in(root, JSON_ENDINGS)
    if not found and others and not tables_in(root):
        named = ", ".join(path.name for path in others[:3])
        raise VlmtraceError(
            f"{root} holds no questions for {task}: in {named} there is no record with {', '.join(NEEDED_COLUMNS)}."
        )
    # The sentence of the last says what is there.
    return found[0] if found else find_csv(root, NEEDED_COLUMNS, task, COLUMN_NAMES)


def _no_split(root: Path, task: str, split: str, there: Sequence[str]) -> VlmtraceError:
    return VlmtraceError(
        f"{root} holds no questions of the split {split!r} for {task}, but {', '.join(there)}: name one as split, or "
        "its file as root."
    )


def _split_of(path: Path) -> str | None:
    """The split that a file's name says: CLEVR_val_questions.json is that of val."""
    found = re.search(r"(?<![a-z])(train|val|test)(?![a-z])", path.name.lower()) if path.is_file() else None
    return found[1] if found else None


def _tables(folder: Path) -> list[Path]:
    """Tables of questions in a folder."""
    if (folder / TEXT_FILES["question"]).is_file():
        return [folder]
    found = [path for path in tables_in(folder, JSON_ENDINGS) if _holds_questions(path)]
    return found + [path for path in tables_in(folder) if csv_fault(path, NEEDED_COLUMNS, COLUMN_NAMES) is None]


def _holds_questions(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            start = file.read(PEEK)
    except OSError:
        return False
    text = start.decode(json.detect_encoding(start), "ignore")
    return re.search(r'"questions?"\s*:', text) is not None


def read_table(path: Path) -> CsvTable:
    """The questions of a file.

    Args:
        path: from `find_table`

    Returns:
        one row per question: row, image_id, question, answer and, if the file tells it, type

    Raises:
        VlmtraceError: the file holds no questions, lacks a column, or cannot be read
    """
    if path.is_dir():
        return _text_files(path)
    if path.suffix.lower() in JSON_ENDINGS:
        return _json_file(path)
    return read_csv(path, NEEDED_COLUMNS, known=("type",), names=COLUMN_NAMES)


def _text_files(root: Path) -> CsvTable:
    lines = {column: _lines(root / name) for column, name in TEXT_FILES.items() if (root / name).is_file()}
    missing = [TEXT_FILES[column] for column in NEEDED_COLUMNS if column not in lines]
    if missing:
        raise VlmtraceError(
            f"{root} lacks {' and '.join(missing)} beside {TEXT_FILES['question']}: get the files again."
        )
    counts = {TEXT_FILES[column]: len(found) for column, found in lines.items()}
    if len(set(counts.values())) != 1:
        said = ", ".join(f"{name} has {n}" for name, n in counts.items())
        raise VlmtraceError(f"The text files in {root} need one line per question each, but {said}: get them again.")
    table = pd.DataFrame({column: [line.strip() for line in found] for column, found in lines.items()}, dtype=str)
    return CsvTable(table, [f"line {i}" for i in range(1, len(table) + 1)], [None] * len(table))


def _lines(path: Path) -> list[str]:
    """The lines of a text file. Only line feeds end a line: a question may hold another separator of lines."""
    encoding = encoding_of(path)
    try:
        text = path.read_bytes().decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except (UnicodeDecodeError, OSError) as error:
        raise VlmtraceError(f"{path} cannot be read ({error}): save it as UTF-8.") from error
    return text.removesuffix("\n").split("\n")


def _load(path: Path) -> Any:
    """The content of a JSON file; one with a record per line is a list of them."""
    encoding_of(path)  # says what is no text
    try:
        content = path.read_bytes()
        try:
            return json.loads(content)  # in UTF-8, -16 or -32, with or without a byte order mark
        except json.JSONDecodeError:
            text = content.decode(json.detect_encoding(content))
            return [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError, OSError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise VlmtraceError(f"{path} is no readable JSON ({reason[:200]}): get or write it again.") from error


def _json_file(path: Path) -> CsvTable:
    content = _load(path)
    records = content
    if isinstance(content, dict):  # one record alone is a list of one
        records = content.get("questions", content.get("annotations", [content] if "question" in content else None))
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise VlmtraceError(
            f"{path} holds no list of questions: give a list of records with {', '.join(NEEDED_COLUMNS)}, CLEVR's file "
            "of questions, VQA's, or a CSV."
        )
    names = {name for record in records for name in record}
    if isinstance(content, dict) and "question_id" in names:
        records = _joined(path, records, names)
        names = {name for record in records for name in record}
    sources: dict[str, str] = {}
    for name, column in COLUMN_NAMES.items():
        if name in names:
            sources.setdefault(column, name)
    others = sorted(name for name in names - {*COLUMN_NAMES} if is_writable(name))
    check_columns(pd.DataFrame(columns=[*sources, *others]), NEEDED_COLUMNS, f"list {path.name}")
    rows, faults = [], []
    for record in records:
        cells, fault = {}, None
        for column, name in sources.items():
            value = record.get(name)
            if isinstance(value, float) and not math.isfinite(value):
                value = None  # how other programs write what is missing
            if isinstance(value, (list, dict)):
                fault = f"{name} is no text but {'a list' if isinstance(value, list) else 'a record'}"
            cells[column] = "" if value is None else str(value).strip()
            if not is_writable(cells[column]) or "\0" in cells[column]:
                fault = f"{name} holds a character that no file can hold: write it anew"
                cells[column] = ascii(cells[column])
        rows.append(cells)
        faults.append(fault)
    table = pd.DataFrame(rows, columns=list(sources), dtype=str)
    return CsvTable(table, [f"question {i}" for i in range(1, len(table) + 1)], faults)


def _joined(path: Path, records: list[dict[str, Any]], names: set[str]) -> list[dict[str, Any]]:
    """Questions with their answers, which VQA publishes in another file: the same question_id belongs together."""
    lacks_answer = not names & {name for name, column in COLUMN_NAMES.items() if column == "answer"}
    lacks_question = "question" not in names
    if not lacks_answer and not lacks_question:
        return records
    kind, key = ("answers", "annotations") if lacks_answer else ("questions", "questions")
    asked = {record.get("question_id") for record in records}
    for other in _beside(path, key):
        content = _load(other)
        found = content.get(key) if isinstance(content, dict) else None
        if not isinstance(found, list):
            continue
        by_id = {record["question_id"]: record for record in found if _has_id(record)}
        if asked & by_id.keys():
            return [{**by_id.get(record.get("question_id"), {}), **record} for record in records]
    raise VlmtraceError(
        f"{path} holds no {kind}: they are published in another file, of {key} with the same question_id; put it "
        "beside this one."
    )


def _has_id(record: Any) -> bool:
    return isinstance(record, dict) and isinstance(record.get("question_id"), (int, str))


def _beside(path: Path, key: str) -> list[Path]:
    """JSON files that may hold what a file lacks: those that are named so, the ones of the same split first."""

    def unlike(other: Path) -> int:
        return len(_words(path) ^ _words(other))

    found = [other for other in tables_in(path.parent, (".json",)) if other != path and key in other.name.lower()]
    return sorted(found, key=unlike)


def _words(path: Path) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", path.stem.lower()))
