"""Qwen3.5 and its mixtures of experts: most layers of the language model carry a state instead of attending."""

from __future__ import annotations

from vlmtrace.models.families.qwen import SquareBySquare
from vlmtrace.models.families.spec import FamilySpec


def _qwen3_5(model_type: str, name: str, architecture: str) -> FamilySpec:
    return FamilySpec(
        model_type,
        name,
        architecture,
        image_tokens="one per square of patches",
        handled="positions along three axes; layers of linear attention, whose self_attention is what they read from "
        "their state: it has heads, but no attention weights",
        vision="model.visual",
        vision_types=(f"{model_type}_vision",),
        vision_attention="attn",
        # In every implementation the vision encoder's attention keeps its weights to itself.
        vision_attention_weights=False,
        attention_output=("self_attn.o_proj", "linear_attn.out_proj"),
        prompt_start="<|vision_start|>{image}<|vision_end|>",
        several_images=True,
        square_side=lambda config: config.vision_config.spatial_merge_size,
        layout=SquareBySquare(),
    )


FAMILIES = [
    _qwen3_5("qwen3_5", "Qwen3.5", "Qwen3_5ForConditionalGeneration"),
    _qwen3_5("qwen3_5_moe", "Qwen3.5 MoE", "Qwen3_5MoeForConditionalGeneration"),
]
