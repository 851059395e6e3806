"""MiniMax M3: images of any size, and a language model of experts."""

from vlmtrace.models.families.qwen import SquareBySquare
from vlmtrace.models.families.spec import FamilySpec

FAMILIES = [
    FamilySpec(
        "minimax_m3_vl",
        "MiniMax M3",
        "MiniMaxM3SparseForConditionalGeneration",
        image_tokens="one per square of patches",
        handled="experts, images of any size",
        vision_types=("minimax_m3_vl_vision",),
        vision_attention_weights=False,
        several_images=True,
        layout=SquareBySquare(),
        square_side=lambda config: config.vision_config.spatial_merge_size,
        caps_logits=False,
    )
]
