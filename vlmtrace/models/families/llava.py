"""LLaVA-1.5, LLaVA-NeXT and LLaVA-OneVision: one image token per patch of CLIP, SigLIP or Pixtral's encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vlmtrace.core.types import Array
from vlmtrace.models.families.mistral import of_pixtral
from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.types import Inputs


def _pack(hf: Any, patches: Array, inputs: Inputs, newline: float, **options: Any) -> Array:
    """By the model's own code for features: padding is dropped, and a newline follows each row."""
    features = torch.from_numpy(patches).float().flatten(1, 2)  # (tile, patch, …)
    ends = torch.full(patches.shape[-1:], newline)
    packed, _ = hf.model.pack_image_features([features], inputs["image_sizes"][:1].cpu(), image_newline=ends, **options)
    return np.asarray(packed[0])


def _pack_next(hf: Any, patches: Array, inputs: Inputs, newline: float) -> Array:
    strategy = hf.config.vision_feature_select_strategy
    return _pack(hf, patches, inputs, newline, vision_feature_select_strategy=strategy)


def _pack_onevision(hf: Any, patches: Array, inputs: Inputs, newline: float) -> Array:
    return _pack(hf, patches, inputs, newline, vision_aspect_ratio=hf.config.vision_aspect_ratio)


TILED = "one per patch of the whole image and of its tiles, newlines between rows"

FAMILIES = [
    FamilySpec(
        "llava",
        "LLaVA-1.5",
        "LlavaForConditionalGeneration",
        since="0.1.0",
        handled="layers above vision_feature_layer are not offered; features of several layers side by side; Pixtral, "
        "whose images have any size",
        adapt=of_pixtral,
        # Whatever the text configuration says (that of Gemma 2 does): the forward pass of LLaVA's classes caps nothing.
        caps_logits=False,
        several_images=True,
    ),
    FamilySpec(
        "llava_next",
        "LLaVA-NeXT",
        "LlavaNextForConditionalGeneration",
        since="0.1.0",
        image_tokens=TILED,
        handled="padding, newlines",
        several_images=True,
        pack=_pack_next,
        caps_logits=False,
    ),
    FamilySpec(
        "llava_next_video",
        "LLaVA-NeXT-Video",
        "LlavaNextVideoForConditionalGeneration",
        image_tokens=TILED,
        handled="padding, newlines; for images",
        several_images=True,
        pack=_pack_next,
        caps_logits=False,
    ),
    FamilySpec(
        "llava_onevision",
        "LLaVA-OneVision",
        "LlavaOnevisionForConditionalGeneration",
        since="0.1.0",
        image_tokens=TILED,
        handled="padding, newlines",
        several_images=True,
        pack=_pack_onevision,
        caps_logits=False,
    ),
]
