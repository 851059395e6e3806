"""GOT-OCR 2 and PP-Chart2Table: SAM's encoder, whose patches four strides of convolution bring together."""

from __future__ import annotations

from typing import Any

from vlmtrace.models.families.spec import FamilySpec

#: Along each side: two convolutions behind the encoder, each of stride 2.
STRIDE = 4


def _got(model_type: str, name: str, **more: Any) -> FamilySpec:
    return FamilySpec(
        model_type,
        name,
        "GotOcr2ForConditionalGeneration",
        image_tokens="one per square of patches, which convolutions mix with those around it",
        handled="attention windows in the vision encoder",
        vision_types=(f"{model_type}_vision",),
        # Its attention works on windows, side by side, and not on the positions that the layers have.
        vision_attention="",
        vision_attention_weights=False,
        square_side=lambda _config: STRIDE,
        mixes_squares=True,
        **more,
    )


FAMILIES = [
    _got(
        "got_ocr2",
        "GOT-OCR 2",
        prompt_start="<|im_start|>user\n<img>{image}</img>\n",
        one_image="its processor takes several as the pages of one document",
    ),
    # The chat template writes the image's tokens, all of them.
    _got("pp_chart2table", "PP-Chart2Table", prompt_start="", one_image="its prompt holds the tokens of one chart"),
]
