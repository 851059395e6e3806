"""The files of a model's folder: all of them there, each what its name says, and none that would be run.

Nothing is loaded from a folder before it was looked at: weights must be safetensors, all of them there, and no
configuration may need code of its own.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.adapter_files import ADAPTER_CONFIG, check_adapter_files, is_adapter
from vlmtrace.models.foreign_formats import check_format

#: Configurations that may name classes to be imported from the repository.
CONFIGS = (
    "config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    "qformer_tokenizer/tokenizer_config.json",
)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

#: Of each group, one file must be there.
PROCESSOR = (
    ("preprocessor_config.json", "processor_config.json"),
    ("tokenizer.json", "vocab.txt", "tokenizer.model", "vocab.json", "spiece.model"),
)

#: What is fetched of a repository beside its weights: files at its top and in one folder, and nothing that is run.
TEXTS, FOLDER = (".json", ".txt", ".model", ".jinja"), "qformer_tokenizer"

#: Files of a processor by what they are of; those of one kind come from one folder.
PARTS = (
    ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    (*PROCESSOR[1], "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    ("chat_template.jinja", "chat_template.json"),
)

#: Endings of weights in other formats.
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")

#: How a file begins that Git LFS has not fetched.
LFS = b"version https://git-lfs"


def check_files(folder: Path, name: str) -> None:
    """Refuse a directory that is incomplete, or from which more than numbers and texts would have to be read.

    Raises:
        VlmtraceError: a file is missing or was never fetched, the weights are not safetensors, they are in the format
            of another library, or a configuration names code
    """
    check_pointers(folder, name)
    if is_adapter(folder):
        check_adapter_files(folder, name)
        return
    if not (folder / "config.json").is_file():
        raise VlmtraceError(f"The directory {name} holds no config.json: {_where_it_may_be(folder)}.")
    check_format(read_json(folder / "config.json"), name)
    check_no_code(folder, name)
    if not (folder / WEIGHTS).is_file():
        missing = [shard for shard in shards(folder, name) if not (folder / shard).is_file()]
        if missing:
            raise VlmtraceError(
                f"{name} lacks {len(missing)} of the files that {INDEX} lists, the first is {missing[0]}: download "
                "them again."
            )
    for group in PROCESSOR:
        if not any((folder / file).is_file() for file in group):
            raise VlmtraceError(
                f"{name} holds none of {', '.join(group)}: save the processor into the same directory as the model, "
                "for a fine-tuned one that of the model that training began with."
            )


@contextlib.contextmanager
def processor_folder(own: Path, base: Path) -> Iterator[Path]:
    """While this is entered, a folder with the processor of an adapter: its own parts, and the other model's beside.

    Args:
        own: the adapter's folder, which may hold the tokenizer, or all of the processor, that it was trained with
        base: the folder of the model that it changes

    Yields:
        the folder; base where own has no part, or is base itself
    """
    there = [[file for file in part if (own / file).is_file()] for part in PARTS]
    if own == base or not any(there):
        yield base
        return
    with tempfile.TemporaryDirectory() as made:
        whence = {path.name: path for path in base.iterdir() if path.suffix in TEXTS or path.name == FOLDER}
        for part, files in zip(PARTS, there, strict=True):
            if files:
                whence = {file: path for file, path in whence.items() if file not in part}
                whence |= {file: own / file for file in files}
        for file, path in whence.items():
            (shutil.copytree if path.is_dir() else shutil.copy)(path, Path(made) / file)
        yield Path(made)


def _where_it_may_be(folder: Path) -> str:
    """What to give in place of a folder without config.json: a checkpoint of training below it, if there is one."""
    below = sorted(
        (path for path in folder.iterdir() if any((path / file).is_file() for file in ("config.json", ADAPTER_CONFIG))),
        key=lambda path: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)],
    )
    if not below:
        return "give one written by save_pretrained"
    return f"give one of the directories in it that do ({', '.join(path.name for path in below[-3:])})"


def check_pointers(folder: Path, name: str) -> None:
    """Raise if a configuration, tokenizer or template is the pointer that Git LFS leaves where it fetched nothing.

    Of weights `stored_tensors` says it.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix in TEXTS and path.is_file():
            with path.open("rb") as file:
                if file.read(len(LFS)) == LFS:
                    raise VlmtraceError(
                        f"{path.name} of {name} is a pointer of Git LFS, not the file itself: run git lfs pull in that "
                        "directory, or download it again."
                    )


def check_no_code(folder: Path, name: str) -> None:
    """Raise if a configuration asks for classes from the repository (auto_map) that transformers does not have itself.

    Where transformers knows the model's type, it has classes for model and processor, and the repository's are left
    aside: whatever is loaded is loaded with `trust_remote_code=False`.
    """
    asking = next((file for file in CONFIGS if "auto_map" in read_json(folder / file)), None)
    if asking is not None and not _is_known(read_json(folder / "config.json").get("model_type")):
        raise VlmtraceError(
            f"{name} brings code of its own (auto_map in {asking}), which vlmtrace never runs: use a checkpoint of a "
            "supported family that transformers loads by itself."
        )


def _is_known(model_type: Any) -> bool:
    """Whether transformers has a type of models, by itself or because a package that brings a family registered it."""
    from transformers import CONFIG_MAPPING  # here, as it takes seconds

    from vlmtrace.models.families import families

    families()
    return isinstance(model_type, str) and model_type in CONFIG_MAPPING


def shards(folder: Path, name: str) -> list[str]:
    """The files over which the weights are spread.

    Raises:
        VlmtraceError: there is no index of safetensors, or it names files elsewhere
    """
    index = folder / INDEX
    if not index.is_file():
        parts = sorted(path.name for path in folder.glob("model-*.safetensors"))
        if parts:
            raise VlmtraceError(
                f"{name} lacks {INDEX}, which says what lies in {parts[0]} and the like: download it again, or "
                "copy it from where they are from."
            )
        other = sorted(path.name for path in folder.iterdir() if _holds_other_weights(path))
        raise VlmtraceError(unsafe_weights(name, f"only {', '.join(other[:3])}" if other else "none"))
    weight_map = read_json(index).get("weight_map")
    files = sorted(set(weight_map.values())) if isinstance(weight_map, dict) else []
    if not files or not all(isinstance(file, str) and re.fullmatch(r"[\w.-]+\.safetensors", file) for file in files):
        raise VlmtraceError(f"{index} does not list safetensors files beside it: download it again.")
    return files


def _holds_other_weights(path: Path) -> bool:
    """Whether a file or folder looks like weights in another format, or in parts as DeepSpeed and FSDP write them."""
    return path.suffix in OTHER_WEIGHTS or (
        path.is_dir() and path.name.startswith(("global_step", "pytorch_model_fsdp"))
    )


def unsafe_weights(name: str, found: str) -> str:
    """The sentence about a model without safetensors, with what it holds in their place."""
    return (
        f"{name} holds no weights as safetensors ({found}), and vlmtrace reads no others, since they can carry code: "
        "use a revision that has model.safetensors, or load the model where you trust it and save it again with "
        "save_pretrained."
    )


def read_json(path: Path) -> dict:
    """What a JSON file holds; {} where there is none.

    Raises:
        VlmtraceError: it is no JSON, or no object
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise VlmtraceError(f"{path} is not valid JSON ({error}): download it again.") from error
    if not isinstance(content, dict):
        raise VlmtraceError(f"{path} holds no JSON object, but {json.dumps(content)[:40]}: download it again.")
    return content
