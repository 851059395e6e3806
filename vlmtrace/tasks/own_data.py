"""Your own data: a CSV with the columns of a pairs table, or images in folders by label and a question about them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import resolve
from vlmtrace.core.schema import validate_questions
from vlmtrace.tasks.building.csv_pairs import pairs_of_csv
from vlmtrace.tasks.building.image_files import image_problem
from vlmtrace.tasks.building.label_folders import images_below, labelled_pairs
from vlmtrace.tasks.building.token_replacement import Replacer, words_beside
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

QUESTION = "Is this {a} or {b}?"


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


# Folders -----------------------------------------------------------------------------------------------------------


def pairs_of_folders(request: Request) -> pd.DataFrame:
    """Pairs from images in folders, each folder named by what its images show.

    Args:
        request: its root holds the folders; in its question {a} and {b} stand for the two options

    Returns:
        up to n rows of a pairs table; the request's filters account for every image

    Raises:
        VlmtraceError: the question lacks {a} or {b}, or the folders hold no images
    """
    question, root = request.question or QUESTION, request.root
    if sorted(re.findall(r"\{(.*?)\}", question)) != ["a", "b"]:
        raise VlmtraceError(f"The question {question!r} must hold {{a}} and {{b}} once each: e.g. {QUESTION!r}.")
    images = images_below(root, request.task)
    labels = images["folder"].str.replace("_", " ").str.strip()
    images = images.assign(label=labels, category=labels, kind="label", group="")
    words = [*sorted(labels.unique()), *words_beside(root)]

    def prompt(_: dict[str, Any], options: Sequence[str]) -> str:
        return question.replace("{a}", options[0]).replace("{b}", options[1])

    return labelled_pairs(
        request,
        images,
        replacer=Replacer(request.model),
        prompt=prompt,
        pools=lambda *_: [(words, words)],
    )


DECLARED = (
    Task("csv", CSV, kind="own", pairs=pairs_of_csv),
    Task("folder", FOLDER, kind="own", pairs=pairs_of_folders, takes_question=True),
)
