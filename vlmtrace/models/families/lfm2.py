"""LFM2-VL: most layers of the language model are short convolutions instead of attention."""

from vlmtrace.models.families.spec import FamilySpec

FAMILIES = [
    FamilySpec(
        "lfm2_vl",
        "LFM2-VL",
        "Lfm2VlForConditionalGeneration",
        image_tokens="one per square of patches, tile by tile",
        handled="layers of short convolutions, whose self_attention is what they gather, with one head and no "
        "attention weights; image tokens have no place in the image; its processor needs torchvision",
        norm="embedding_norm",
        attention_output=("self_attn.out_proj", "conv.out_proj"),
        mlp="feed_forward",
        vision_types=(),
        several_images=True,
        square_side=None,
    )
]
