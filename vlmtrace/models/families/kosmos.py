"""Kosmos-2 and Kosmos-2.5: queries read the image, and a mask says where they stand in the text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import TokenRow
from vlmtrace.models.types import Inputs

MASK = "image_embeds_position_mask"


def _is_image(config: Any, inputs: Inputs) -> Tensor:
    """As the processor says; the ids that stand there mean nothing."""
    if MASK not in inputs:
        return torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    return inputs[MASK] == 1


def _kosmos(model_type: str, name: str, architecture: str, **more: Any) -> FamilySpec:
    return FamilySpec(
        model_type,
        name,
        architecture,
        handled="places of the image by a mask; image tokens have no place in the image",
        text="text_model.model",
        vision="vision_model",
        norm="layer_norm",
        attention_output="self_attn.out_proj",
        mlp="ffn",
        text_only="text_model",
        prompt_start="",
        one_image="its processor puts the tokens of one image in front of the prompt",
        square_side=None,
        is_image=_is_image,
        more_token_fills={MASK: 0},
        caps_logits=False,
        **more,
    )


FAMILIES = [
    _kosmos(
        "kosmos-2",
        "Kosmos-2",
        "Kosmos2ForConditionalGeneration",
        image_tokens="64 queries, which see all of the image",
        vision_types=("kosmos_2_vision_model",),
    ),
    _kosmos(
        "kosmos-2.5",
        "Kosmos-2.5",
        "Kosmos2_5ForConditionalGeneration",
        image_tokens="2048 queries, which see all of the image",
        pixels="flattened_patches",
        layout=TokenRow(_is_image),
        vision_types=(),
    ),
]
