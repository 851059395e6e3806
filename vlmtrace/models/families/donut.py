"""Donut and TrOCR: an encoder looks at a page or a line, and a decoder reads it by cross-attention."""

from __future__ import annotations

from typing import Any

from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import UnknownLayout

#: What the class is made of in checkpoints of both.
ENCODERS, DECODERS = ("donut-swin", "vit", "deit"), ("mbart", "trocr")


def _refusal(config: Any) -> str | None:
    encoder, decoder = config.encoder.model_type, config.decoder.model_type
    if encoder in ENCODERS and decoder in DECODERS:
        return None
    return (
        f"made of {encoder} and {decoder}, which is not known (those of {', '.join(ENCODERS)} with "
        f"{' or '.join(DECODERS)} are supported)"
    )


FAMILIES = [
    FamilySpec(
        "vision-encoder-decoder",
        "Donut and TrOCR",
        "VisionEncoderDecoderModel",
        image_tokens="none: cross-attention",
        handled="a decoder that begins with the prompt; of Donut's Swin encoder, places of the last stage",
        interface="vlmtrace.models.image_decoder:ImageDecoder",
        refusal=_refusal,
        vision_types=ENCODERS,
        vision_attention_weights=False,
        prompt_start="",
        one_image="its decoder reads one page or line by cross-attention",
        layout=UnknownLayout(),
        square_side=None,
    )
]
