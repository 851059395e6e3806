"""Images of a user's raw data: found below a folder, and looked at before they become half of a pair."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

from vlmtrace.core.arguments import checked
from vlmtrace.core.files import content_of
from vlmtrace.core.images import FORMATS, HEIC, NEEDS_HEIF, ImageError, heic_is_read, open_image

#: What files are that people keep beside photographs, by the endings of their names.
_KINDS = {
    "a video": ".mov .mp4 .m4v .avi .mkv .webm .3gp .mpg .mpeg .mts",
    "a camera's raw file, to be exported as JPEG": ".dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .raw",
    "a page or drawing, to be exported as PNG": ".pdf .svg .eps .ps .ai .wmf .emf",
    "an archive, to be unpacked": ".zip .tar .gz .tgz .7z .rar",
}
_KIND_OF = {ending: kind for kind, endings in _KINDS.items() for ending in endings.split()}


@dataclass(frozen=True)
class FoundFile:
    """What lies below a folder.

    Attributes:
        path: of a file; of a link or a folder where that is as far as one gets
        problem: why it is no image that can be tried; None: it is one
    """

    path: Path
    problem: str | None


@cache
def image_endings() -> frozenset[str]:
    """Endings of the names of images: those that Pillow has for the formats that are read, and those of HEIC."""
    known = Image.registered_extensions().items()
    return frozenset(ending for ending, name in known if name in FORMATS) | HEIC


def files_below(folder: Path, first: Path | None = None) -> list[FoundFile]:
    """Everything below a folder, each with the reason why it is no image.

    Links are followed, wherever they lead; a folder that is reached twice counts where it lies, not where it is linked.
    What is hidden (its name begins with a dot) is left out: thumbnails, and what systems write for themselves.

    Args:
        folder: where to look
        first: a folder below, in which what is reached twice counts

    Returns:
        one entry for each file, dead link, link back and folder that cannot be read, sorted by path
    """
    found: list[FoundFile] = []
    seen: set[str] = set()
    for start in dict.fromkeys((first or folder, folder)):
        places = [start]
        while places:  # folders that lie here before those that are linked here
            links: list[Path] = []
            for place in places:
                if os.path.realpath(place) in seen and place not in (first, folder):
                    found.append(FoundFile(place, "it is a link to a folder that is counted where it lies"))
                else:
                    _look_into(place, found, links, seen)
            places = sorted(links)
    return sorted(found, key=lambda file: file.path)


def _look_into(place: Path, found: list[FoundFile], links: list[Path], seen: set[str]) -> None:
    """Add the files below a folder to those that were found, and the links to folders to the links."""
    folders = [place]
    while folders:
        folder = folders.pop()
        here = os.path.realpath(folder)
        if here in seen:
            continue
        seen.add(here)
        try:
            with os.scandir(folder) as opened:
                entries = [entry for entry in opened if not entry.name.startswith(".")]
        except OSError as error:
            found.append(FoundFile(folder, f"the folder cannot be read: {error.strerror or error}"))
            continue
        for entry in entries:
            path = folder / entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_symlink() and os.path.isdir(path):
                links.append(path)
            else:
                found.append(FoundFile(path, _no_image(path, entry.is_file(follow_symlinks=False))))


def _no_image(path: Path, is_plain: bool) -> str | None:
    """Why a file is no image that can be tried; a plain one is no link, pipe or device."""
    if not is_plain and not os.path.exists(path):
        return "it is a link that leads nowhere"
    if not is_plain and not os.path.isfile(path):
        return "it is no file"
    if not (_is_text(path) and (is_plain or _is_text(path.resolve()))):
        return "its path is not UTF-8: rename it"
    ending = path.suffix.lower()
    if ending in HEIC and not heic_is_read():
        return NEEDS_HEIF
    if ending in image_endings():
        return None
    if ending in _KIND_OF:
        return f"it is {_KIND_OF[ending]}"
    return f"it is no image: its name ends in {ending}" if ending else "it is no image: its name has no ending"


def _is_text(path: Path) -> bool:
    """Whether a path can stand in a table; bytes that are no UTF-8 come as lone surrogates."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def as_text(path: Path) -> str:
    """A path with slashes that can stand in a table, with escapes for bytes that are no UTF-8.

    Args:
        path: any path
    """
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def image_files(folder: Path) -> list[Path]:
    """The image files below a folder, see `files_below`.

    Args:
        folder: where to look

    Returns:
        their paths, sorted
    """
    return [found.path for found in files_below(folder) if found.problem is None]


def image_problem(path: Path) -> str | None:
    """Why an image cannot stand in a pair.

    Args:
        path: the image's file

    Returns:
        that it is missing, cannot be decoded or shows nothing; None if it can be used
    """
    if not os.path.isfile(path):
        return "the image file is missing"
    try:
        image = open_image(path.resolve())
    except ImageError as error:
        return error.reason
    darkest, brightest = np.transpose(image.getextrema())
    if (darkest == brightest).all():
        return "the image is blank: all of it has one color"
    return None


def same_picture(first: Path, second: Path) -> bool:
    """Whether two files hold the same picture: as bytes, or pixel by pixel.

    Args:
        first: the file of an image
        second: that of another

    Raises:
        VlmtraceError: one cannot be read
    """
    if content_of(first) == content_of(second):
        return True
    one, other = open_image(first.resolve()), open_image(second.resolve())
    return one.size == other.size and np.array_equal(np.asarray(one), np.asarray(other))


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
    return float((np.asarray(ImageChops.difference(first, second)).max(axis=2) > 8).mean())
