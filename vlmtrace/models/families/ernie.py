"""ERNIE-4.5-VL: a mixture of experts, of which some are for words and others for image tokens."""

from vlmtrace.models.families.qwen import SquareBySquare
from vlmtrace.models.families.spec import FamilySpec

FAMILIES = [
    FamilySpec(
        "ernie4_5_vl_moe",
        "ERNIE-4.5-VL",
        "Ernie4_5_VLMoeForConditionalGeneration",
        image_tokens="one per square of patches",
        handled="positions along three axes, experts for words and others for image tokens",
        vision_types=("ernie4_5_vl_moe_vision",),
        vision_attention="attn",
        # In every implementation the vision encoder's attention keeps its weights to itself.
        vision_attention_weights=False,
        prompt_start="Picture {number}:<|IMAGE_START|>{image}<|IMAGE_END|>",
        # A generated token is a word.
        more_token_fills={"moe_mm_token_type_ids": 0},
        several_images=True,
        layout=SquareBySquare(),
        square_side=lambda config: config.vision_config.spatial_merge_size,
    )
]
