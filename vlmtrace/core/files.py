"""Files that appear whole or not at all, and the sentences for what a disk refuses."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import pandas as pd

from vlmtrace.core.errors import VlmtraceError, first_line
from vlmtrace.core.parquet import plain_table
from vlmtrace.core.unreadable import refused, unreadable_table

_ELSEWHERE = "or set VLMTRACE_HOME to a folder that you can write to"

#: What a system says when it refuses to write, as a reason and what to do about it.
REFUSALS = {
    errno.EROFS: f"because the file system is read-only: make it writable, {_ELSEWHERE}",
    errno.EACCES: f"because you may not write there: change the permissions, {_ELSEWHERE}",
    errno.EPERM: f"because you may not write there: change the permissions, {_ELSEWHERE}",
    errno.ENOSPC: "because no space is left on the device: free some, and start the same command again",
    errno.EDQUOT: "because your quota of space is used up: free some, and start the same command again",
    errno.EFBIG: "because it is larger than a file may be here: raise the limit (ulimit -f)",
    errno.ENAMETOOLONG: "because its name is too long: choose a shorter one (RUN, task)",
    errno.ELOOP: "because symbolic links on its way lead in a circle: remove them",
    errno.ENOTDIR: "because a file lies where a folder must be: move it away",
    errno.EEXIST: "because a file lies where a folder must be: move it away",
    errno.EISDIR: "because a folder lies where the file must be: move it away",
    errno.ENOTEMPTY: "because a folder lies where the file must be: move it away",
    errno.ENOENT: "because its folder was removed meanwhile: start the same command again",
    errno.EIO: "because the device reports an error: look at the disk",
    errno.EMFILE: "because too many files are open: raise the limit (ulimit -n)",
    errno.ENFILE: "because too many files are open: end other programs",
    errno.ENOSYS: f"because its file system knows no locks: {_ELSEWHERE.removeprefix('or ')} on a local disk",
}


@contextlib.contextmanager
def refusals_as_sentences(path: Path) -> Iterator[None]:
    """Turn what a disk refuses in this block into a sentence about `path`.

    Errors about other files, and those that no disk makes, pass as they are.

    Raises:
        VlmtraceError: the disk is full, read-only, …; the sentence names the path and says what to do

    >>> with refusals_as_sentences(Path("table.parquet")):
    ...     raise OSError(errno.EROFS, "Read-only file system")
    Traceback (most recent call last):
    ...
    vlmtrace.core.errors.VlmtraceError: table.parquet cannot be written, because the file system is read-only: make it \
writable, or set VLMTRACE_HOME to a folder that you can write to.
    """
    try:
        yield
    except OSError as error:
        named = [
            Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))
        ]
        about_others = named and not any(name in (path, *path.parents) or name.parent == path.parent for name in named)
        if error.errno not in REFUSALS or about_others:
            raise
        raise VlmtraceError(f"{path} cannot be written, {REFUSALS[error.errno]}.") from error
    except NotImplementedError as error:  # what filelock makes of ENOSYS
        raise VlmtraceError(f"{path} cannot be written, {REFUSALS[errno.ENOSYS]}.") from error


@contextlib.contextmanager
def safetensors_as_sentences(path: Path) -> Iterator[None]:
    """As `refusals_as_sentences`, for what safetensors makes of a disk's refusals: errors of a kind of its own.

    Raises:
        VlmtraceError: the disk is full, read-only, …; the sentence names the path and says what to do
    """
    try:
        yield
    except Exception as error:
        refused = next((code for code in REFUSALS if f"os error {code})" in str(error)), None)
        if refused is None or isinstance(error, (OSError, VlmtraceError)):
            raise
        raise VlmtraceError(f"{path} cannot be written, {REFUSALS[refused]}.") from error


def make_folder(folder: str | Path) -> Path:
    """Make a folder and those above it; one that exists is left as it is.

    Args:
        folder: its path

    Returns:
        the path

    Raises:
        VlmtraceError: the disk refuses, or a file lies in the way
    """
    folder = Path(folder)
    with refusals_as_sentences(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def write_atomically(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is renamed to `path`, on any error it is removed.

    What a killed process left of its own is removed when the same file is written again.

    Args:
        path: the file to write; folders that are missing are made
        durable: whether the content reaches the disk before the name does, so that a power cut cannot leave an empty
            file under it; it costs some milliseconds

    Yields:
        the path to write to, with the same ending

    Raises:
        VlmtraceError: the disk is full, read-only, …

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "results" / "table.csv"
    >>> with write_atomically(target) as temporary:
    ...     _ = temporary.write_text("a,b")
    >>> target.read_text()
    'a,b'
    """
    path = Path(path)
    make_folder(path.parent)
    # The suffix stays last: writers such as matplotlib and Pillow choose their format by it. Names end at 255 bytes.
    stem = f".{path.stem.encode()[:150].decode(errors='ignore')}.{_machine()}-"
    temporary = path.with_name(f"{stem}{os.getpid()}-{secrets.token_hex(4)}.part{path.suffix}")
    with refusals_as_sentences(path), safetensors_as_sentences(path):
        try:
            yield temporary
            if durable:
                with open(temporary, "rb+") as file:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    _remove_leftovers(path.parent, stem)


