"""Pix2Struct (and DePlot, MatCha): the question is drawn above the image, and read there by the vision encoder."""

from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import UnknownLayout

FAMILIES = [
    FamilySpec(
        "pix2struct",
        "Pix2Struct",
        "Pix2StructForConditionalGeneration",
        image_tokens="none: cross-attention",
        handled="a question that is drawn above the image: patches of the header have the roles of the words that they "
        "show; runs of unlike header are refused",
        interface="vlmtrace.models.pix2struct:Pix2Struct",
        vision_types=("pix2struct_vision_model",),
        pixels="flattened_patches",
        prompt_start="",
        one_image="the question is drawn above one image",
        layout=UnknownLayout(),
        square_side=None,
    )
]
