"""A model's weights: those that its folder holds, all of them, and numbers every one.

transformers draws at random what a file lacks, and leaves out what it does not expect; either way a model would answer
that nobody has saved. Here both are refused, and so is what would need memory that no weight fills.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.failures import ONE_CHECKPOINT, explained
from vlmtrace.models.families import FamilySpec
from vlmtrace.models.finite import REMEDY
from vlmtrace.models.model_folders import LFS, WEIGHTS, shards
from vlmtrace.models.quiet import quiet_libraries, without_table
from vlmtrace.models.weight_values import named_values

#: Types of numbers that weights may have in a file; others belong to quantized checkpoints.
FLOATS = ("F64", "F32", "F16", "BF16")

#: Tensors of whole numbers that are no weights: positions and counters, which older checkpoints hold; RADIO's tokens.
COUNTERS = ("position_ids", "num_batches_tracked", "relative_position_index", "summary_idxs")

#: Bytes beyond those of the file for which a wrong configuration may ask before it is refused without a list of names.
SLACK = 2**27

#: How many tensors a sentence names.
NAMED = 3

REMEDY_WEIGHTS = "download the safetensors files again, or save the model again with save_pretrained"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the header of a safetensors file describes it.

    Attributes:
        dtype: the file's name for the type of its numbers, e.g. "BF16"
        shape: its sizes
    """

    dtype: str
    shape: tuple[int, ...]


def stored_tensors(folder: Path, name: str, is_quantized: bool = False) -> dict[str, StoredTensor]:
    """What the weight files of a folder hold, read from their headers alone.

    Args:
        folder: of the model
        name: of the model, for the sentence
        is_quantized: whether the configuration says that they hold codes and scales

    Returns:
        the tensors by name

    Raises:
        VlmtraceError: a file is broken, there is no tensor in them, or they hold numbers of a quantized model
            and the configuration does not say so
    """
    files = [WEIGHTS] if (folder / WEIGHTS).is_file() else shards(folder, name)
    found: dict[str, StoredTensor] = {}
    for file in files:
        remedy = REMEDY_WEIGHTS + sort_of_text(folder / file)
        reading = explained(f"{file} of {name} cannot be read as safetensors", remedy)
        with reading, safe_open(folder / file, "pt") as held:
            for key in held.keys():  # noqa: SIM118
                part = held.get_slice(key)
                found[key] = StoredTensor(part.get_dtype(), tuple(part.get_shape()))
    if not found:
        raise VlmtraceError(f"The weights of {name} hold no tensor: {REMEDY_WEIGHTS}.")
    odd = [key for key, held in found.items() if held.dtype not in FLOATS and not key.endswith(COUNTERS)]
    if is_quantized and not odd:
        raise VlmtraceError(
            f"config.json of {name} says that its weights are quantized, and they hold plain numbers, no codes: take "
            "configuration and weights of one checkpoint."
        )
    if odd and not is_quantized:
        raise VlmtraceError(
            f"{name} holds numbers of type {found[odd[0]].dtype} in {named(odd)}, as quantized checkpoints do, and "
            "its config.json does not say how they are quantized: use the checkpoint in float32, bfloat16 or float16."
        )
    return found


def sort_of_text(path: Path) -> str:
    """In words, what stands in a file that is no safetensors file, where it can be told; "" where it cannot."""
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if start.startswith(LFS):
        return " (it is a pointer of Git LFS: git lfs pull fetches the file itself)"
    return " (it is a web page)" if start.startswith((b"<!doctype", b"<html")) else ""


def check_size(family: FamilySpec, config: Any, stored: dict[str, StoredTensor], name: str) -> nn.Module:
    """Refuse a configuration whose model is far larger than the weights, before memory is taken for it.

    Args:
        family: of the model
        config: the model's transformers configuration
        stored: what the files hold
        name: of the model, for the sentence

    Returns:
        the model without numbers (on the device "meta")

    Raises:
        VlmtraceError: no model can be made of the configuration, or most of it would have no weights
    """
    loader = family.loader_class()
    # Of a class that chooses by the configuration, one that asks for code of its own would otherwise ask the user.
    build = partial(loader.from_config, trust_remote_code=False) if hasattr(loader, "from_config") else loader
    with explained(f"No model can be made of config.json of {name}"), torch.device("meta"), without_table():
        model = build(copy.deepcopy(config))
    wanted = {id(value): (key, value) for key, value in model.state_dict(keep_vars=True).items()}
    n_wanted = sum(value.numel() for _, value in wanted.values())
    # A byte of a quantized weight may hold two numbers.
    n_stored = sum(prod(held.shape) * (1 if held.dtype in FLOATS else 2) for held in stored.values())
    if n_wanted > 2 * n_stored + SLACK // 4:
        key, largest = max(wanted.values(), key=lambda item: item[1].numel())
        raise VlmtraceError(
            f"config.json of {name} describes a model of {n_wanted:,} numbers (its largest tensor, {key}, has "
            f"{sizes(largest.shape)}), and the weights hold {n_stored:,}: take configuration and weights of one "
            "checkpoint."
        )
    return model


