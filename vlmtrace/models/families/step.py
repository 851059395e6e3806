"""Step 3.7: the image comes whole and, if it is large, in crops; two convolutions shrink what the encoder gives."""

from vlmtrace.models.families.spec import FamilySpec, tokens_with_image_id
from vlmtrace.models.patch_layout import TokenRow

FAMILIES = [
    FamilySpec(
        "step3p7",
        "Step 3.7",
        "Step3p7ForConditionalGeneration",
        image_tokens="one per square of 4 × 4 patches, crops before the whole image",
        handled="experts, gated attention, heads that differ by layer; image tokens are given no place in the image, "
        "and the vision encoder is not offered: it runs twice, on crops and on the whole image",
        vision="model.vision_model",
        vision_types=(),
        several_images=True,
        square_side=None,
        layout=TokenRow(tokens_with_image_id),
        caps_logits=False,
    )
]
