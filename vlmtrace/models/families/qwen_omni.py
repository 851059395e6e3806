"""Qwen2.5-Omni and Qwen3-Omni: the thinker, which reads images, sound and text and writes text."""

from __future__ import annotations

from typing import Any

from vlmtrace.models.families.qwen import SquareBySquare, WindowByWindow
from vlmtrace.models.families.spec import FamilySpec


def _thinker(model_type: str, name: str, architecture: str, **more: Any) -> FamilySpec:
    return FamilySpec(
        model_type,
        name,
        architecture,
        image_tokens="one per square of patches",
        loader=architecture,
        vision_attention="attn",
        vision_attention_weights=False,
        prompt_start="<|vision_bos|>{image}<|vision_eos|>",
        square_side=lambda config: config.vision_config.spatial_merge_size,
        caps_logits=False,
        **more,
    )


FAMILIES = [
    _thinker(
        "qwen2_5_omni_thinker",
        "Qwen2.5-Omni (thinker)",
        "Qwen2_5OmniThinkerForConditionalGeneration",
        handled="positions along three axes, attention windows in the vision encoder; for images",
        vision="model.visual",
        vision_types=("qwen2_5_omni_vision_encoder",),
        layout=WindowByWindow(),
    ),
    _thinker(
        "qwen3_omni_moe_thinker",
        "Qwen3-Omni (thinker)",
        "Qwen3OmniMoeThinkerForConditionalGeneration",
        handled="positions along three axes, experts, image features that enter again in later layers; for images",
        # The encoder begins with a list that is none of layers.
        vision="model.visual.blocks",
        vision_types=("qwen3_omni_moe_vision_encoder",),
        layout=SquareBySquare(),
        later_image_features=lambda config: len(config.vision_config.deepstack_visual_indexes),
    ),
]
