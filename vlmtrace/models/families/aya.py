"""Aya Vision and Command A Vision: SigLIP, and layers of Cohere's that run attention and feed-forward side by side."""

from vlmtrace.models.families.spec import FamilySpec

FAMILIES = [
    FamilySpec(
        "aya_vision",
        "Aya Vision",
        "AyaVisionForConditionalGeneration",
        since="0.1.0",
        image_tokens="one per square of patches, tile by tile",
        handled="attention and feed-forward side by side, sliding windows",
        several_images=True,
        square_side=lambda config: config.downsample_factor,
    ),
    FamilySpec(
        "cohere2_vision",
        "Command A Vision",
        "Cohere2VisionForConditionalGeneration",
        image_tokens="one per square of patches, tile by tile",
        handled="attention and feed-forward side by side, sliding windows",
        several_images=True,
        square_side=lambda config: config.downsample_factor,
    ),
]
