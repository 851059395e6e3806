"""Images of a user's raw data: found below a folder, and looked at before they become half of a pair."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.images import open_image

#: Files that are taken for images; everything else in a folder of images is left alone.
SUFFIXES = frozenset(".jpg .jpeg .png .webp .gif .bmp .tif .tiff".split())


def image_files(folder: Path) -> list[Path]:
    """The image files below a folder; folders that are linked count, hidden ones (thumbnails) do not.

    Args:
        folder: where to look

    Returns:
        their paths, sorted
    """
    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        here = os.path.realpath(place)
        folders[:] = [] if here in seen else [name for name in folders if not name.startswith(".")]
        if here not in seen:
            found += [Path(place, name) for name in files if not name.startswith(".")]
        seen.add(here)
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES and path.is_file())


def image_problem(path: Path) -> str | None:
    """Why an image cannot stand in a pair.

    Args:
        path: the image's file

    Returns:
        that it is missing, cannot be decoded or shows nothing; None if it can be used
    """
    try:
        image = open_image(path.resolve())
    except VlmtraceError as error:
        cause = error.__cause__
        return "the image file is missing" if cause is None else f"the image cannot be read: {_line(cause)}"
    if not np.ptp(np.asarray(image), axis=(0, 1)).any():
        return "the image is blank: all of it has one color"
    return None


def _line(error: BaseException) -> str:
    """An error's first line without the file's path, so that the same fault reads the same everywhere."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(" '/")[0].removesuffix(" file")


def content_of(path: Path) -> str:
    """A digest of a file's bytes: copies have the same.

    Args:
        path: the file
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@checked
def changed_share(clean: str | Path, corrupt: str | Path) -> float:
    """The share of pixels that differ between the two images of a pair.

    Two photographs may have unlike sizes; the corrupt one is then brought to the size of the clean one first, as a
    model with a fixed input size does with both.

    Args:
        clean: path of the clean image
        corrupt: path of the corrupt image

    Returns:
        0 to 1; a pixel differs if any of its colors differs by more than 8 of 255

    Raises:
        VlmtraceError: an image cannot be read
    """
    first, second = open_image(clean), open_image(corrupt)
    if second.size != first.size:
        second = second.resize(first.size)
    difference = abs(np.asarray(first, dtype=int) - np.asarray(second, dtype=int)).max(axis=2)
    return float((difference > 8).mean())
