"""Sentences for files that cannot be read.

What the system refuses is told apart from what is wrong with the file: whoever may not open a table, or has no memory
left for it, must not be told to delete it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from vlmtrace.core.errors import VlmtraceError, first_line

#: What a system says when it refuses to read, and what to do about it.
_REMEDIES = {
    errno.EACCES: "correct its permissions",
    errno.EPERM: "correct its permissions",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "end other programs",
    errno.EIO: "look at the disk",
    errno.EISDIR: "move the folder away",
    errno.ENOENT: "correct its path",
}

#: What a damaged file makes the system say: it names a place in itself that is none.
_OF_CONTENT = (errno.EINVAL, errno.EOVERFLOW)


def remedy_of(error: BaseException) -> str | None:
    """What to do where a file cannot be read, whatever is in it.

    Args:
        error: what reading it raised

    Returns:
        the part of a sentence that says so; None: the system refuses nothing, and the file is at fault

    >>> remedy_of(PermissionError(errno.EACCES, "Permission denied"))
    'correct its permissions'
    """
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return "end other programs, or read it where there is more memory"
    if not number or number in _OF_CONTENT:
        return None
    return _REMEDIES.get(number, "see to that, and start the same command again")


def refused(name: object, error: BaseException) -> VlmtraceError | None:
    """The sentence for a file that cannot be read, whatever is in it.

    Args:
        name: of the file, or its path
        error: what reading it raised

    Returns:
        the error to raise; None: the system refuses nothing, and the file is at fault

    >>> print(refused("table.parquet", OSError(errno.EMFILE, "Too many open files")))
    table.parquet cannot be read (Too many open files): raise the limit of open files (ulimit -n).
    """
    remedy = remedy_of(error)
    if remedy is None:
        return None
    number = error.errno if isinstance(error, OSError) else None
    why = os.strerror(number) if number else f"memory does not suffice, {first_line(error)}"
    return VlmtraceError(f"{name} cannot be read ({why}): {remedy}.")


@contextlib.contextmanager
def reading_as_sentences(path: object) -> Iterator[None]:
    """Turn what the system refuses while a file or a folder is read into a sentence about it.

    Args:
        path: of the file or folder

    Raises:
        VlmtraceError: it may not be read, or memory does not suffice; other errors pass as they are

    >>> with reading_as_sentences("questions"):
    ...     raise PermissionError(errno.EACCES, "Permission denied")
    Traceback (most recent call last):
    ...
    vlmtrace.core.errors.VlmtraceError: questions cannot be read (Permission denied): correct its permissions.
    """
    try:
        yield
    except (OSError, MemoryError) as error:
        sentence = refused(path, error)
        if sentence is None:
            raise
        raise sentence from error


def unreadable_table(name: object, error: BaseException) -> VlmtraceError:
    """The sentence for a table that cannot be read.

    Args:
        name: of its file, or its path
        error: what reading it raised

    Returns:
        the error to raise
    """
    return refused(name, error) or VlmtraceError(
        f"{name} is not a readable parquet table ({first_line(error)}): delete it and run its notebook."
    )
