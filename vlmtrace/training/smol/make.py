"""data/models/smol-llava: SmolLM2 with the committed adapter merged, as transformers saves models."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import (
    REFUSALS,
    content_of,
    locked,
    make_folder,
    read_json,
    refusals_as_sentences,
    write_atomically,
    write_json,
)
from vlmtrace.core.paths import DATA, MODELS, relative
from vlmtrace.training.smol import wheel
from vlmtrace.training.smol.adapter import CONFIG, PROJECTOR, WEIGHTS, merge
from vlmtrace.training.smol.assembled import assemble
from vlmtrace.training.smol.language_model import read_gguf
from vlmtrace.training.smol.recipe import NAME

#: What is committed, where work in progress lies, and what says of which files a folder was made.
ADAPTER, WORK, MADE_OF = DATA / "adapters" / NAME, DATA / "cache" / NAME, "made_of.json"
#: Bytes that the package, its weights as plain numbers and the folder take together.
NEEDED = 600_000_000
#: Folders in WORK that no start needs from the one before.
LEFT = ("unpacked", "made", "replaced")


def make(given: Path | None = None, adapter: Path = ADAPTER, out: Path = MODELS / NAME) -> Path:
    """Fetch SmolLM2, merge the adapter, and write the model's folder, whole or not at all.

    A folder that was made of the same files is left as it is, and gets the card of today. The fetched package stays in
    data/cache, so that it need not be fetched again.

    Args:
        given: the package's file, if it need not be fetched
        adapter: folder of projector, adapter and card
        out: folder to write

    Returns:
        the folder

    Raises:
        VlmtraceError: something is missing or broken, the disk is full, or another process makes it
    """
    make_folder(WORK)
    with locked(WORK / "lock", f"Another process makes {NAME}: wait until it has finished."):
        made_of = _made_of(adapter)
        if (out / MADE_OF).is_file() and read_json(out / MADE_OF) == made_of:
            _copy_card(adapter, out)
            return out
        with unpacked(given) as (gguf, licence):
            made = WORK / "made"
            _write(gguf, licence, adapter, made)
            write_json(made_of, made / MADE_OF)
            _exchange(made, out)
    return out


@contextmanager
def unpacked(given: Path | None = None) -> Iterator[tuple[Path, Path]]:
    """The weights of SmolLM2 and their licence, while this is entered.

    Args:
        given: the package's file, if it need not be fetched
    """
    with refusals_as_sentences(WORK):
        for left in LEFT:  # of a process that was killed
            if (WORK / left).exists():
                shutil.rmtree(WORK / left)
        free = shutil.disk_usage(WORK).free
    if free < NEEDED:
        raise VlmtraceError(
            f"{relative(WORK)} has {free / 1e6:.0f} MB of free space, and {NEEDED / 1e6:.0f} MB are needed: free some, "
            "and start the same command again."
        )
    try:
        yield wheel.unpack(given or _fetched(), WORK / "unpacked")
    finally:
        for left in LEFT:
            shutil.rmtree(WORK / left, ignore_errors=True)


def _fetched() -> Path:
    """The package of an earlier start, if it is whole; otherwise it is fetched."""
    folder = WORK / "wheel"
    for earlier in folder.glob("*.whl"):
        try:
            wheel.check_wheel(earlier)
            return earlier
        except VlmtraceError:
            earlier.unlink()
    fetched = wheel.fetch(folder)
    try:
        wheel.check_wheel(fetched)
    except VlmtraceError:
        fetched.unlink()
        raise
    return fetched


def _copy_card(adapter: Path, folder: Path) -> None:
    card = adapter / "README.md"
    if card.is_file():
        with write_atomically(folder / "README.md") as temporary:
            shutil.copyfile(card, temporary)


def _made_of(adapter: Path) -> dict[str, str]:
    missing = [name for name in (WEIGHTS, CONFIG, PROJECTOR) if not (adapter / name).is_file()]
    if missing:
        raise VlmtraceError(
            f"{relative(adapter)} lacks {', '.join(missing)}: restore the committed files (git checkout), or run make "
            f"train-{NAME}."
        )
    files = {name: content_of(adapter / name) for name in (WEIGHTS, CONFIG, PROJECTOR)}
    return files | {Path(wheel.GGUF).name: wheel.GGUF_DIGEST}


def _write(gguf: Path, licence: Path, adapter: Path, made: Path) -> None:
    model, processor = assemble(*read_gguf(gguf))
    merge(model, adapter)
    make_folder(made)
    try:
        with refusals_as_sentences(made):
            model.half().save_pretrained(made)
            processor.save_pretrained(made)
            _copy_card(adapter, made)
            shutil.copy(licence, made / "LICENSE-SmolLM2")
    except Exception as error:  # safetensors has its own for what a disk refuses
        refused = next((code for code in REFUSALS if f"os error {code})" in str(error)), None)
        if refused is None:
            raise
        raise VlmtraceError(f"{relative(made)} cannot be written, {REFUSALS[refused]}.") from error


def _exchange(made: Path, out: Path) -> None:
    """Give a finished folder its name; what had it is removed after that."""
    make_folder(out.parent)
    with refusals_as_sentences(out):
        if out.exists():
            os.replace(out, WORK / "replaced")
        try:
            os.replace(made, out)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise VlmtraceError(
                f"{out.parent} lies on another disk than {WORK}, so that the folder cannot be renamed in one step: let "
                "both lie in one data folder (VLMTRACE_HOME)."
            ) from error
