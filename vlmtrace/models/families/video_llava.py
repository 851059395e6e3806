"""Video-LLaVA: an encoder each for images and for videos, of which images take the first."""

from __future__ import annotations

from typing import Any

from vlmtrace.core.types import Array
from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import PatchLayout
from vlmtrace.models.types import Inputs

PIXELS = "pixel_values_images"


class OfImages(PatchLayout):
    """As most; the processor calls the images so, to tell them from videos."""

    pixels = PIXELS

    def positions(self, hf: Any, inputs: Inputs) -> Array:
        """There is one class token: the model has another, in the encoder of videos."""
        return super().positions(hf, inputs)[1:]


FAMILIES = [
    FamilySpec(
        "video_llava",
        "Video-LLaVA",
        "VideoLlavaForConditionalGeneration",
        image_tokens="one per patch",
        handled="for images; the encoder of videos is not run",
        vision="model.image_tower",
        several_images=True,
        pixels=PIXELS,
        layout=OfImages(),
        caps_logits=False,
    )
]
