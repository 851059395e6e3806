"""InternVL in its transformers form, and Qianfan-OCR after it: tiles, each taken together by squares of patches."""

from __future__ import annotations

from typing import Any

from vlmtrace.models.families.spec import FamilySpec


def _internvl(model_type: str, name: str, architecture: str, **more: Any) -> FamilySpec:
    return FamilySpec(
        model_type,
        name,
        architecture,
        image_tokens="one per square of patches, tile by tile",
        handled="tiles and the tokens between them",
        vision_types=(f"{model_type}_vision",),
        vision_attention="attention",
        several_images=True,
        square_side=lambda config: round(1 / config.downsample_ratio),
        **more,
    )


FAMILIES = [
    _internvl("internvl", "InternVL", "InternVLForConditionalGeneration", since="0.1.0"),
    _internvl("qianfan_ocr", "Qianfan-OCR", "QianfanOCRForConditionalGeneration"),
]
