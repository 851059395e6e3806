"""Images in folders of labels, found where a collection has them: in its root, in a split, below a wrapping folder."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.tasks.building.image_files import as_text, files_below, image_files
from vlmtrace.tasks.building.named_files import DERIVED
from vlmtrace.tasks.building.row_audit import refused
from vlmtrace.tasks.declaration import Request

#: The steps that every file below the root meets first.
FILE, PLACED = "file is an image", "image lies in a label's folder"

#: Split → what collections call its folder, in lower case.
SPLITS = {
    "test": ("test", "testing", "test_set", "test set"),
    "train": ("train", "training", "train_set", "train set"),
    "val": ("val", "valid", "validation", "val_set", "val set", "validation_set"),
}
SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}

#: Where no folder is a collection's test set, its held-out images are those for validation.
INSTEAD = {"test": ("test", "val")}

#: Folders in which a network drive, an archive or a recycle bin keeps copies, in lower case.
SYSTEMS = frozenset("@eadir __macosx #recycle $recycle.bin lost+found".split())

#: Folders that hold nothing but one folder: an archive's own, and the one that it was unpacked into.
WRAPPINGS = 2


def images_below(
    request: Request,
    *,
    inside: Sequence[str] = (),
    is_label: Callable[[str], bool] | None = None,
    apart: Sequence[str] = (),
) -> pd.DataFrame:
    """Every image in the folders of labels below the request's root; every other file is set aside with the reason.

    Args:
        request: its root holds a folder of images for each label, or folders of splits that do, or one folder that
            holds either
        inside: places below the root where the data set's archive has the folders of labels
        is_label: whether a folder's name is a label, where that can be told
        apart: names of files beside the folders that are no images and yet used

    Returns:
        one row per image: row (its path from where the folders of labels lie), folder (name of the label's folder),
        path

    Raises:
        VlmtraceError: root is no folder, holds no folders of images, or has not the split
    """
    root, filters = request.root, request.filters
    if not root.is_dir():
        raise VlmtraceError(
            f"{root} is no folder: give {request.task} the one that holds a folder of images for each label."
        )
    place = label_place(request, inside, is_label)
    excepted = {folder / name for folder in (root, place) for name in apart}
    found = [file for file in files_below(root, place) if file.path not in excepted]
    table = pd.DataFrame({"row": [_name(file.path, place) for file in found], "path": [file.path for file in found]})
    images = filters.keep(FILE, table, [file.problem for file in found], "files")
    folders = [_label_folder(path, place) for path in images["path"]]
    astray = [
        _elsewhere(path, root, place) if folder is None else None
        for path, folder in zip(images["path"], folders, strict=True)
    ]
    astray = _derived(images["path"], folders, astray, place)
    images = images.assign(folder=[unicodedata.normalize("NFC", folder or "") for folder in folders])
    images = filters.keep(PLACED, images, astray, "images")
    if images.empty:
        said = refused(filters) or "it is empty"
        raise VlmtraceError(
            f"{place} holds no folders with images ({said}): {request.task} expects a folder of images for each label."
        )
    return images


def label_place(request: Request, inside: Sequence[str] = (), is_label: Callable[[str], bool] | None = None) -> Path:
    """The folder that holds the folders of labels.

    Args:
        request: its root, and the split that is asked for
        inside: as for `images_below`
        is_label: as for `images_below`

    Returns:
        the root, or a folder below

    Raises:
        VlmtraceError: there are splits and not the one that is asked for, or that one has no folders of labels; or
            another than the usual split is asked for and there are none
    """
    place = request.root
    for _ in range(WRAPPINGS + 1):
        named = next((place / name for name in inside if (place / name).is_dir()), None)
        if named is not None:
            return named
        folders = _folders(place)
        splits = [folder for folder in folders if folder.name.lower() in SPLIT_OF]
        if len(splits) > 1 or (splits and not _labels(folders, splits, is_label)):
            return _of_split(request, place, splits)
        if len(folders) != 1 or (is_label and is_label(folders[0].name)) or not _folders(folders[0]):
            break
        place = folders[0]
    if request.split != "test":
        raise VlmtraceError(
            f"{request.root} has no split {request.split!r}: put the folders of labels into a folder of that name, or "
            "leave split out."
        )
    return place


def _labels(folders: list[Path], splits: list[Path], is_label: Callable[[str], bool] | None) -> bool:
    """Whether folders beside those that are named as a split are folders of labels."""
    others = [folder for folder in folders if folder not in splits]
    return any(is_label(folder.name) if is_label else bool(image_files(folder)) for folder in others)


def _of_split(request: Request, place: Path, splits: list[Path]) -> Path:
    """The folder of the split that is asked for."""
    there = ", ".join(folder.name for folder in splits)
    for split in INSTEAD.get(request.split, (request.split,)):
        found = [folder for folder in splits if SPLIT_OF[folder.name.lower()] == split]
        if len(found) > 1:
            names = " and ".join(folder.name for folder in found)
            raise VlmtraceError(f"{place} holds {names}, which both mean {split}: name the one that is meant as root.")
        if found and not _folders(found[0]):
            raise VlmtraceError(
                f"{found[0]} holds no folders: {request.task} expects a folder of images for each label in each of "
                f"{there}."
            )
        if found:
            return found[0]
    raise VlmtraceError(
        f"{place} holds the splits {there} and not {request.split!r}: name the folder of another one as root."
    )


def _folders(place: Path) -> list[Path]:
    """The folders in a folder that are not hidden, by name."""
    try:
        return sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:  # accounted for by files_below
        return []


def _label_folder(path: Path, place: Path) -> str | None:
    """The folder in `place` below which a file lies; None: it lies in none."""
    parts = path.relative_to(place).parts if path.is_relative_to(place) else ()
    return parts[0] if len(parts) > 1 else None


def _derived(
    paths: Sequence[Path], folders: Sequence[str | None], astray: Sequence[str | None], place: Path
) -> list[str | None]:
    """Why images lie astray: also those in folders of thumbnails or masks beside a label's photographs.

    A label whose images all lie in such folders (a collection of depth maps, say) keeps them.
    """
    astray = [
        reason or ("it lies in a folder that a system keeps for itself" if _is_systems(path, place) else None)
        for path, reason in zip(paths, astray, strict=True)
    ]
    below = [
        next((part for part in path.relative_to(place).parts[1:-1] if DERIVED.search(part.lower())), None)
        if reason is None
        else None
        for path, reason in zip(paths, astray, strict=True)
    ]
    photographed = {
        folder for folder, part, reason in zip(folders, below, astray, strict=True) if part is None and reason is None
    }
    return [
        f"it lies in {part!r}, a folder of what is made from photographs" if part and folder in photographed else reason
        for folder, part, reason in zip(folders, below, astray, strict=True)
    ]


def _is_systems(path: Path, place: Path) -> bool:
    return any(part.lower() in SYSTEMS for part in path.relative_to(place).parts[:-1])


def _elsewhere(path: Path, root: Path, place: Path) -> str:
    """Where an image lies that lies in no label's folder."""
    if path.parent == place:
        return "it lies beside the folders of labels, in none of them"
    beside = _label_folder(path, place.parent) or ""
    if place != root and {beside.lower(), place.name.lower()} <= SPLIT_OF.keys():
        return f"it is of the split {beside}"
    return f"it lies outside the folder {as_text(place.relative_to(root))}"


def _name(path: Path, place: Path) -> str:
    """A file's name in tables: its path from where the folders of labels lie."""
    return as_text(path.relative_to(place) if path.is_relative_to(place) else Path(os.path.relpath(path, place)))