def _machine() -> str:
    """Tells machines apart that share a folder, so that none takes another's process for a dead one of its own."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def _remove_leftovers(folder: Path, stem: str) -> None:
    """Remove what processes that were killed have left of a file."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(stem) and ".part" in entry.name:
                process = entry.name.removeprefix(stem).partition("-")[0]
                if process.isdecimal() and not _is_alive(int(process)):
                    os.unlink(entry.path)


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # there, signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # one of another user's
        return True
    return True


@contextlib.contextmanager
def locked(path: str | Path, busy: str = "") -> Iterator[None]:
    """Keep other processes out of a block. A lock ends with its process, however that ends.

    Args:
        path: of the lock's file; folders that are missing are made
        busy: the sentence to raise if another process holds the lock; empty: wait for it

    Raises:
        VlmtraceError: another process holds the lock, or the disk refuses
    """
    path = Path(path)
    make_folder(path.parent)
    lock = filelock.FileLock(path, timeout=0 if busy else -1)
    with refusals_as_sentences(path):
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise VlmtraceError(busy) from error
    try:
        yield
    finally:
        lock.release()


def write_table(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a tidy table as parquet, without its index.

    Args:
        table: the table
        path: the file to write, whole or not at all

    Returns:
        the path
    """
    with write_atomically(path, durable=True) as temporary:
        table.to_parquet(temporary, index=False)
    return Path(path)


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a parquet table, whoever wrote it.

    Types that only some writers use (large strings, dictionaries, decimals) become plain text and numbers; an index
    that has a name becomes a column, and one without is dropped. Nothing in the file is executed.

    Args:
        path: the file

    Returns:
        the table

    Raises:
        VlmtraceError: the file is missing, cannot be read or is not a parquet table
    """
    return read_table_and_digest(path)[0]


def read_table_and_digest(path: str | Path) -> tuple[pd.DataFrame, str]:
    """Read a parquet table, and identify the very content that was read.

    Args:
        path: the file

    Returns:
        the table, and the digest of the file

    Raises:
        VlmtraceError: as `read_table`
    """
    import pyarrow.parquet as pq

    path = Path(path)
    refuse_missing(path)
    try:
        # One open file, so that another process that writes the table meanwhile changes neither.
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
            file.seek(0)
            return plain_table(pq.ParquetFile(file).read()), digest
    except Exception as error:  # what a file of unknown origin makes of its reader is without limit
        raise unreadable_table(path, error) from error


def refuse_missing(path: Path) -> None:
    """Raise a sentence if there is no file of a table.

    Raises:
        VlmtraceError: nothing lies there, or a folder
    """
    if path.is_dir():
        raise VlmtraceError(f"{path} is a folder where a table must lie: move it away, and run its notebook.")
    if not path.is_file():
        raise VlmtraceError(
            f"There is no table {path}: run the notebook that writes it first (docs/notebooks/index.md says which)."
        )


def table_shape(path: str | Path) -> tuple[int, list[str]]:
    """The number of rows and the columns' names of a parquet table, without reading it.

    Raises:
        VlmtraceError: the file is not a parquet table
    """
    import pyarrow.parquet as pq

    try:
        found = pq.ParquetFile(path)
        return found.metadata.num_rows, found.schema_arrow.names
    except Exception as error:
        raise unreadable_table(path, error) from error


def write_json(content: Any, path: str | Path) -> Path:
    """Write a JSON file, indented and with sorted keys.

    Args:
        content: what JSON can express
        path: the file to write, whole or not at all

    Returns:
        the path
    """
    with write_atomically(path, durable=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return Path(path)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Args:
        path: the file

    Returns:
        its content

    Raises:
        VlmtraceError: the file cannot be read, or is not valid JSON
    """
    try:
        return json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise refused(path, error) or VlmtraceError(
            f"{path} cannot be read ({first_line(error)}): repair or delete it."
        ) from error
    except (ValueError, RecursionError) as error:  # among others: no UTF-8, and numbers of thousands of digits
        raise VlmtraceError(f"{path} is not valid JSON ({first_line(error)}): repair or delete it.") from error


def content_of(path: str | Path) -> str:
    """A digest of a file's bytes: copies have the same.

    Args:
        path: the file

    Returns:
        SHA-256, in hexadecimal
    """
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
