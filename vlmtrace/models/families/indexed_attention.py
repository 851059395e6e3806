"""Families whose layers choose by an index what they attend to, or mix attention with convolutions in one layer."""

from typing import Any

from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import UnknownLayout


def _by_batches(model_type: str, name: str, architecture: str, handled: str, **more: Any) -> FamilySpec:
    return FamilySpec(
        model_type,
        name,
        architecture,
        image_tokens="as the processor says",
        handled=f"{handled}. Its vision encoder is not offered for patching",
        interface="vlmtrace.models.universal:UniversalDecoder",
        vision="",
        vision_types=(),
        one_image="two images were never tried, since its processor was not at hand",
        layout=UnknownLayout(),
        square_side=None,
        **more,
    )


FAMILIES = [
    _by_batches(
        "dots3_note",
        "Dots 3 Note",
        "Dots3NoteForConditionalGeneration",
        "indexed and latent attention, experts",
        prompt_start="{image}",
    ),
    _by_batches(
        "mistral_large4",
        "Mistral Large 4",
        "MistralLarge4ForConditionalGeneration",
        "indexed and latent attention, keys and values that layers share, experts",
    ),
    _by_batches(
        "inkling_mm_model",
        "Inkling",
        "InklingForConditionalGeneration",
        "attention and short convolutions in one layer, experts",
    ),
    _by_batches(
        "inkling2",
        "Inkling 2",
        "Inkling2ForConditionalGeneration",
        "attention and short convolutions in one layer, experts, blocks of layers that add to later ones",
    ),
]
