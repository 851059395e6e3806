"""Load a model by name, directory or hub id, and check it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import MODELS
from vlmtrace.models.adapter_files import MERGE, Adapter, is_adapter, read_adapter
from vlmtrace.models.adapters import add_adapter
from vlmtrace.models.config_checks import RESTORE, check_config, check_layers
from vlmtrace.models.failures import explained
from vlmtrace.models.families import families, family_of
from vlmtrace.models.hub import locate
from vlmtrace.models.load_options import AUTO, DTYPES, QUANTIZATIONS, LoadOptions, check_computable, check_quantization
from vlmtrace.models.made_here import check_made
from vlmtrace.models.model_folders import check_files, processor_folder, read_json
from vlmtrace.models.placement import check_not_offloaded, find_device, resolved
from vlmtrace.models.processor_checks import (
    check_image_processor,
    check_prompts,
    check_sizing,
    check_stop_ids,
    check_tokenizer,
    complete_processor,
)
from vlmtrace.models.processors import load_processor
from vlmtrace.models.sweep.self_check import self_check
from vlmtrace.models.vlm import VLM
from vlmtrace.models.weight_values import settle
from vlmtrace.models.weights import (
    StoredTensor,
    check_finite_weights,
    check_names,
    check_size,
    load_weights,
    stored_tensors,
)

#: Which tokens end an answer.
GENERATION = "generation_config.json"

#: How safetensors call the types that can be computed in.
STORED_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def bundled_models() -> list[str]:
    """Names of the models that come with the project, for `load_model`, and of those that were made here.

    Returns:
        the names, sorted; smol-llava is among them once `make smol-llava` has made it

    Example:
        >>> import vlmtrace as vt
        >>> [name for name in vt.bundled_models() if name.startswith("tiny")]
        ['tiny-blip', 'tiny-llava']
    """
    return sorted(path.parent.name for path in MODELS.glob("[!.]*/config.json"))


@checked
def load_model(
    name_or_path: str | Path,
    device: str = "cpu",
    dtype: str = "float32",
    revision: str | None = None,
    check: bool = True,
    *,
    device_map: str | Mapping[str, Any] | None = None,
    quantization: str | None = None,
    attn_implementation: str | None = None,
    max_pixels: int | None = None,
    image_size: str | int | Sequence[int] | None = None,
) -> VLM:
    """Load a vision-language model and check that patching it gives exact numbers.

    Args:
        name_or_path: a bundled model's name; a directory written by `save_pretrained` (model and processor), or by that
            of PEFT (a LoRA adapter, which is added to the weights of the model that it names); or a model id on the
            Hugging Face hub (id@revision pins it). A model that is in memory already is taken by `wrap_model`
        device: a torch device, e.g. "cpu", "cuda", "cuda:1", "mps"; not given together with `device_map`
        dtype: "float32", "bfloat16", "float16" or "float64", on any device ("mps" has no float64), or "auto": as the
            checkpoint is stored. Metrics are computed in float32 in any case
        revision: branch, tag or commit of a model on the hub; the commit that was loaded is `VLM.revision`
        check: look for NaN in the weights, try the chat template, and compare the fast sweep with hooked forward
            passes, see `self_check`. False saves their time, and is right only for files that have just passed it
            without a warning, on the same device and with the same versions of the libraries, as when several
            processes load one model
        device_map: spread a model that one GPU cannot hold: "auto" (over all GPUs, then host memory, then the disk),
            "balanced", "sequential", or a device for each submodule, as accelerate takes it
            (https://huggingface.co/docs/accelerate); None: all of it is on `device`
        quantization: "bitsandbytes-8bit" (Dettmers et al. 2022, LLM.int8, https://arxiv.org/abs/2208.07339),
            "bitsandbytes-4bit" (NF4, Dettmers et al. 2023, QLoRA, https://arxiv.org/abs/2305.14314) or "torchao-int8"
            (weights alone); None: as the checkpoint is stored. Results are those of the quantized model
        attn_implementation: "sdpa" or "eager"; None: as transformers chooses
        max_pixels: images of more pixels are made smaller before the model's processor, in their own shape; 0 or
            None: no bound
        image_size: width and height to which every image is resampled first, "448x336" or (448, 336), or 448 for a
            square, so that both images of a pair have one size; None: images keep their own

    Returns:
        the model, ready for every function that takes one

    Raises:
        VlmtraceError: there is no such model, a file of it is broken, weights, configuration and processor do not
            belong together, its family is not supported, its layers do not do what the family's are known to do, the
            device does not exist, or a library is not installed; another library's exception is the sentence's
            `__cause__`

    Example:
        >>> import vlmtrace as vt
        >>> vt.load_model("tiny-blip")
        <Blip tiny-blip: layers × heads: vision_encoder 4×8, text_encoder 4×8, text_decoder 4×8>
        >>> vt.load_model("tiny-llava", dtype="bfloat16").dtype
        torch.bfloat16
    """
    options = LoadOptions.of(dtype, device_map, quantization, attn_implementation, max_pixels, image_size)
    name = str(name_or_path)
    folder, commit = _locate(f"{name}@{revision}" if revision else name)
    if options.device_map is not None and device != "cpu":
        raise VlmtraceError(
            f"device={device} and device_map are both given: leave device out, or name it in device_map alone."
        )
    model = _build(f"{name}@{revision}" if revision else name, folder, find_device(device), options)
    model.revision = commit
    check_sizing(model)
    if check:
        check_finite_weights(model.hf, model.name)
        check_prompts(model)
        with explained(f"The self-check of {model.name} fails", options.remedy):
            self_check(model)
    return model


def check_generation(folder: Path, name: str) -> None:
    """Refuse a generation_config.json that transformers cannot read: it says which tokens end an answer.

    Args:
        folder: of the model
        name: of the model, for the sentence

    Raises:
        VlmtraceError: the file is no JSON, or an entry is impossible
    """
    written = read_json(folder / GENERATION)
    with explained(f"generation_config.json of {name} cannot be used", "correct it, or download it again"):
        GenerationConfig.from_dict(written)


def _build(name: str, folder: Path, device: torch.device, options: LoadOptions) -> VLM:
    """The model of a folder; what is cheap is checked before what takes memory or time."""
    own, adapter = folder, read_adapter(folder, name) if is_adapter(folder) else None
    folder = _base_of(adapter, name) if adapter else folder
    written = check_config(folder, name)
    check_generation(folder, name)
    method = check_quantization(written, name)
    if method and options.quantization:
        raise VlmtraceError(
            f"{name} is quantized already, by {method}: leave quantization out, or take the checkpoint that it was "
            "made from."
        )
    families()  # packages that bring a family register its configuration with transformers when they are imported
    with explained(f"The configuration of {name} cannot be used", RESTORE):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        family = family_of(config, name)
    stored = stored_tensors(folder, name, is_quantized=method is not None)
    check_layers(written, name, len(stored))
    with processor_folder(own, folder) as place:
        processor = load_processor(place, family.processor_context, name)
        complete_processor(processor, config, read_json(place / "processor_config.json"))
    check_image_processor(processor, name)
    bare = check_size(family, config, stored, name)
    dtype = _stored_dtype(config, stored) if options.dtype == AUTO else DTYPES[options.dtype]
    check_computable(dtype, options.quantization, written, name)
    options = options.with_dtype(dtype)
    how = _how(options, dtype, device, method)
    if isinstance(options.device_map, Mapping):
        quantized = options.quantization or method
        if quantized and not _offloads_quantized(written):
            check_not_offloaded(options.device_map, name, quantized)
        how["device_map"] = resolved(options.device_map, bare, family.text, name)
    hf = load_weights(folder, family, dtype, name, options.remedy, **how)
    if method is None:
        check_names(hf, stored, name)
    if adapter:
        add_adapter(hf, adapter, name, {key: held.shape for key, held in stored.items()}, family.leaves_out)
    settle(hf)
    check_tokenizer(processor, hf, written, name)
    if "device_map" not in how:
        with explained(f"{name} cannot be put on {device}"):
            hf.to(device)
    with explained(f"{name} is not a {family.architecture} as vlmtrace knows it"):
        model = family.interface_class()(name, hf, processor, family)
    model.load_options = options
    check_stop_ids(model)
    return model


def _offloads_quantized(written: Mapping[str, Any]) -> bool:
    """Whether a checkpoint says that bitsandbytes may leave parts of it as they are, in host memory."""
    told = written.get("quantization_config")
    return isinstance(told, dict) and bool(told.get("llm_int8_enable_fp32_cpu_offload"))


def _how(options: LoadOptions, dtype: torch.dtype, device: torch.device, method: str | None) -> dict[str, Any]:
    """The arguments of `from_pretrained` that follow from what the user asked for."""
    found: dict[str, Any] = {}
    if options.attn_implementation is not None:
        found["attn_implementation"] = options.attn_implementation
    if options.quantization is not None:
        found["quantization_config"] = QUANTIZATIONS[options.quantization](dtype)
    if options.device_map is not None:
        found["device_map"] = options.device_map
    elif options.quantization is not None or method is not None:
        found["device_map"] = {"": device}
    return found


def _stored_dtype(config: Any, stored: Mapping[str, StoredTensor]) -> torch.dtype:
    """The number type of a checkpoint: what its configuration says, or that of most of its tensors."""
    said = getattr(config, "dtype", None)
    if isinstance(said, torch.dtype) and said in DTYPES.values():
        return said
    found = [STORED_DTYPES[tensor.dtype] for tensor in stored.values() if tensor.dtype in STORED_DTYPES]
    return max(set(found), key=found.count, default=torch.float32)


def _locate(name: str) -> tuple[Path, str | None]:
    bundled = bundled_models()
    check_made(name)
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
