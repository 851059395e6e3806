"""LFM3-VL: short convolutions between layers with attention, in the language model and in the vision encoder."""

from vlmtrace.models.families.qwen import SquareBySquare
from vlmtrace.models.families.spec import FamilySpec

FAMILIES = [
    FamilySpec(
        "lfm3_vl",
        "LFM3-VL",
        "Lfm3VlForConditionalGeneration",
        image_tokens="one per square of patches",
        handled="text layers that carry a state (short convolutions) between those with attention, sliding windows",
        norm="embedding_norm",
        attention_output=("self_attn.o_proj", "conv.out_proj"),
        mlp="feed_forward",
        vision_types=("lfm3_vl_vision",),
        # Not all of its layers have attention.
        vision_attention_weights=False,
        prompt_start="<|vision_start|>{image}<|vision_end|>",
        several_images=True,
        layout=SquareBySquare(),
        square_side=lambda config: config.vision_config.spatial_merge_size,
    )
]
