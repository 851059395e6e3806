"""Chameleon: images become tokens of a vocabulary of their own, and no encoder passes anything else on."""

from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import UnknownLayout

FAMILIES = [
    FamilySpec(
        "chameleon",
        "Chameleon",
        "ChameleonForConditionalGeneration",
        image_tokens="one per place of the image's code, row by row",
        handled="logits of image tokens that are never given; there is no vision encoder but a quantizer",
        interface="vlmtrace.models.universal:UniversalDecoder",
        text="model",
        vision="model.vqmodel",
        vision_types=(),
        prompt_start="{image}",
        chats=False,
        # The processor ends every prompt with its separator.
        prompt_end="</s>",
        several_images=True,
        layout=UnknownLayout(),
        square_side=None,
    )
]
