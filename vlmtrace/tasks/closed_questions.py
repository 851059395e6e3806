"""Closed questions of one's own, one row per image and question, answered by yes and no or by a letter.

POPE and AMBER ask for yes and no, MMVP for a letter.

Two rows that ask the same question about two images, and have unlike answers, are a minimal pair of images alone.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import relative
from vlmtrace.inputs.words import folded
from vlmtrace.tasks.building.csv_files import find_csv, read_csv
from vlmtrace.tasks.building.csv_pairs import correct_first
from vlmtrace.tasks.building.image_files import image_problem, same_picture
from vlmtrace.tasks.building.named_files import exact_file
from vlmtrace.tasks.building.row_audit import refused
from vlmtrace.tasks.building.sampling import IMAGE, Rejected, Row, digest, draw, pair_row
from vlmtrace.tasks.declaration import Request, Source, Task

SOURCE = Source(
    "your own table of closed questions",
    url="your own",
    licence="your own",
    citation="your own",
    needs="a CSV with the columns image, question and answer",
)

NEEDED_COLUMNS = ("image", "question", "answer")
FURTHER_COLUMNS = ("options", "pair", "category", "noun")

#: What published tables call these columns, in lower case.
NAMES = {
    "text": "question",  # POPE
    "query": "question",  # AMBER
    "label": "answer",  # POPE
    "truth": "answer",  # AMBER
    "correct_answer": "answer",  # MMVP
    "image_source": "image",
    "image_filename": "image",
    "file_name": "image",
    "type": "category",
}

#: The filters, in their order.
ROW = "row is complete"
CLEAR = "one answer for one image"
PARTNER = "another row asks the same and has another answer"


def pairs_of_closed_questions(request: Request) -> pd.DataFrame:
    """Pairs of rows that ask the same question about two images and have unlike answers.

    Args:
        request: its root is the CSV, or the folder that holds it; paths of images are relative to it

    Returns:
        up to n rows of a pairs table, pairs of images alone; half of the clean images show the first of two answers.
        The request's filters account for every row

    Raises:
        VlmtraceError: the file cannot be read, a column is missing, or no two rows make a pair
    """
    filters = request.filters
    root = find_csv(request.root, NEEDED_COLUMNS, request.task, NAMES, known=FURTHER_COLUMNS)
    read = read_csv(root, NEEDED_COLUMNS, known=FURTHER_COLUMNS, names=NAMES)
    table = read.table.assign(row=read.rows)
    for name in FURTHER_COLUMNS:
        if name not in table:
            table[name] = "all" if name == "category" else ""
    rows = table.to_dict("records")
    table = table.assign(said=[answer_of(row["answer"]) for row in rows], prompt=[_prompt(row) for row in rows])
    problems = [fault or _problem(row) for row, fault in zip(table.to_dict("records"), read.faults, strict=True)]
    table = filters.keep(ROW, table, problems, "rows")
    table["group"] = [_group(row) for row in table.to_dict("records")]
    # An image of which the question is asked twice, with two answers, shows both: it can stand on neither side.
    asked = [(group[1], Path(image.strip())) for group, image in zip(table["group"], table["image"], strict=True)]
    clear = table["said"].groupby(pd.Series(asked, index=table.index, dtype=object)).transform("nunique") == 1
    table = filters.keep(CLEAR, table, [None if one else "the image has several answers" for one in clear], "rows")
    couples = [couple for _, part in table.groupby("group", sort=False) for couple in _couples(part, request.seed)]
    paired = {row["row"] for couple in couples for row in couple}
    alone = [None if row["row"] in paired else _alone(row) for row in table.to_dict("records")]
    filters.keep(PARTNER, table, alone, "rows")
    if not couples:
        reasons = refused(filters) or "it has no row at all"
        raise VlmtraceError(
            f"{root} makes no pair ({reasons}): two rows must ask the same question about two images and have unlike "
            "answers."
        )
    candidates = pd.DataFrame([_candidate(couple, number) for number, couple in enumerate(couples)])

    def build(row: Row, first: bool, _: np.random.Generator) -> Row:
        files = [_image(root, name) for name in (row["image"], row["other_image"])]
        if same_picture(*files):
            raise Rejected(IMAGE, "both images are the same picture, and yet the answers are unlike")
        return pair_row(
            request.task,
            row,
            category=row["category"],
            images=(relative(files[0]), relative(files[1])),
            prompts=(row["prompt"], row["prompt"]),
            options=(row["correct_answer"], row["incorrect_answer"]),
            correct_first=first,
            **({"noun": row["noun"]} if row["noun"] else {}),
        )

    return draw(candidates, request.n, request.seed, build, filters, unit="pairs", steps=(IMAGE,))


def answer_of(text: str) -> str:
    """An answer as a model is asked for it: "yes", "no", or a letter; empty: it is none of these.

    Args:
        text: as a table has it

    >>> [answer_of(text) for text in ("Yes", "(b)", " no.", "B:", "maybe")]
    ['yes', 'b', 'no', 'b', '']
    """
    plain = text.strip().strip("().: ").lower()
    return plain if plain in ("yes", "no") or re.fullmatch("[a-h]", plain) else ""


def _prompt(row: Mapping[str, str]) -> str:
    """The question with its choices, where they stand in a column of their own."""
    question, options = row["question"].strip(), " ".join(row["options"].split())
    return f"{question} {options}" if options and options not in question else question


def _problem(row: Mapping[str, str]) -> str | None:
    for name in NEEDED_COLUMNS:
        if not row[name].strip():
            return f"{name} is empty"
    if not row["said"]:
        return f"the answer {row['answer'][:40]!r} is neither yes nor no nor a letter from a to h"
    if len(row["said"]) == 1 and not re.search(rf"(?i)\(?\b{row['said']}[).:]", row["prompt"]):
        return f"the question names no choice {row['said']!r}: write the choices as (a) … (b) …, there or in options"
    return None


def _group(row: Mapping[str, str]) -> tuple[str, str]:
    """What rows of one pair share: the pair that is named, or the question; and the question in any case."""
    return row["pair"].strip(), folded(" ".join(row["prompt"].split()))


def _couples(rows: pd.DataFrame, seed: int) -> Iterator[tuple[Row, Row]]:
    """Rows of one question in twos of unlike answers, each row once."""
    queues: dict[str, deque[Row]] = {}
    for row in sorted(rows.to_dict("records"), key=lambda one: digest(seed, one["row"])):
        queues.setdefault(row["said"], deque()).append(row)
    while len(queues) > 1:
        first, second = sorted(queues, key=lambda answer: (-len(queues[answer]), answer))[:2]
        yield queues[first].popleft(), queues[second].popleft()
        queues = {answer: queue for answer, queue in queues.items() if queue}


def _alone(row: Mapping[str, str]) -> str:
    where = f" of pair {row['pair'].strip()!r}" if row["pair"].strip() else ""
    return f"no other row{where} asks {row['prompt'][:60]!r} and has another answer than {row['said']!r}"


def _candidate(couple: Sequence[Row], number: int) -> Row:
    """A pair; the clean image shows the first of its two answers in every second one."""
    ordered = sorted(couple, key=lambda row: not correct_first(_as_answers(row, couple)))
    clean, other = ordered if number % 2 == 0 else ordered[::-1]
    answers = {"correct_answer": clean["said"], "incorrect_answer": other["said"]}
    return {
        "row": f"{clean['row']} and {other['row']}",
        "label": clean["said"],
        "category": clean["category"] or "all",
        "noun": clean["noun"],
        "prompt": clean["prompt"],
        "image": clean["image"],
        "other_image": other["image"],
        "correct_first": number % 2 == 0,
        **answers,
    }


def _as_answers(row: Row, couple: Sequence[Row]) -> dict[str, str]:
    other = next(one["said"] for one in couple if one["said"] != row["said"])
    # Letters stand in the prompt, perhaps as the article "a": their order is that of the alphabet.
    return {"clean_prompt": "", "correct_answer": row["said"], "incorrect_answer": other}


def _image(root: Path, name: str) -> Path:
    path = exact_file(root.parent, name)
    problem = "the image file is missing" if path is None else image_problem(path)
    if path is None or problem:
        raise Rejected(IMAGE, f"image {name}: {problem}")
    return path


DECLARED = (Task("closed_questions", SOURCE, kind="own", pairs=pairs_of_closed_questions),)
