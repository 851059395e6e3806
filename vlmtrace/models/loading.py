"""Load a model by name, directory or hub id, and check it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.paths import MODELS
from vlmtrace.models.adapter_files import MERGE, Adapter, is_adapter, read_adapter
from vlmtrace.models.adapters import add_adapter
from vlmtrace.models.config_checks import RESTORE, check_config, check_layers
from vlmtrace.models.failures import explained
from vlmtrace.models.families import families, family_of
from vlmtrace.models.hub import locate
from vlmtrace.models.model_folders import check_files, processor_folder, read_json
from vlmtrace.models.processor_checks import (
    check_image_processor,
    check_prompts,
    check_stop_ids,
    check_tokenizer,
    complete_processor,
)
from vlmtrace.models.processors import load_processor
from vlmtrace.models.sweep.self_check import self_check
from vlmtrace.models.vlm import VLM
from vlmtrace.models.weights import check_finite_weights, check_names, check_size, load_weights, stored_tensors

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
        name_or_path: a bundled model's name; a directory written by `save_pretrained` (model and processor), or by that
            of PEFT (a LoRA adapter, which is added to the weights of the model that it names); or a model id on the
            Hugging Face hub (id@revision pins it). A model that is in memory already is taken by `wrap_model`
        device: a torch device, e.g. "cpu", "cuda", "cuda:1", "mps"
        dtype: "float32", or on accelerators "bfloat16" or "float16"; metrics are computed in float32 in any case
        revision: branch, tag or commit of a model on the hub; the commit that was loaded is `VLM.revision`
        check: look for NaN in the weights, try the chat template, and compare the fast sweep with hooked forward
            passes, see `self_check`. False saves their time, and is right only for files that have just passed it
            without a warning, on the same device and with the same versions of the libraries, as when several
            processes load one model

    Returns:
        the model, ready for every function that takes one

    Raises:
        VlmtraceError: there is no such model, a file of it is broken, weights, configuration and processor do not
            belong together, its family is not supported, its layers do not do what the family's are known to do, or
            the device does not exist; another library's exception is the sentence's `__cause__`

    Example:
        >>> import vlmtrace as vt
        >>> vt.load_model("tiny-blip")
        <Blip tiny-blip: layers × heads: vision_encoder 4×8, text_encoder 4×8, text_decoder 4×8>
    """
    one_of(dtype, DTYPES, "dtype")
    name = str(name_or_path)
    folder, commit = _locate(f"{name}@{revision}" if revision else name)
    torch_device = find_device(device)
    if torch_device.type == "cpu" and dtype != "float32":
        raise VlmtraceError(f"dtype {dtype} is for accelerators: on the CPU use float32.")
    model = _build(f"{name}@{revision}" if revision else name, folder, torch_device, DTYPES[dtype])
    model.revision = commit
    if check:
        check_finite_weights(model.hf, model.name)
        check_prompts(model)
        with explained(f"The self-check of {model.name} fails"):
            self_check(model)
    return model


def _build(name: str, folder: Path, device: torch.device, dtype: torch.dtype) -> VLM:
    """The model of a folder; what is cheap is checked before what takes memory or time."""
    own, adapter = folder, read_adapter(folder, name) if is_adapter(folder) else None
    folder = _base_of(adapter, name) if adapter else folder
    written = check_config(folder, name)
    families()  # packages that bring a family register its configuration with transformers when they are imported
    with explained(f"The configuration of {name} cannot be used", RESTORE):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        family = family_of(config, name)
    stored = stored_tensors(folder, name)
    check_layers(written, name, len(stored))
    with processor_folder(own, folder) as place:
        processor = load_processor(place, family.processor_context, name)
        complete_processor(processor, config, read_json(place / "processor_config.json"))
    check_image_processor(processor, name)
    check_size(family, config, stored, name)
    hf = load_weights(folder, family, dtype, name)
    check_names(hf, stored, name)
    if adapter:
        add_adapter(hf, adapter, name)
    check_tokenizer(processor, hf, written, name)
    with explained(f"{name} cannot be put on {device}"):
        hf.to(device)
    with explained(f"{name} is not a {family.architecture} as vlmtrace knows it"):
        model = family.interface_class()(name, hf, processor, family)
    check_stop_ids(model)
    return model


def _locate(name: str) -> tuple[Path, str | None]:
    bundled = bundled_models()
    with explained(f"The files of {name!r} cannot be found", "give a bundled name, a directory, or a hub id"):
        if name in bundled:
            check_files(MODELS / name, name)
            return MODELS / name, None
        folder, commit = locate(name, bundled)
        return Path(folder), commit


def _base_of(adapter: Adapter, name: str) -> Path:
    """The folder of the model that an adapter changes."""
    try:
        folder, _ = _locate(adapter.base)
    except VlmtraceError as error:
        raise VlmtraceError(
            f"{name} holds an adapter for the model {adapter.base}, which cannot be had ({str(error).rstrip('.')}): "
            "where it lies elsewhere, correct base_model_name_or_path of adapter_config.json."
        ) from error
    if is_adapter(folder):
        raise VlmtraceError(f"{name} holds an adapter for {adapter.base}, which is an adapter itself: {MERGE}.")
    return folder


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
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise VlmtraceError(
            f"The device {name!r} cannot be used here: choose cpu, or cuda / mps where present."
        ) from error
    return device
