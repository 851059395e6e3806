"""Cohere Compass: attention and feed-forward side by side, and image features that enter again in later layers."""

from vlmtrace.models.families.qwen import SquareBySquare
from vlmtrace.models.families.spec import FamilySpec

FAMILIES = [
    FamilySpec(
        "cohere_compass",
        "Cohere Compass",
        "CohereCompassForConditionalGeneration",
        image_tokens="one per square of patches",
        handled="attention and feed-forward side by side, sliding windows, layers without positions, scaled logits, "
        "image features that enter again in later layers (there a clean residual stream alone does not bring the "
        "clean run back)",
        vision="model.visual",
        vision_types=("cohere_compass_vision",),
        vision_attention="attn",
        # In every implementation the vision encoder's attention keeps its weights to itself.
        vision_attention_weights=False,
        prompt_start="<|VISION_START|>{image}<|VISION_END|>",
        several_images=True,
        layout=SquareBySquare(),
        square_side=lambda config: config.vision_config.spatial_merge_size,
        later_image_features=lambda config: len(config.vision_config.deepstack_visual_indexes),
        readout_scale=lambda config: 1.0 if config.text_config.logit_scale is None else config.text_config.logit_scale,
    )
]
