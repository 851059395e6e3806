"""Aria: queries read the image for a language model of experts."""

from vlmtrace.models.families.spec import FamilySpec

FAMILIES = [
    FamilySpec(
        "aria",
        "Aria",
        "AriaForConditionalGeneration",
        image_tokens="128 or 256 queries, which see all of the image",
        handled="experts; image tokens have no place in the image",
        vision_types=("idefics3_vision",),
        several_images=True,
        square_side=None,
        caps_logits=False,
    )
]
