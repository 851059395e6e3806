"""A transformers model that is already in memory, under the interface of this package."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.paths import from_home
from vlmtrace.models.failures import ONE_CHECKPOINT, explained
from vlmtrace.models.families import FamilySpec, families, family_of
from vlmtrace.models.load_options import DTYPES
from vlmtrace.models.model_folders import read_json
from vlmtrace.models.processor_checks import (
    check_image_processor,
    check_prompts,
    check_stop_ids,
    check_tokenizer,
    complete_processor,
)
from vlmtrace.models.processors import PROCESSOR, check_fast, load_processor
from vlmtrace.models.sweep.self_check import self_check
from vlmtrace.models.vlm import VLM
from vlmtrace.models.weight_values import is_quantized
from vlmtrace.models.weights import check_finite_weights

#: Wrappers that people put around a model, by the name of their class → how to get at the model.
WRAPPERS = {
    "OptimizedModule": "model._orig_mod, as it was before torch.compile",
    "DataParallel": "model.module",
    "DistributedDataParallel": "model.module",
    "FullyShardedDataParallel": "a model whose weights are gathered on one device",
    "DeepSpeedEngine": "model.module",
}


@checked
def wrap_model(hf: Any, processor: Any, name: str = "", check: bool = True) -> VLM:
    """Take a transformers model that is already in memory, and check it as `load_model` does one from files.

    Its weights are shared and not copied; everything else is, so that the model stays as it is: in training, with its
    gradients, its own settings and its own hooks. Hooks that it carries act in what is returned, too. Whatever changes
    the weights in place, such as a step of training, changes what is returned; the weights that were looked at are told
    by `VLM.fingerprint`.

    Args:
        hf: a transformers model of a supported family, such as `AutoModelForImageTextToText` gives, on its device and
            in its number type; a model with an adapter of PEFT after `merge_and_unload`
        processor: its processor (`AutoProcessor.from_pretrained(…)`), or a directory that holds its processor
        name: for messages and records; "": the model's class. A run on a cluster loads models by their names, and
            needs one that is saved
        check: as in `load_model`

    Returns:
        the model, ready for every function that takes one

    Raises:
        VlmtraceError: it is no transformers model, its family is not supported, an adapter is not merged, weights are
            not in memory, not finite, or of types or on devices that do not go together, or model and processor do not
            belong together

    Example:
        >>> import vlmtrace as vt
        >>> loaded = vt.load_model("tiny-llava")
        >>> hf, processor = loaded.hf, loaded.processor  # or as transformers' from_pretrained gives them
        >>> model = vt.wrap_model(hf, processor, name="mine")
        >>> model.fingerprint() == loaded.fingerprint()
        True
    """
    name = name or f"{type(hf).__name__} in memory"
    _check_kind(hf, name)
    families()  # packages that bring a family are imported now
    with explained(f"The configuration of {name} cannot be used"):
        config = copy.deepcopy(hf.config)
        config.architectures = [type(hf).__name__]  # one that was made by its class names none
        family = family_of(config, name)
    written = hf.config.to_diff_dict()
    own = _processor(processor, family, config, name)
    check_image_processor(own, name)
    with explained(f"{name} cannot be taken from memory", "save it with save_pretrained and load that directory"):
        shared = same_weights(hf)
        attention = family.load_options.get("attn_implementation")
        if attention is not None:
            shared.set_attn_implementation(attention)
    check_tokenizer(own, shared, written, name)
    with explained(f"{name} is not a {family.architecture} as vlmtrace knows it"):
        model = family.interface_class()(name, shared, own, family)
    check_stop_ids(model)
    if check:
        check_finite_weights(shared, name)
        check_prompts(model)
        with explained(f"The self-check of {name} fails", _remedy(shared)):
            self_check(model)
    return model


def _remedy(hf: nn.Module) -> str:
    """What to do where a model cannot be run: most often its parts do not go together."""
    kinds: dict[str, list[str]] = {}
    for key, value in hf.named_parameters():
        if value.is_floating_point():
            kinds.setdefault(str(value.dtype).removeprefix("torch."), []).append(key)
    if len(kinds) < 2 or is_quantized(hf):
        return ONE_CHECKPOINT
    said = ", ".join(f"{kind} in {keys[0]}" for kind, keys in kinds.items())
    return f"its weights are of several number types ({said}), and must be of one, as after model.to(torch.float32)"


def _check_kind(hf: Any, name: str) -> None:
    """Raise a sentence if an object is no whole transformers model."""
    kind = type(hf).__name__
    if kind in WRAPPERS:
        raise VlmtraceError(f"wrap_model takes a transformers model, not the {kind} around one: give {WRAPPERS[kind]}.")
    if isinstance(hf, nn.Module) and any(type(part).__module__.split(".")[0] == "peft" for part in hf.modules()):
        raise VlmtraceError(
            f"{name} holds an adapter of PEFT, which stands beside its layers: give model.merge_and_unload(), which "
            "adds it to the weights."
        )
    if not isinstance(hf, PreTrainedModel):
        raise VlmtraceError(
            f"wrap_model takes a transformers model, such as AutoModelForImageTextToText.from_pretrained gives, not "
            f"{kind}: load a model by its name or directory with vt.load_model."
        )
    _check_weights(hf, name)


def _check_weights(hf: nn.Module, name: str) -> None:
    """Raise a sentence if weights are elsewhere, or of a type that nothing is computed in."""
    values = {**dict(hf.named_parameters()), **dict(hf.named_buffers())}
    away = [key for key, value in values.items() if value.device.type == "meta"]
    placed = getattr(hf, "hf_device_map", None)
    if away:
        how = "device_map put them on the disk or in host memory" if placed else "they are on the device meta"
        raise VlmtraceError(
            f"{len(away)} of the tensors of {name} are not in memory (the first is {away[0]}; {how}): load it without "
            "that, or by its directory with vt.load_model, which takes a device_map, too."
        )
    devices = {str(value.device): key for key, value in hf.named_parameters()}
    if len(devices) > 1 and not placed:
        said = ", ".join(f"{key} on {device}" for device, key in devices.items())
        raise VlmtraceError(
            f"{name} lies on several devices ({said}), and nothing carries activations between them: load it with "
            "device_map, or put it on one, as with model.to('cuda')."
        )
    odd = {key: value.dtype for key, value in hf.named_parameters() if value.dtype not in DTYPES.values()}
    if odd and not is_quantized(hf):
        key, dtype = next(iter(odd.items()))
        raise VlmtraceError(
            f"{name} holds {key} as {str(dtype).removeprefix('torch.')}, in which nothing can be computed: put it into "
            f"one of {', '.join(DTYPES)}, as with model.to(torch.bfloat16)."
        )


def _processor(processor: Any, family: FamilySpec, config: Any, name: str) -> Any:
    """A processor of one's own: the given one stays as it is where entries are completed."""
    if isinstance(processor, str | Path):
        folder = from_home(processor)
        if not folder.is_dir():
            raise VlmtraceError(
                f"There is no directory {processor} with the processor of {name}: give one that "
                "processor.save_pretrained wrote, or the processor itself."
            )
        own = load_processor(folder, family.processor_context, name)
        written = read_json(folder / "processor_config.json")
    else:
        if not hasattr(processor, "tokenizer"):
            raise VlmtraceError(
                f"The processor of {name} is given as {type(processor).__name__}, which has no tokenizer beside the "
                f"preparation of images: give AutoProcessor.from_pretrained(…), or {PROCESSOR}."
            )
        check_fast(processor, name)
        with explained(f"The processor of {name} cannot be copied", "give the directory in which it is saved"):
            own = copy.deepcopy(processor)
        # What it has counts as told, but for the 0 that a processor has that was told nothing.
        written = {**vars(own), "num_additional_image_tokens": getattr(own, "num_additional_image_tokens", 0) or None}
    complete_processor(own, config, written)
    return own


def same_weights(hf: nn.Module) -> Any:
    """A copy of a model that shares every parameter and buffer with it, and nothing else.

    Args:
        hf: any module; it stays as it is

    Returns:
        the copy, whose parameters need no gradient of their own
    """
    known: dict[int, Any] = {id(buffer): buffer for buffer in hf.buffers()}
    for value in hf.parameters():
        # Quantized weights are of classes of their own, which hold more than numbers.
        plain = type(value) is nn.Parameter
        known[id(value)] = nn.Parameter(value.detach(), requires_grad=False) if plain else value
    with torch.no_grad():
        return copy.deepcopy(hf, known)