def load_weights(
    path: Path, family: FamilySpec, dtype: torch.dtype, name: str, remedy: str = ONE_CHECKPOINT, **how: Any
) -> nn.Module:
    """The transformers model of a folder, with every weight from its files and none left over.

    Args:
        path: the folder
        family: of the model
        dtype: of its parameters
        name: of the model, for the sentence
        remedy: what to do where they cannot be loaded
        **how: further arguments of `from_pretrained`: where its parts lie, quantization, attention

    Returns:
        the model, on the CPU unless `how` names other places

    Raises:
        VlmtraceError: tensors are missing, unexpected or of other shapes, with their names
    """
    failure = f"The weights of {name} cannot be loaded"
    with (
        quiet_libraries(),
        _parts_told(name),
        explained(failure, remedy),
        without_table(),
        _offload_folder("device_map" in how) as offload,
    ):
        hf, told = family.loader_class().from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told, and refused below with their names
            trust_remote_code=False,
            **{**family.load_options, **offload, **how},
        )
        for folder in offload.values():
            weakref.finalize(hf, shutil.rmtree, folder, ignore_errors=True)
    missing, mismatched = sorted(told["missing_keys"]), sorted(told["mismatched_keys"])
    unexpected = sorted(key for key in told["unexpected_keys"] if not family.leaves_out(key))
    shapes = [f"{key} with {sizes(held)} where {sizes(wanted)} is expected" for key, held, wanted in mismatched]
    kinds = {"missing": missing, "of another shape": shapes, "not expected": unexpected}
    found = {kind: keys for kind, keys in kinds.items() if keys}
    faults = [
        f"{len(keys)} {'tensor is' if len(keys) == 1 else 'tensors are'} {kind}: "
        f"{named(keys, NAMED if len(found) == 1 else 1)}"
        for kind, keys in found.items()
    ]
    if faults:
        raise VlmtraceError(
            f"The weights of {name} are not those of the model that config.json describes ({'; '.join(faults)}): take "
            "configuration and weights of one checkpoint; where some may be left out, load it with transformers and "
            "save it again with save_pretrained."
        )
    return hf


@contextlib.contextmanager
def _parts_told(name: str) -> Iterator[None]:
    """While this is entered, tensors that transformers cannot put together from those of a file are told by name.

    Experts, say, lie in files one by one and in memory in one tensor. Of what fails transformers only writes a table.
    """
    logger = logging.getLogger("transformers.modeling_utils")
    tables: list[str] = []

    def listen(record: logging.LogRecord) -> bool:
        tables.append(record.getMessage())
        return True

    logger.addFilter(listen)
    try:
        yield
    except VlmtraceError as error:
        row = re.compile(r"^(\S+)\s*\|\s*CONVERSION\b", re.MULTILINE)
        keys = sorted({key for table in tables for key in row.findall(table)})
        if not keys:
            raise
        raise VlmtraceError(
            f"The weights of {name} are not those of the model that config.json describes: {named(keys)} cannot be put "
            "together, since tensors of which it is made are missing or of another shape; take configuration and "
            "weights of one checkpoint."
        ) from error.__cause__
    finally:
        logger.removeFilter(listen)


def check_names(hf: Any, stored: Iterable[str], name: str) -> None:
    """Refuse files that hold a tensor of the model twice, by today's name and an older one, as only one would be used.

    Args:
        hf: the transformers model that was loaded
        stored: names of the tensors in the files
        name: of the model, for the sentence

    Raises:
        VlmtraceError: two names mean the same tensor
    """
    mapping = get_model_conversion_mapping(hf)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    held = hf.state_dict()
    meant: dict[str, str] = {}
    for key in stored:
        found, made_of_several = rename_source_key(key, renamings, converters, hf.base_model_prefix, held)
        if found not in held and key in held:
            found, made_of_several = key, None
        if made_of_several is None and found in held and meant.setdefault(found, key) != key:
            raise VlmtraceError(
                f"The weights of {name} hold {found} twice, as {meant[found]} and as {key}, and only one of them would "
                "be used: save the model again with save_pretrained, or download it again."
            )


def check_finite_weights(hf: nn.Module, name: str) -> None:
    """Refuse weights that are NaN or infinite, each by its name.

    Args:
        hf: the transformers model; on the device and in the type in which it will run
        name: of the model, for the sentence

    Raises:
        VlmtraceError: a weight is not finite
    """
    broken = [
        key for key, value in named_values(hf) if value.numel() and not all(map(torch.isfinite, torch.aminmax(value)))
    ]
    if broken:
        raise VlmtraceError(
            f"{len(broken)} of the tensors of {name} hold numbers that are not finite ({named(broken)}). {REMEDY}"
        )


def named(keys: Sequence[str], n: int = NAMED) -> str:
    """The first n of several names, and how many more there are."""
    return ", ".join(keys[:n]) + (f" and {len(keys) - n} more" if len(keys) > n else "")


def sizes(shape: Iterable[int]) -> str:
    """A tensor's shape, as a sentence names it."""
    return " × ".join(map(str, shape)) or "one number"


@contextlib.contextmanager
def _offload_folder(is_needed: bool) -> Iterator[dict[str, str]]:
    """The argument that names a folder for weights that the disk holds; the folder is removed if loading fails."""
    if not is_needed:
        yield {}
        return
    folder = tempfile.mkdtemp(prefix="vlmtrace-offload-")
    try:
        yield {"offload_folder": folder}
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
