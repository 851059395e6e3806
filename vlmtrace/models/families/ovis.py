"""Ovis 2: each square of patches becomes a mixture of visual words, whose embeddings the language model reads."""

from vlmtrace.models.families.spec import FamilySpec

FAMILIES = [
    FamilySpec(
        "ovis2",
        "Ovis 2",
        "Ovis2ForConditionalGeneration",
        image_tokens="one per square of patches, tile by tile",
        handled="tiles and the tokens between them, visual words",
        vision_types=("ovis2_vision",),
        vision_attention="attention",
        several_images=True,
        square_side=lambda config: config.vision_config.hidden_stride,
    )
]
