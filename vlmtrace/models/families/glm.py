"""GLM-4.1V, GLM-4.5V, GLM-4.6V and GLM-OCR: images of any size, whose patches come square by square, as in Qwen2-VL."""

from __future__ import annotations

from vlmtrace.models.families.qwen import SquareBySquare
from vlmtrace.models.families.spec import FamilySpec


def _glm(model_type: str, name: str, architecture: str, vision_type: str, handled: str = "") -> FamilySpec:
    return FamilySpec(
        model_type,
        name,
        architecture,
        image_tokens="one per square of patches",
        handled=f"positions along three axes{handled}",
        vision="model.visual",
        vision_types=(vision_type,),
        vision_attention="attn",
        # In every implementation the vision encoder's attention keeps its weights to itself.
        vision_attention_weights=False,
        prompt_start="<|begin_of_image|>{image}<|end_of_image|>",
        several_images=True,
        layout=SquareBySquare(),
        square_side=lambda config: config.vision_config.spatial_merge_size,
    )


FAMILIES = [
    _glm("glm4v", "GLM-4.1V", "Glm4vForConditionalGeneration", "glm4v_vision"),
    _glm("glm4v_moe", "GLM-4.5V", "Glm4vMoeForConditionalGeneration", "glm4v_moe_vision", ", experts"),
    _glm("glm46v", "GLM-4.6V", "Glm46VForConditionalGeneration", "glm4v_vision"),
    _glm("glmga", "GLM-GA", "Glm46VForConditionalGeneration", "glm4v_vision"),
    _glm("glm_ocr", "GLM-OCR", "GlmOcrForConditionalGeneration", "glm_ocr_vision"),
]
