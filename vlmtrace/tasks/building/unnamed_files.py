"""Images that lie beside those of a table, and that no row of it names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vlmtrace.tasks.building.image_files import as_text, image_endings
from vlmtrace.tasks.building.row_audit import NAMED_BY_ROW, Filters


def account_unnamed(filters: Filters, named: Iterable[Path], base: Path) -> None:
    """Note which images in the folders of a table's images no row names; where all are named, there is no such step.

    Folders without an image that a row names are not looked into: a table may name a few files of a large disk.

    Args:
        filters: to which the step is added
        named: the files that rows name, whatever becomes of these rows
        base: names of files start here
    """
    known: set[tuple[int, int]] = set()
    folders: set[Path] = set()
    for path in named:
        try:
            status = path.stat()
        except (OSError, ValueError):
            continue
        known.add((status.st_dev, status.st_ino))
        folders.add(path.parent)
    seen: set[tuple[int, int]] = set()
    unnamed: dict[str, str] = {}
    for folder in sorted(folders):
        for path, identity in _images_in(folder):
            if identity in known:
                seen.add(identity)
            elif identity not in seen:
                seen.add(identity)
                unnamed[as_text(Path(os.path.relpath(path, base)))] = "no row names it"
    if unnamed:
        filters.add(NAMED_BY_ROW, len(seen), unnamed, "images")


def _images_in(folder: Path) -> list[tuple[Path, tuple[int, int]]]:
    """The images in a folder, not below, each with what tells its file from others; hidden ones are left out."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or os.path.splitext(entry.name)[1].lower() not in image_endings():
                    continue
                if entry.is_file():
                    status = os.stat(entry.path)
                    found.append((folder / entry.name, (status.st_dev, status.st_ino)))
    except OSError:  # a folder that files may be read from, but that may not be listed
        return []
    return sorted(found)
