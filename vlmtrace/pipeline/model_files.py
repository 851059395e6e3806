"""Which model it is: a digest over its files, whether it is decoder-only, and whether a table can be of it."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import content_of, read_json, write_json
from vlmtrace.models.adapter_files import is_adapter, read_adapter

if TYPE_CHECKING:
    from vlmtrace.models.vlm import VLM

#: Files larger than this are read once; what was found is kept until their status says that they were written again.
REMEMBERED = 2**26

#: Endings of the files that decide about what a model computes: weights, configuration, tokenizer, chat template.
DECIDING = (".safetensors", ".json", ".txt", ".jinja", ".model")


def model_digest(name: str) -> str:
    """Identifies the files of a model by their content, whatever their dates; a model on the hub by its name.

    Args:
        name: a bundled model, a directory, or a hub id

    Returns:
        the digest, or the name of a model on the hub

    Raises:
        VlmtraceError: a file cannot be read
    """
    bundled = paths.MODELS / name
    folder = bundled if (bundled / "config.json").is_file() else paths.from_home(name)
    if not folder.is_dir():
        return name
    digest = hashlib.sha256()
    if is_adapter(folder):  # the model that it changes decides, too
        base = read_adapter(folder, name).base
        if not is_adapter(Path(base)):
            digest.update(f"{model_digest(base)}\n".encode())
    for path in sorted(path for path in folder.rglob("*") if path.suffix in DECIDING and path.is_file()):
        try:
            content = content_digest(path)
        except OSError as error:
            raise VlmtraceError(f"{path} cannot be read ({error.strerror}): correct its permissions.") from error
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:16]


def content_digest(path: Path) -> str:
    """Identifies a file's content; a large file is not read again while its status is the same.

    Part of the status is the time of its last change (ctime), which no program can set: weights that were replaced by
    others of the same size and date are noticed.
    """
    status = path.stat()
    key = str(path.resolve())
    state = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    if status.st_size <= REMEMBERED:
        return content_of(path)[:16]
    memory = paths.DATA / "cache" / "model_digests.json"
    known = {}
    with contextlib.suppress(VlmtraceError):
        found = read_json(memory) if memory.is_file() else {}
        known = found if isinstance(found, dict) else {}
    entry = known.get(key)
    if isinstance(entry, list) and len(entry) == 2 and entry[0] == state and isinstance(entry[1], str):
        return entry[1]
    content = content_of(path)[:16]
    with contextlib.suppress(VlmtraceError):  # where nothing can be kept, it is read again the next time
        write_json({**known, key: [state, content]}, memory)
    return content


def is_decoder_only(model: str) -> bool:
    """Whether a model reads image tokens in one sequence with the prompt, as its family's interface says.

    Of a model on the hub the configuration is not here yet: only BLIP's name is known then.

    Args:
        model: a bundled model, a directory, or a hub id

    Raises:
        VlmtraceError: its configuration is damaged
    """
    given = paths.from_home(model)
    if is_adapter(given):
        model = read_adapter(given, model).base
        given = Path(model)
    for folder in (paths.MODELS / model, given):
        if (folder / "config.json").is_file():
            from vlmtrace.models.families.registry import families  # it imports torch, which takes seconds

            config = read_json(folder / "config.json")
            kind = config.get("model_type", "") if isinstance(config, dict) else None
            if not isinstance(kind, str):
                raise VlmtraceError(
                    f"{paths.relative(folder / 'config.json')} is no configuration of a model: restore it as it was "
                    "saved, or download it again."
                )
            family = families().get(kind)
            return family is None or family.interface_class().has_visual_tokens
    return "blip-vqa" not in model


def check_sites(table: pd.DataFrame, model: VLM | None, origin: str) -> None:
    """Raise a sentence if a table names a block, layer or head that a model does not have.

    Args:
        table: that was read
        model: that it is used with; None: nothing is checked
        origin: where the table comes from, for the sentence
    """
    blocks = getattr(model, "blocks", None)
    if model is None or blocks is None or not {"block", "layer"} <= set(table.columns):
        return
    counted = {"layer": "n_layers", "head": "n_heads"}
    for name, part in table.groupby("block", sort=False):
        if name not in blocks:
            raise VlmtraceError(f"{origin} is of another model: {model.name} has no block {name!r}.")
        for column in counted.keys() & set(part.columns):
            there = getattr(blocks[name], counted[column])
            if part[column].max() >= there:
                raise VlmtraceError(
                    f"{origin} is of another model: {name} of {model.name} has {there} {column}s, counted from 0, and "
                    f"the table names {column} {part[column].max():g}."
                )
