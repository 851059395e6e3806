"""Pairs that a CSV lists: what its rows leave out is filled in, and what they say is kept.

A row's options may stand in its prompt ("red or blue?"); then the corrupt prompt is made by replacing them. Or they do
not: yes and no, or the letters of choices that the image shows. Such a pair has no text corruption; it is one of images
alone, and its corrupt prompt is the clean one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vlmtrace.core.caller import warn
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import relative
from vlmtrace.core.schema import IMAGE_LISTS, MASK_LISTS, TABLES, list_problem
from vlmtrace.inputs.pair_rows import row_problem
from vlmtrace.inputs.words import find_word
from vlmtrace.tasks.building.csv_files import find_csv, read_csv
from vlmtrace.tasks.building.csv_row_files import RowFiles, files_of, split_list, with_single_images
from vlmtrace.tasks.building.image_files import same_picture
from vlmtrace.tasks.building.row_audit import refused
from vlmtrace.tasks.building.sampling import IMAGE, Rejected, Row, draw, pair_row
from vlmtrace.tasks.building.token_replacement import Replacer, words_beside
from vlmtrace.tasks.building.unnamed_files import account_unnamed
from vlmtrace.tasks.declaration import Request

#: What a row of one's own CSV must say; everything else of a pair follows from it, unless it stands there too.
NEEDED_COLUMNS = ("clean_image", "corrupt_image", "clean_prompt", "correct_answer", "incorrect_answer")
ROW = "row is complete"

#: Answers that are not options of their prompt ("Is there no cat?"), in the order in which one says them.
CLOSED = (("yes", "no"), ("true", "false"))

TRUTH = {"true": True, "1": True, "1.0": True, "yes": True, "false": False, "0": False, "0.0": False, "no": False}

#: Columns that the draw adds to a row, and that a CSV may have for itself.
RESERVED = ("row", "label")


def pairs_of_csv(request: Request) -> pd.DataFrame:
    """Pairs that a CSV lists.

    Paths of images are relative to the CSV; where a prompt asks about several, `clean_images` and `corrupt_images` list
    them with semicolons between. Where they are missing, sample_id, category and correct_first are filled
    in, and the corrupt prompt is made from the answers that other rows of the category name; where the options do not
    stand in the prompt, it is the clean prompt: a pair of images alone.

    Args:
        request: its root is the CSV, or the folder that holds it

    Returns:
        up to n rows of a pairs table, with the CSV's further columns; the request's filters account for every row

    Raises:
        VlmtraceError: the file cannot be read, a column is missing, no row can be used, or a sample_id stands twice
    """
    filters = request.filters
    known = [column.name for column in TABLES["pairs"].columns]
    root = find_csv(request.root, NEEDED_COLUMNS, request.task, instead=IMAGE_LISTS, known=known)
    read = read_csv(root, NEEDED_COLUMNS, known=known, instead=IMAGE_LISTS)
    table = read.table.rename(columns={name: f"{name} " for name in RESERVED}).assign(row=read.rows)
    table = table.assign(**{name: "" for name in NEEDED_COLUMNS if name not in table})
    account_unnamed(filters, files_of(table, root.parent), root.parent)
    if "sample_id" in table:
        given = table["sample_id"][table["sample_id"] != ""]
        if given.duplicated().any():
            repeated = given[given.duplicated()].iloc[0]
            raise VlmtraceError(f"{root} holds sample_id {repeated!r} more than once: give every row its own.")
    if "category" not in table:
        table["category"] = "all"
    if any(name in table for name in IMAGE_LISTS.values()):
        rows = [with_single_images(row) for row in table.to_dict("records")]
        table = pd.DataFrame(rows, index=table.index, columns=table.columns)
    problems = [fault or _problem(row) for row, fault in zip(table.to_dict("records"), read.faults, strict=True)]
    table = filters.keep(ROW, table, problems, "rows")
    if table.empty:
        reasons, needed = refused(filters) or "it has none at all", ", ".join(NEEDED_COLUMNS)
        raise VlmtraceError(f"{root} has no complete row ({reasons}): each row needs {needed}.")
    _warn_of_options(table, root)
    words = words_beside(root.parent)
    answers = {
        category: sorted({*part["correct_answer"], *part["incorrect_answer"]}) + words
        for category, part in table.groupby("category")
    }
    table = table.assign(
        label=table["correct_answer"], correct_first=[correct_first(row) for row in table.to_dict("records")]
    )
    replacer = Replacer(request.model)
    of_images: dict[str, str] = {}  # by row that becomes a pair of images alone, why

    def build(row: Row, first: bool, generator: np.random.Generator) -> Row:
        files = RowFiles(root.parent, row)
        options = row["correct_answer"], row["incorrect_answer"]
        ordered = options if first else options[::-1]
        corrupt, problem = _corrupt_prompt(row, ordered, replacer, answers[row["category"]], generator)
        if corrupt == row["clean_prompt"] and same_picture(files.single["clean_image"], files.single["corrupt_image"]):
            raise Rejected(IMAGE, "both images are the same, and so are both prompts: nothing is corrupted")
        pair = pair_row(
            request.task,
            row,
            category=row["category"],
            images=(relative(files.single["clean_image"]), relative(files.single["corrupt_image"])),
            prompts=(row["clean_prompt"], corrupt),
            options=options,
            correct_first=first,
        )
        own = {name: value for name, value in row.items() if name not in {*pair, *RESERVED} and value != ""}
        listed = {*IMAGE_LISTS.values(), *MASK_LISTS.values()}
        kept = {name.removesuffix(" "): value for name, value in own.items() if name not in listed}
        further: Row = kept | files.lists() | files.masks(own)
        if problem:
            of_images[row["row"]] = problem
        return pair | further | ({"sample_id": row["sample_id"]} if row.get("sample_id") else {})

    return draw(table, request.n, request.seed, build, filters, unit="rows", of_images=of_images)


def _warn_of_options(table: pd.DataFrame, root: Path) -> None:
    """Say which rows have no text corruption though their answers are words: their options may be misspelled."""
    rows = [
        row
        for row in table.to_dict("records")
        if not row.get("corrupt_prompt") and not options_stand_in(row) and not _closed(row) and not _letters(row)
    ]
    if rows:
        one = rows[0]
        warn(
            f"{len(rows)} of {len(table)} rows of {root.name} have options that do not stand in their clean_prompt "
            f"(e.g. {one['row']}: {one['correct_answer']!r} or {one['incorrect_answer']!r} in {one['clean_prompt']!r}"
            "): they are pairs of images alone, without text corruption."
        )


def _corrupt_prompt(
    row: Row, ordered: Sequence[str], replacer: Replacer, answers: Sequence[str], generator: np.random.Generator
) -> tuple[str, str]:
    """The corrupt prompt, or the clean one where there is none; and why one that was wanted cannot be used."""
    clean, given = row["clean_prompt"], (row.get("corrupt_prompt") or "").strip()
    if given:
        if replacer.model_is_given and replacer.count(given) != replacer.count(clean):
            return str(clean), "clean_prompt and corrupt_prompt have unlike numbers of tokens"
        return given, ""
    if not options_stand_in(row):
        return str(clean), ""
    try:
        return replacer(clean, ordered, [(answers, answers)], generator), ""
    except VlmtraceError as error:
        return str(clean), "" if _closed(row) or _letters(row) else str(error)


def _problem(row: Mapping[str, str]) -> str | None:
    lists: dict[str, list[str]] = {name: split_list(row.get(name, "")) for name in IMAGE_LISTS.values()}
    n_images = max(1, *map(len, lists.values()))
    lists |= {name: split_list(row.get(name, ""), n_images) for name in MASK_LISTS.values()}
    problem = list_problem({**row, **lists}) or row_problem(row)
    if problem:
        return problem
    names = ("correct_answer", "incorrect_answer")
    missing = [name for name in names if not find_word(row["clean_prompt"], row[name])]
    if len(missing) == 1 and not row.get("corrupt_prompt") and not _closed(row) and not _letters(row):
        return f"the {missing[0]} does not stand in clean_prompt, but the other one does"
    told = row.get("correct_first", "")
    if told and told.lower() not in TRUTH:
        return f"correct_first is {told!r}: write true or false, or leave it empty"
    if told and options_stand_in(row) and TRUTH[told.lower()] != _order_in_prompt(row):
        return f"correct_first is {told!r}, but in clean_prompt the options stand the other way round"
    return None


def _closed(row: Mapping[str, str]) -> tuple[str, str] | None:
    """The words of a question that is answered by one of two, whatever its own words."""
    said = {row[name].lower() for name in ("correct_answer", "incorrect_answer")}
    return next((words for words in CLOSED if set(words) == said), None)


def _letters(row: Mapping[str, str]) -> bool:
    """Whether the answers are the letters or numbers of choices."""
    return all(len(row[name]) == 1 and row[name].isalnum() for name in ("correct_answer", "incorrect_answer"))


def options_stand_in(row: Mapping[str, str]) -> bool:
    """Whether a prompt names both of its options, so that they can be replaced.

    Args:
        row: with clean_prompt and both answers

    >>> options_stand_in({"clean_prompt": "Is there no cat?", "correct_answer": "yes", "incorrect_answer": "no"})
    False
    """
    return all(find_word(row["clean_prompt"], row[name]) for name in ("correct_answer", "incorrect_answer"))


def correct_first(row: Mapping[str, str]) -> bool:
    """Whether the correct option stands first.

    Where options do not stand in the prompt, the order is that in which one says them: yes before no, true before
    false, otherwise that of the alphabet. So a sample that is balanced over this column is balanced over the answers.

    Args:
        row: with clean_prompt, both answers and perhaps correct_first, which is followed where the prompt does not say

    >>> correct_first({"clean_prompt": "Is it a cat?", "correct_answer": "no", "incorrect_answer": "yes"})
    False
    """
    if options_stand_in(row):
        return _order_in_prompt(row)
    told = row.get("correct_first", "").lower()
    if told in TRUTH:
        return TRUTH[told]
    correct, incorrect = (row[name].lower() for name in ("correct_answer", "incorrect_answer"))
    closed = _closed(row)
    return correct == closed[0] if closed else correct < incorrect


def _order_in_prompt(row: Mapping[str, str]) -> bool:
    return _place(row["clean_prompt"], row["correct_answer"]) < _place(row["clean_prompt"], row["incorrect_answer"])


def _place(prompt: str, option: str) -> int:
    """Where an option stands: as it is written, if it does so ("A" is not the article), otherwise in any case."""
    spans = find_word(prompt, option)
    exact = [span for span in spans if prompt[slice(*span)] == option]
    return (exact or spans)[0][0]
