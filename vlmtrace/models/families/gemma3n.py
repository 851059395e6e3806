"""Gemma 3n: residual streams side by side, embeddings for every layer, and layers that share keys and values."""

from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import UnknownLayout

FAMILIES = [
    FamilySpec(
        "gemma3n",
        "Gemma 3n",
        "Gemma3nForConditionalGeneration",
        image_tokens="256 for the whole image",
        handled="residual streams side by side: a patch sets all of a position; shared keys and values. Its vision "
        "encoder needs timm, and is not offered for patching",
        interface="vlmtrace.models.universal:UniversalDecoder",
        # The vision encoder is a convolutional network of the library timm, without a list of layers.
        vision="",
        vision_types=(),
        prompt_start="{image}",
        one_image="two images were never tried, since its processor was not at hand",
        layout=UnknownLayout(),
        square_side=None,
        stream_axis=0,
    )
]
