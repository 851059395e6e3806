"""Your own data: a CSV with the columns of a pairs table, or images in folders by label and a question about them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import relative, resolve
from vlmtrace.core.schema import check_columns, validate_questions
from vlmtrace.inputs.words import find_word
from vlmtrace.tasks.building.csv_files import find_csv, read_csv
from vlmtrace.tasks.building.folder_layouts import images_below, label_place
from vlmtrace.tasks.building.image_files import image_problem
from vlmtrace.tasks.building.label_folders import NAMED, labelled_pairs
from vlmtrace.tasks.building.sampling import IMAGE, PROMPT, Rejected, draw, pair_row
from vlmtrace.tasks.building.token_replacement import Replacer
from vlmtrace.tasks.declaration import Request, Source, Task

CSV = Source(
    "your own table of pairs",
    url="your own",
    licence="your own",
    citation="your own",
    needs="a CSV with the columns of a pairs table",
)
FOLDER = Source(
    "your own images in folders by label",
    url="your own",
    licence="your own",
    citation="your own",
    needs="a folder of images for each label",
)

#: What a row of one's own CSV must say; everything else of a pair follows from it, unless it stands there too.
NEEDED_COLUMNS = ("clean_image", "corrupt_image", "clean_prompt", "correct_answer", "incorrect_answer")
ROW = "row is complete"

#: Beside the folders of labels or the CSV: further words, one per line, that may replace options in corrupt prompts.
WORDS = "words.txt"

QUESTION = "Is this {a} or {b}?"


@checked
def one_question(image: str | Path, prompt: str) -> pd.DataFrame:
    """A questions table of one row: your own image, and a question without options.

    Args:
        image: path of the image, relative to the repository or absolute
        prompt: the question

    Returns:
        one row: sample_id (the image's file name without its ending), task and category ("own"), image, prompt

    Raises:
        VlmtraceError: the image cannot be read, or the question is empty

    Example:
        >>> import vlmtrace as vt
        >>> image = vt.load_questions("rendered_open", n=1)["image"].iloc[0]
        >>> vt.one_question(image, "What color is the square?")["prompt"].tolist()
        ['What color is the square?']
    """
    problem = image_problem(resolve(image))
    if problem:
        raise VlmtraceError(f"The image {image} cannot be used: {problem}. Give another file.")
    row = {"sample_id": Path(image).stem, "task": "own", "category": "own", "image": str(image), "prompt": prompt}
    return validate_questions(pd.DataFrame([row]))


# A table -----------------------------------------------------------------------------------------------------------


def pairs_of_csv(request: Request) -> pd.DataFrame:
    """Pairs that a CSV lists.

    Paths of images are relative to the CSV. Where they are missing, sample_id, category and correct_first are filled
    in, and the corrupt prompt is made from the answers that other rows of the category name.

    Args:
        request: its root is the CSV, or the folder that holds it

    Returns:
        up to n rows of a pairs table, with the CSV's further columns; the request's filters account for every row

    Raises:
        VlmtraceError: the file cannot be read, a column is missing, or a sample_id stands twice
    """
    model, filters = request.model, request.filters
    root = find_csv(request.root, NEEDED_COLUMNS, request.task)
    table = read_csv(root)
    check_columns(table, NEEDED_COLUMNS, f"CSV {root.name}")
    if "sample_id" in table and table["sample_id"].duplicated().any():
        repeated = table["sample_id"][table["sample_id"].duplicated()].iloc[0]
        raise VlmtraceError(f"{root} holds sample_id {repeated!r} more than once: give every row its own.")
    table = table.assign(row=[f"row {i}" for i in range(2, len(table) + 2)])  # as a spreadsheet counts them
    if "category" not in table:
        table["category"] = "all"
    table = filters.keep(ROW, table, [_row_problem(row) for row in table.to_dict("records")], "rows")
    if table.empty:
        raise VlmtraceError(f"{root} has no complete row: look at the columns {', '.join(NEEDED_COLUMNS)}.")
    answers = {
        category: sorted({*part["correct_answer"], *part["incorrect_answer"]}) + _words_beside(root.parent)
        for category, part in table.groupby("category")
    }
    table = table.assign(
        label=table["correct_answer"], correct_first=[_is_first(row) for row in table.to_dict("records")]
    )
    replacer = Replacer(model)

    def build(row: dict[str, Any], correct_first: bool, generator: np.random.Generator) -> dict[str, Any]:
        images = []
        for column in ("clean_image", "corrupt_image"):
            path = root.parent / row[column]
            problem = image_problem(path)
            if problem:
                raise Rejected(IMAGE, f"{column}: {problem}")
            images.append(relative(path))
        options = row["correct_answer"], row["incorrect_answer"]
        corrupt = row.get("corrupt_prompt") or ""
        if not corrupt.strip():
            ordered = options if correct_first else options[::-1]
            try:
                corrupt = replacer(row["clean_prompt"], ordered, [(answers[row["category"]],) * 2], generator)
            except VlmtraceError as error:
                raise Rejected(PROMPT, str(error)) from error
        elif replacer.count(corrupt) != replacer.count(row["clean_prompt"]) and model is not None:
            raise Rejected(PROMPT, "clean_prompt and corrupt_prompt have unlike numbers of tokens")
        pair = pair_row(
            request.task,
            row,
            category=row["category"],
            images=(images[0], images[1]),
            prompts=(row["clean_prompt"], corrupt),
            options=options,
            correct_first=correct_first,
        )
        own = {name: value for name, value in row.items() if name not in {*pair, "label", "row"} and value != ""}
        masks = {name: relative(root.parent / path) for name, path in own.items() if name.endswith("_mask")}
        return pair | own | masks | ({"sample_id": row["sample_id"]} if row.get("sample_id") else {})

    return draw(table, request.n, request.seed, build, filters, unit="rows")


def _row_problem(row: dict[str, Any]) -> str | None:
    empty = [column for column in (*NEEDED_COLUMNS, "category") if not row[column].strip()]
    if empty:
        return f"{empty[0]} is empty"
    if row["correct_answer"] == row["incorrect_answer"]:
        return "both answers are the same"
    missing = [name for name in ("correct_answer", "incorrect_answer") if not find_word(row["clean_prompt"], row[name])]
    if missing:
        return f"the {missing[0]} does not stand in clean_prompt"
    return None


def _is_first(row: dict[str, Any]) -> bool:
    spans = [find_word(row["clean_prompt"], row[name])[0] for name in ("correct_answer", "incorrect_answer")]
    return spans[0] < spans[1]


# Folders -----------------------------------------------------------------------------------------------------------


def pairs_of_folders(request: Request) -> pd.DataFrame:
    """Pairs from images in folders, each folder named by what its images show.

    Args:
        request: its root holds the folders, or folders of splits that do, or one folder that holds either; in its
            question {a} and {b} stand for the two options

    Returns:
        up to n rows of a pairs table; the request's filters account for every file

    Raises:
        VlmtraceError: the question lacks {a} or {b}, the folders hold no images, or there is no such split
    """
    question, root = request.question or QUESTION, request.root
    if sorted(re.findall(r"\{(.*?)\}", question)) != ["a", "b"]:
        raise VlmtraceError(f"The question {question!r} must hold {{a}} and {{b}} once each: e.g. {QUESTION!r}.")
    images = images_below(request, apart=(WORDS,))
    labels = _labels_of(images["folder"])
    images = images.assign(label=labels, category=labels, kind="label", group="")
    nameless = [
        None if label else f"the folder {f!r} is named by no word"
        for label, f in zip(labels, images["folder"], strict=True)
    ]
    images = request.filters.keep(NAMED, images, nameless, "images")
    places = dict.fromkeys((label_place(request), root))
    words = [*sorted(images["label"].unique()), *(word for place in places for word in _words_beside(place))]

    def prompt(_: dict[str, Any], options: Sequence[str]) -> str:
        return question.replace("{a}", options[0]).replace("{b}", options[1])

    return labelled_pairs(
        request,
        images,
        replacer=Replacer(request.model),
        prompt=prompt,
        pools=lambda *_: [(words, words)],
    )


def _labels_of(folders: pd.Series) -> pd.Series:
    """Labels by names of folders; names that differ in case, blanks or underscores alone are one label."""
    labels = folders.str.replace("_", " ").str.split().str.join(" ").astype(str)
    spelling: dict[str, str] = {}
    for label in labels.value_counts(sort=False).sort_index().sort_values(ascending=False, kind="stable").index:
        spelling.setdefault(label.casefold(), label)
    return labels.map(lambda label: spelling[label.casefold()])


def _words_beside(folder: Path) -> list[str]:
    path = folder / WORDS
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else []
    except ValueError as error:  # of the encoding
        raise VlmtraceError(f"{path} is not in UTF-8: save it as UTF-8, one word per line.") from error
    return [line.strip() for line in lines if line.strip()]


DECLARED = (
    Task("csv", CSV, kind="own", pairs=pairs_of_csv),
    Task("folder", FOLDER, kind="own", pairs=pairs_of_folders, splits=("test", "train", "val"), takes_question=True),
)
