"""Your own data: a CSV with the columns of a pairs table, or images in folders by label and a question about them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.images import VIDEO, Picture, open_image
from vlmtrace.core.paths import RAW, find, relative
from vlmtrace.core.schema import validate_questions
from vlmtrace.inputs.saved_images import written_image
from vlmtrace.inputs.words import folded
from vlmtrace.tasks.building.csv_pairs import pairs_of_csv
from vlmtrace.tasks.building.folder_layouts import images_below, label_place
from vlmtrace.tasks.building.image_files import image_problem
from vlmtrace.tasks.building.label_folders import NAMED, labelled_pairs
from vlmtrace.tasks.building.token_replacement import WORDS, Replacer, words_beside
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


@checked
def one_question(image: Picture, prompt: str, folder: str | Path | None = None) -> pd.DataFrame:
    """A questions table of one row: your own image, and a question without options.

    Args:
        image: path of the image (see `vlmtrace.core.paths.find`), or an image (PIL) or an array of its pixels
        prompt: the question
        folder: where an image that is no file is written to, as the table holds its path; None: data/raw/own

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
    if not isinstance(image, str | Path):
        image = written_image(open_image(image), folder or RAW / "own")
    path = find(image)
    problem = image_problem(path)
    if problem:
        remedy = "Save a frame of it as an image." if problem.endswith(VIDEO) else "Give another file."
        raise VlmtraceError(f"The image {image} cannot be used: {problem}. {remedy}")
    row = {"sample_id": path.stem, "task": "own", "category": "own", "image": relative(path), "prompt": prompt}
    return validate_questions(pd.DataFrame([row]))


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
    words = [*sorted(images["label"].unique()), *(word for place in places for word in words_beside(place))]

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
        spelling.setdefault(folded(label), label)
    return labels.map(lambda label: spelling[folded(label)])


DECLARED = (
    Task("csv", CSV, kind="own", pairs=pairs_of_csv),
    Task("folder", FOLDER, kind="own", pairs=pairs_of_folders, splits=("test", "train", "val"), takes_question=True),
)
