"""Phi-4-multimodal: the image comes whole and in crops, side by side with sound, in a language model's embeddings."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import PatchLayout
from vlmtrace.models.types import Inputs


def _is_image(config: Any, inputs: Inputs) -> Tensor:
    return inputs["input_ids"] == config.vision_config.image_token_id


class CropByCrop(PatchLayout):
    """The whole image, then its crops."""

    pixels = "image_pixel_values"


FAMILIES = [
    FamilySpec(
        "phi4_multimodal",
        "Phi-4-multimodal",
        "Phi4MultimodalForCausalLM",
        image_tokens="one per square of patches of crops and of the whole image, newlines between rows",
        handled="newlines, padding; image tokens are given no place in the image",
        loader="Phi4MultimodalForCausalLM",
        text="model",
        vision="model.embed_tokens_extend.image_embed.img_processor",
        vision_types=("phi4_multimodal_vision",),
        vision_layers_read=lambda config: config.vision_config.feature_layer,
        several_images=True,
        square_side=None,
        pixels="image_pixel_values",
        is_image=_is_image,
        layout=CropByCrop(),
        caps_logits=False,
    )
]
