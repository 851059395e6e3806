"""Checkpoints in the format of another library, for which one in the format of transformers exists.

LLaVA's authors (liuhaotian, lmms-lab) publish checkpoints that their own code loads; the same weights lie converted in
the repositories of llava-hf. The two are told apart by what config.json holds, or by the name alone, so that nothing
large is downloaded first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vlmtrace.core.errors import VlmtraceError

#: Repositories of LLaVA's authors → those with the same weights in the format of transformers. Names are as people
#: write them after the slash.
CONVERTED = {
    "llava-v1.5-7b": "llava-hf/llava-1.5-7b-hf",
    "llava-v1.5-13b": "llava-hf/llava-1.5-13b-hf",
    "llava-v1.6-vicuna-7b": "llava-hf/llava-v1.6-vicuna-7b-hf",
    "llava-v1.6-vicuna-13b": "llava-hf/llava-v1.6-vicuna-13b-hf",
    "llava-v1.6-mistral-7b": "llava-hf/llava-v1.6-mistral-7b-hf",
    "llava-v1.6-34b": "llava-hf/llava-v1.6-34b-hf",
    "llama3-llava-next-8b": "llava-hf/llama3-llava-next-8b-hf",
    "llava-next-72b": "llava-hf/llava-next-72b-hf",
    "llava-next-110b": "llava-hf/llava-next-110b-hf",
    "llava-onevision-qwen2-0.5b-ov": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    "llava-onevision-qwen2-0.5b-si": "llava-hf/llava-onevision-qwen2-0.5b-si-hf",
    "llava-onevision-qwen2-7b-ov": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "llava-onevision-qwen2-7b-si": "llava-hf/llava-onevision-qwen2-7b-si-hf",
    "llava-onevision-qwen2-7b-ov-chat": "llava-hf/llava-onevision-qwen2-7b-ov-chat-hf",
    "llava-onevision-qwen2-72b-ov": "llava-hf/llava-onevision-qwen2-72b-ov-hf",
    "llava-onevision-qwen2-72b-si": "llava-hf/llava-onevision-qwen2-72b-si-hf",
    "llava-onevision-qwen2-72b-ov-chat": "llava-hf/llava-onevision-qwen2-72b-ov-chat-hf",
}

#: Whose repositories these are.
AUTHORS = ("liuhaotian", "lmms-lab")

#: Width of the language model → its size, by the version of LLaVA.
SIZES = {
    "1.5": {4096: "llava-v1.5-7b", 5120: "llava-v1.5-13b"},
    "1.6": {4096: "llava-v1.6-vicuna-7b", 5120: "llava-v1.6-vicuna-13b", 7168: "llava-v1.6-34b"},
    "OneVision": {
        896: "llava-onevision-qwen2-0.5b-ov",
        3584: "llava-onevision-qwen2-7b-ov",
        8192: "llava-onevision-qwen2-72b-ov",
    },
}


def check_repository(repo: str) -> None:
    """Refuse a repository of LLaVA's authors by its name, before anything of it is looked for.

    Args:
        repo: on the hub

    Raises:
        VlmtraceError: it is known to be in their format; the sentence names the one to use
    """
    owner, _, model = repo.partition("/")
    converted = CONVERTED.get(model.lower())
    if owner.lower() in AUTHORS and converted:
        raise VlmtraceError(f"{repo} is in the format of LLaVA's own code: use {converted}, the same model converted.")


def check_format(config: Mapping[str, Any], name: str) -> None:
    """Refuse a checkpoint in the format of LLaVA's own code.

    Args:
        config: what config.json holds
        name: of the model, for the sentence

    Raises:
        VlmtraceError: it is in that format; the sentence names the converted repository of its kind, if there is one
    """
    if "mm_projector_type" not in config and "mm_vision_tower" not in config:
        return
    if "text_config" in config or "vision_config" in config:
        return  # transformers' own, with entries left over
    converted = CONVERTED.get(_model_of(config, name))
    remedy = f"use {converted}" if converted else "use the one of its kind that llava-hf has on the hub"
    raise VlmtraceError(
        f"{name} is in the format of LLaVA's own code (mm_projector_type in config.json): {remedy}; "
        "where the weights were trained further, convert them with the script convert_llava_weights_to_hf.py of "
        "transformers, or its like for LLaVA-NeXT and LLaVA-OneVision."
    )


def _model_of(config: Mapping[str, Any], name: str) -> str:
    """The published model that a checkpoint is, or is like, as `CONVERTED` names it; "" if none is known."""
    for said in (name, config.get("_name_or_path")):
        last = re.split(r"[/\\]", str(said or "").rstrip("/\\"))[-1].split("@")[0].lower()
        if last in CONVERTED:
            return last
    architecture = " ".join(config.get("architectures") or []) if isinstance(config.get("architectures"), list) else ""
    tiled = "anyres" in str(config.get("image_aspect_ratio")) or config.get("mm_patch_merge_type") == "spatial_unpad"
    if "Mistral" in architecture:
        return "llava-v1.6-mistral-7b" if tiled else ""
    if "Qwen" in architecture:
        version = "OneVision" if "siglip" in str(config.get("mm_vision_tower")) else ""
    elif config.get("mm_projector_type") == "mlp2x_gelu":
        version = "1.6" if tiled else "1.5"
    else:
        version = ""
    width = config.get("hidden_size")
    return SIZES.get(version, {}).get(width, "") if isinstance(width, int) else ""
