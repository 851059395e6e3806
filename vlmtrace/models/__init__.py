"""Vision-language models under one face: `load_model` and the classes behind it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoProcessor, BlipForQuestionAnswering

from vlmtrace.errors import VlmtraceError, one_of
from vlmtrace.models import reference
from vlmtrace.models.base import VLM, HookPoint, Inputs, open_image
from vlmtrace.models.blip import Blip
from vlmtrace.models.records import Block, Patches, Readout, Site, Token, Trace
from vlmtrace.models.snapshots import check_files, locate
from vlmtrace.paths import MODELS

__all__ = [
    "FAMILIES",
    "VLM",
    "Block",
    "HookPoint",
    "Inputs",
    "Patches",
    "Readout",
    "Site",
    "Token",
    "Trace",
    "bundled_models",
    "load_model",
    "open_image",
    "self_check",
]

#: Model type in config.json -> the transformers class that loads it, and its face here.
FAMILIES: dict[str, tuple[Any, type[VLM]]] = {"blip": (BlipForQuestionAnswering, Blip)}

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def bundled_models() -> list[str]:
    """Names of the models that come with the project."""
    return sorted(path.parent.name for path in MODELS.glob("*/config.json"))


def load_model(
    name_or_path: str | Path, device: str = "cpu", dtype: str = "float32", revision: str | None = None
) -> VLM:
    """Load a vision-language model and check that patching it gives exact numbers.

    Args:
        name_or_path: a bundled model's name, a directory written by `save_pretrained` (model and processor), or a
            model id on the Hugging Face hub (id@revision pins it)
        device: a torch device, e.g. "cpu", "cuda", "cuda:1", "mps"
        dtype: "float32", or on accelerators "bfloat16" or "float16"; metrics are computed in float32 in any case
        revision: branch, tag or commit of a model on the hub; the commit that was loaded is `VLM.revision`
    Raises:
        VlmtraceError: there is no such model, its family is not supported, or the device does not exist.
    """
    one_of(dtype, DTYPES, "dtype")
    name_or_path = f"{name_or_path}@{revision}" if revision else name_or_path
    path, commit = _locate(str(name_or_path))
    where = torch_device(device)
    if where.type == "cpu" and dtype != "float32":
        raise VlmtraceError(f"dtype {dtype} is for accelerators: on the CPU use float32.")
    try:
        config = AutoConfig.from_pretrained(path)
        family = _family(config, str(name_or_path))
        hf = family[0].from_pretrained(path, dtype=DTYPES[dtype], use_safetensors=True, attn_implementation="eager")
        processor = AutoProcessor.from_pretrained(path)
    except VlmtraceError:
        raise
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise VlmtraceError(
            f"There is no usable model {str(name_or_path)!r} ({reason}): give a bundled name "
            f"({', '.join(bundled_models()) or 'none is installed'}), a directory written by save_pretrained for model "
            "and processor, or a hub id."
        ) from error
    model = family[1](str(name_or_path), hf.to(where), processor)
    self_check(model)
    model.revision = commit
    return model


def _locate(name: str) -> tuple[str, str | None]:
    if name in bundled_models():
        check_files(MODELS / name, name)
        return str(MODELS / name), None
    return locate(name, bundled_models())


def _family(config: Any, name: str) -> tuple[Any, type[VLM]]:
    architectures = config.architectures or []
    found = FAMILIES.get(config.model_type)
    if found is None or (architectures and found[0].__name__ not in architectures):
        raise VlmtraceError(
            f"{name} is a {', '.join(architectures) or config.model_type}, which vlmtrace does not know: supported are "
            f"{', '.join(cls.__name__ for cls, _ in FAMILIES.values())}."
        )
    return found


def torch_device(name: str) -> torch.device:
    """The torch device of that name, if this machine has it.

    Raises:
        VlmtraceError: the name is unknown or the device absent.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise VlmtraceError(
            f"The device {name!r} cannot be used here: choose cpu, or cuda / mps where present."
        ) from error
    return device


def self_check(model: VLM) -> None:
    """Compare the fast sweep with the hooked reference on one site of every block, on two images of noise.

    A difference switches the model to the reference and says so: never a silently different number.

    Raises:
        VlmtraceError: a hook point of the model does not act on its answer.
    """
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2)]
    prompts = ["is this a or b?"] * 2
    clean, corrupt = (model.encode([image], [prompt]) for image, prompt in zip(images, prompts, strict=True))
    unknown = model.unknown_to_sweep(corrupt)
    if unknown:
        model.exact_fast_path = False
        warnings.warn(
            f"The fast sweep does not know {unknown} of {model.name}: sweeps will use the hooked reference, which is "
            "slow but right.",
            stacklevel=2,
        )
    dead = reference.hook_points_act(model, corrupt)
    if dead:
        raise VlmtraceError(
            f"Overwriting {dead[0]} leaves the answer of {model.name} as it was: the model is not supported."
        )
    if unknown:
        return
    clean_trace, corrupt_trace = model.trace(clean), model.trace(corrupt)
    answer_ids = corrupt_trace.logits.topk(2).indices
    worst = 0.0
    for block in model.blocks.values():
        modules = list(block.modules)
        heads = [block.n_heads - 1 if module in block.head_modules else None for module in modules]
        last = clean_trace[block.name, modules[0], 0].shape[1] - 1
        patches = Patches(
            block.name,
            modules,
            [block.n_layers // 2] * len(modules),
            heads,
            torch.full((1, len(modules)), min(1, last), device=model.device),
        )
        fast = model.sweep(clean_trace, corrupt_trace, corrupt, patches, answer_ids, memory=2**28)
        slow = reference.sweep(model, clean_trace, corrupt, patches, answer_ids)
        worst = max(worst, float((fast.correct - slow.correct).abs().max()))
    scale = float(corrupt_trace.logits.abs().max())
    tolerance = (1e-4 if model.dtype == torch.float32 else 5e-2) * max(scale, 1.0)
    model.exact_fast_path = worst <= tolerance
    if not model.exact_fast_path:
        warnings.warn(
            f"The fast sweep differs from the hooked reference by {worst:.2g} on {model.name}: "
            "sweeps will use the reference, which is slow but right.",
            stacklevel=2,
        )
