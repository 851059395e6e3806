"""Cosmos 3: Edge, with an encoder of SigLIP 2's kind, and Omni, with that of Qwen3-VL."""

from __future__ import annotations

from typing import Any

from vlmtrace.core.types import Array
from vlmtrace.models.families.qwen import SquareBySquare
from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import patch_size


class ChannelsLast(SquareBySquare):
    """The numbers of a patch are its pixels one after the other, each with its three channels."""

    def pictures(self, config: Any, pixels: Array) -> Array:
        """The patches as (patch, channel, height, width)."""
        return pixels.reshape(len(pixels), *patch_size(config), -1).transpose(0, 3, 1, 2)


FAMILIES = [
    FamilySpec(
        "cosmos3_edge",
        "Cosmos 3 Edge",
        "Cosmos3EdgeForConditionalGeneration",
        image_tokens="one per square of patches",
        handled="positions along three axes",
        vision="model.visual",
        vision_types=("cosmos3_edge_vision",),
        vision_attention_weights=False,
        prompt_start="<|vision_start|>{image}<|vision_end|>",
        # Without these kinds there are no positions along three axes, and the processor gives them only if told to.
        processor_settings={"return_mm_token_type_ids": True},
        several_images=True,
        layout=ChannelsLast(),
        square_side=lambda config: config.vision_config.spatial_merge_size,
        unread_weights=r"_moe_gen\.|(^|\.)(action_|time_embedder|proj_(in|out)\.)|add_[qkv]_proj|to_add_out|norm_added_|"
        r"k_norm_und_for_gen",
        caps_logits=False,
    ),
    FamilySpec(
        "cosmos3_omni",
        "Cosmos 3 Omni",
        "Cosmos3OmniForConditionalGeneration",
        image_tokens="one per square of patches",
        handled="positions along three axes, image features that enter again in later layers",
        vision="model.visual",
        vision_types=("qwen3_vl_vision",),
        vision_attention="attn",
        vision_attention_weights=False,
        prompt_start="<|vision_start|>{image}<|vision_end|>",
        several_images=True,
        layout=SquareBySquare(),
        square_side=lambda config: config.vision_config.spatial_merge_size,
        later_image_features=lambda config: len(config.vision_config.deepstack_visual_indexes),
        caps_logits=False,
    ),
]
