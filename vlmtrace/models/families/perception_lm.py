"""Perception LM: the encoder is timm's, its patches are pooled, and the image comes whole and in tiles."""

from vlmtrace.models.families.spec import FamilySpec, timm_encoder
from vlmtrace.models.patch_layout import TokenGrid

FAMILIES = [
    FamilySpec(
        "perception_lm",
        "Perception LM",
        "PerceptionLMForConditionalGeneration",
        image_tokens="one per square of patches of the whole image and of its tiles",
        handled="tiles; the vision encoder is not offered: it is timm's",
        several_images=True,
        packages=timm_encoder,
        vision_types=(),
        layout=TokenGrid(),
        caps_logits=False,
    )
]
