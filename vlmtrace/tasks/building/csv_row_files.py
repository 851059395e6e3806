"""The files that a row of a CSV names: one image a run or several, with semicolons between, and their masks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.images import ImageError, open_image, open_mask
from vlmtrace.core.paths import relative
from vlmtrace.core.schema import IMAGE_LISTS, MASK_LISTS
from vlmtrace.tasks.building.image_files import image_problem
from vlmtrace.tasks.building.named_files import exact_file
from vlmtrace.tasks.building.sampling import IMAGE, Rejected, Row


def split_list(cell: str, least: int = 0) -> list[str]:
    """What a cell lists, with semicolons between; one behind the last changes nothing.

    Args:
        cell: of a column of several images or masks
        least: so many empty places at the end are kept as make up this number

    >>> split_list("a.png; b.png;"), split_list(""), split_list("a.png;;", least=2)
    (['a.png', 'b.png'], [], ['a.png', ''])
    """
    parts = [part.strip() for part in cell.split(";")] if cell.strip() else []
    while len(parts) > least and not parts[-1]:
        parts.pop()
    return parts


def with_single_images(row: Row) -> Row:
    """A row that lists several images, with the first that differs in the columns of single images, where empty.

    Args:
        row: of a CSV

    Returns:
        the row, as it is where it lists none or lists that do not fit together
    """
    lists = {column: split_list(row.get(name, "")) for column, name in IMAGE_LISTS.items()}
    if max(map(len, lists.values())) == 1:  # where one run lists a single image, the other need not list its own
        lists = {column: images or [row[column]] for column, images in lists.items()}
    clean, corrupt = lists.values()
    if not clean or len(clean) != len(corrupt):
        return row
    changed = next((i for i, (a, b) in enumerate(zip(clean, corrupt, strict=True)) if a != b), 0)
    images = dict(zip(IMAGE_LISTS, (clean[changed], corrupt[changed]), strict=True))
    return row | {column: row[column] or image for column, image in images.items()}


class RowFiles:
    """The files of a row, each opened to see whether it can be used.

    Attributes:
        folder: paths start here
        single: column of single images → its file
        several: the same columns → the files of all images of the run, where the row lists them
    """

    def __init__(self, folder: Path, row: Mapping[str, str]):
        """Open the images.

        Args:
            folder: that of the CSV
            row: of it

        Raises:
            Rejected: an image is not there or cannot be used
        """
        self.folder = folder
        self.single = {column: _image(folder, row[column], column) for column in IMAGE_LISTS}
        self.several = {
            column: [_image(folder, image, name) for image in split_list(row.get(name, ""))]
            for column, name in IMAGE_LISTS.items()
        }

    def lists(self) -> dict[str, list[str]]:
        """The columns that list images, where there are several."""
        return {
            IMAGE_LISTS[column]: [relative(image) for image in images]
            for column, images in self.several.items()
            if len(images) > 1
        }

    def masks(self, row: Mapping[str, str]) -> Row:
        """The columns of masks, of which each can be read and is of its image's size.

        Args:
            row: its cells that hold anything

        Raises:
            Rejected: a mask is not there or cannot be used
        """
        found: Row = {}
        for name, path in row.items():
            if name.endswith("_mask"):
                side = "corrupt_image" if name.startswith("corrupt") else "clean_image"
                found[name] = _mask(self.folder, path, name, self.single[side])
        images = self.several["clean_image"] or [self.single["clean_image"]]
        for column, name in MASK_LISTS.items():
            paths = split_list(row.get(name, ""), len(images))
            masks = [
                _mask(self.folder, path, name, image) if path else None
                for path, image in zip(paths, images, strict=bool(paths))
            ]
            if len(images) > 1 and masks:
                found[name] = masks
            elif any(masks):
                found.setdefault(column, masks[0])
        return found


def _image(folder: Path, name: str, column: str) -> Path:
    path = exact_file(folder, name)
    if path is None and re.match(r"(?:https?|ftp|s3|gs):", name, re.IGNORECASE):
        raise Rejected(IMAGE, f"{column}: it is an address on the web: save the image and write the path of its file")
    problem = "the image file is missing" if path is None else image_problem(path)
    if path is None and re.search(r"[;|\[]", name):
        problem = "the image file is missing (several are listed in clean_images and corrupt_images, as a.png; b.png)"
    if path is None or problem:
        raise Rejected(IMAGE, f"{column}: {problem}")
    return path


def _mask(folder: Path, name: str, column: str, image: Path) -> str:
    """The path of a mask that can be read and has the size of its image."""
    path = exact_file(folder, name)
    if path is None:
        raise Rejected(IMAGE, f"{column}: the mask file is missing")
    try:
        open_mask(path.resolve(), open_image(image.resolve()).size)
    except ImageError as error:
        raise Rejected(IMAGE, f"{column}: {error.reason}") from error
    except VlmtraceError as error:
        raise Rejected(IMAGE, f"{column}: {error}") from error
    return relative(path)


def files_of(table: pd.DataFrame, folder: Path) -> list[Path]:
    """The files of images and masks that a table names.

    Args:
        table: a CSV's
        folder: paths start here

    Returns:
        those that are there, each once
    """
    lists = {*IMAGE_LISTS.values(), *MASK_LISTS.values()}
    named: set[str] = set()
    for column in table:
        if column in lists:
            named.update(part for cell in table[column].unique() for part in split_list(cell))
        elif column in IMAGE_LISTS or str(column).endswith("_mask"):
            named.update(table[column].unique())
    found = (exact_file(folder, name) for name in named if name)
    return [path for path in found if path is not None]
