"""Aya Vision: SigLIP and a Cohere language model, whose layers run attention and feed-forward side by side."""

from vlmtrace.models.families.spec import FamilySpec

FAMILIES = [
    FamilySpec(
        "aya_vision",
        "Aya Vision",
        "AyaVisionForConditionalGeneration",
        image_tokens="one per square of patches, tile by tile",
        handled="attention and feed-forward side by side, sliding windows",
        square_side=lambda config: config.downsample_factor,
    )
]
