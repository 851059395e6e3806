"""Load a model by name, directory or hub id, and check it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.paths import MODELS
from vlmtrace.models.families import families, family_of
from vlmtrace.models.hub import check_files, locate
from vlmtrace.models.processors import load_processor
from vlmtrace.models.sweep.self_check import self_check
from vlmtrace.models.vlm import VLM

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def bundled_models() -> list[str]:
    """Names of the models that come with the project, for `load_model`.

    Returns:
        the names, sorted

    Example:
        >>> import vlmtrace as vt
        >>> vt.bundled_models()
        ['tiny-blip', 'tiny-llava']
    """
    return sorted(path.parent.name for path in MODELS.glob("*/config.json"))


@checked
def load_model(
    name_or_path: str | Path,
    device: str = "cpu",
    dtype: str = "float32",
    revision: str | None = None,
    check: bool = True,
) -> VLM:
    """Load a vision-language model and check that patching it gives exact numbers.

    Args:
        name_or_path: a bundled model's name, a directory written by `save_pretrained` (model and processor), or a
            model id on the Hugging Face hub (id@revision pins it)
        device: a torch device, e.g. "cpu", "cuda", "cuda:1", "mps"
        dtype: "float32", or on accelerators "bfloat16" or "float16"; metrics are computed in float32 in any case
        revision: branch, tag or commit of a model on the hub; the commit that was loaded is `VLM.revision`
        check: compare the fast sweep with hooked forward passes, see `self_check`. False saves its time, and is right
            only for files that have just passed it without a warning, on the same device and with the same versions of
            the libraries, as when several processes load one model

    Returns:
        the model, ready for every function that takes one

    Raises:
        VlmtraceError: there is no such model, its family is not supported, its layers do not do what the family's are
            known to do, or the device does not exist

    Example:
        >>> import vlmtrace as vt
        >>> vt.load_model("tiny-blip")
        <Blip tiny-blip: layers × heads: vision_encoder 4×8, text_encoder 4×8, text_decoder 4×8>
    """
    one_of(dtype, DTYPES, "dtype")
    name_or_path = f"{name_or_path}@{revision}" if revision else name_or_path
    path, commit = _locate(str(name_or_path))
    torch_device = find_device(device)
    if torch_device.type == "cpu" and dtype != "float32":
        raise VlmtraceError(f"dtype {dtype} is for accelerators: on the CPU use float32.")
    families()  # packages that bring a family register its configuration with transformers when they are imported
    try:
        config = AutoConfig.from_pretrained(path)
        family = family_of(config, str(name_or_path))
        load = family.loader_class().from_pretrained
        hf = load(path, dtype=DTYPES[dtype], use_safetensors=True, **family.load_options)
        processor = load_processor(path, family.processor_context)
    except VlmtraceError:
        raise
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise VlmtraceError(
            f"There is no usable model {str(name_or_path)!r} ({reason}): give a bundled name "
            f"({', '.join(bundled_models()) or 'none is installed'}), a directory written by save_pretrained for model "
            "and processor, or a hub id."
        ) from error
    model = family.interface_class()(str(name_or_path), hf.to(torch_device), processor, family)
    model.revision = commit
    if check:
        self_check(model)
    return model


def _locate(name: str) -> tuple[str, str | None]:
    if name in bundled_models():
        check_files(MODELS / name, name)
        return str(MODELS / name), None
    return locate(name, bundled_models())


def find_device(name: str) -> torch.device:
    """The torch device of a name, if this machine has it.

    Args:
        name: e.g. "cpu", "cuda:1"

    Returns:
        the device

    Raises:
        VlmtraceError: the name is unknown or the device absent
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise VlmtraceError(
            f"The device {name!r} cannot be used here: choose cpu, or cuda / mps where present."
        ) from error
    return device
