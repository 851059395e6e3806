"""Llama 4: layers that see chunks of the sequence, layers without positions, and mixtures of experts."""

from vlmtrace.models.families.spec import FamilySpec

FAMILIES = [
    FamilySpec(
        "llama4",
        "Llama 4",
        "Llama4ForConditionalGeneration",
        image_tokens="one per square of patches, tile by tile",
        handled="attention within chunks, queries scaled by their position; image tokens have no place in the image; "
        "its processor needs torchvision",
        text="language_model.model",
        vision="vision_model",
        mlp="feed_forward",
        vision_types=(),
        several_images=True,
        square_side=None,
    )
]
