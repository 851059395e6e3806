"""DeepSeek-VL, Janus, DeepSeek-OCR 2 and Unlimited-OCR: DeepSeek's language models behind SigLIP, SAM or both."""

from __future__ import annotations

from typing import Any

from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import PatchLayout
from vlmtrace.models.types import Inputs


class OfSam(PatchLayout):
    """Of two encoders one behind the other, SAM's sees the patches."""

    def patch_size(self, config: Any, inputs: Inputs) -> tuple[int, int]:
        """SAM's."""
        side = config.vision_config.sam_config.patch_size
        return side, side


def _with_lists(inputs: Inputs) -> dict[str, Any]:
    """Numbers of tiles as lists, as the model takes them."""
    listed = ("num_local_patches", "patches_grid")
    return {name: value.tolist() if name in listed else value for name, value in inputs.items()}


FAMILIES = [
    FamilySpec(
        "deepseek_vl",
        "DeepSeek-VL",
        "DeepseekVLForConditionalGeneration",
        handled="images filled up to a square",
        vision="model.vision_model",
        several_images=True,
    ),
    FamilySpec(
        "deepseek_vl_hybrid",
        "DeepSeek-VL with two encoders",
        "DeepseekVLHybridForConditionalGeneration",
        handled="images filled up to a square; SigLIP is the vision encoder that is offered, and what SAM sees of the "
        "image in high resolution stays as it is",
        vision="model.vision_model",
        several_images=True,
    ),
    FamilySpec(
        "janus",
        "Janus",
        "JanusForConditionalGeneration",
        handled="answers in words; images filled up to a square",
        vision="model.vision_model",
        vision_types=("janus_vision_model",),
        several_images=True,
    ),
    FamilySpec(
        "deepseek_ocr2",
        "DeepSeek-OCR 2",
        "DeepseekOcr2ForConditionalGeneration",
        image_tokens="queries, which see all of a tile",
        handled="experts, tiles; image tokens have no place in the image",
        vision_types=(),
        several_images=True,
        layout=OfSam(),
        square_side=None,
    ),
    FamilySpec(
        "unlimited_ocr",
        "Unlimited-OCR",
        "UnlimitedOcrForConditionalGeneration",
        image_tokens="one per square of SAM's patches, mixed with those around it; newlines between rows",
        handled="experts, tiles; SAM and CLIP one behind the other, neither of them offered; image tokens have no "
        "place in the image; an answer counts as a part of the prompt, so that it forgets none of its beginning",
        vision_types=(),
        several_images=True,
        layout=OfSam(),
        square_side=None,
        as_batch=_with_lists,
    ),
]
