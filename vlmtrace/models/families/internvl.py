"""InternVL in its transformers form: tiles, each taken together by squares of patches."""

from vlmtrace.models.families.spec import FamilySpec

FAMILIES = [
    FamilySpec(
        "internvl",
        "InternVL",
        "InternVLForConditionalGeneration",
        image_tokens="one per square of patches, tile by tile",
        handled="tiles and the tokens between them",
        vision_types=("internvl_vision",),
        vision_attention="attention",
        square_side=lambda config: round(1 / config.downsample_ratio),
    )
]
