"""Folders that appear whole or not at all: models, and the adapter that is committed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import make_folder, refusals_as_sentences, safetensors_as_sentences
from vlmtrace.core.paths import relative


def check_replaceable(folder: Path, *marks: str) -> None:
    """Refuse to replace a folder that holds something else than what is to be written.

    Args:
        folder: to be replaced; there may be none
        marks: files of which one lies in every folder of that kind

    Raises:
        VlmtraceError: none of them lies in it, and something else does; or a file lies there
    """
    if folder.exists() and not folder.is_dir():
        raise VlmtraceError(f"{relative(folder)} is a file where a folder must be: move it away.")
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / mark).is_file() for mark in marks):
        raise VlmtraceError(
            f"{relative(folder)} holds something else than what would be written there: move it away, or choose "
            "another folder."
        )


@contextlib.contextmanager
def whole_folder(folder: Path, *marks: str) -> Iterator[Path]:
    """Give an empty folder beside `folder`; on success it takes that name, on any error it is removed.

    What had the name is there until then, and is removed after that. Two renames are needed, and a process that is
    killed between them leaves none of that name: the next start puts the older one back.

    Args:
        folder: to write or replace
        marks: as of `check_replaceable`

    Yields:
        the folder to write into

    Raises:
        VlmtraceError: something else lies there, the disk is full, …

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "model"
    >>> with whole_folder(target, "config.json") as made:
    ...     _ = (made / "config.json").write_text("{}")
    >>> [path.name for path in target.parent.iterdir()]
    ['model']
    """
    folder = Path(os.path.realpath(folder))  # what a link leads to is replaced, and the link stays
    made, before = (folder.with_name(f".{folder.name}.{what}") for what in ("made", "before"))
    make_folder(folder.parent)
    with refusals_as_sentences(folder):
        _put_back(before, folder)
        check_replaceable(folder, *marks)
        for left in (made, before):  # of a process that was killed
            if left.is_symlink() or left.is_file():
                left.unlink()
            elif left.exists():
                shutil.rmtree(left)
        made.mkdir()
    try:
        with safetensors_as_sentences(folder), refusals_as_sentences(made / "file"):
            yield made
        with refusals_as_sentences(folder):
            if folder.exists():
                folder.rename(before)
            made.rename(folder)
    finally:
        _put_back(before, folder)
        for left in (made, before):
            shutil.rmtree(left, ignore_errors=True)


def _put_back(before: Path, folder: Path) -> None:
    if before.exists() and not folder.exists():
        before.rename(folder)
