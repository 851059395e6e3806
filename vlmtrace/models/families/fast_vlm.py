"""FastVLM: a convolutional encoder of timm, which shrinks the image to a small grid of tokens."""

from vlmtrace.models.families.spec import FamilySpec, timm_encoder
from vlmtrace.models.patch_layout import TokenGrid

FAMILIES = [
    FamilySpec(
        "fast_vlm",
        "FastVLM",
        "FastVlmForConditionalGeneration",
        image_tokens="one per cell of the encoder's last, small map",
        handled="the vision encoder is not offered: most of it is convolutions",
        several_images=True,
        packages=timm_encoder,
        vision_types=(),
        layout=TokenGrid(),
        caps_logits=False,
    )
]
