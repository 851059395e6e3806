"""HyperCLOVA X Vision 2: the encoder of Qwen2.5-VL, and a language model whose logits are scaled."""

from vlmtrace.models.families.qwen import WindowByWindow
from vlmtrace.models.families.spec import FamilySpec

FAMILIES = [
    FamilySpec(
        "hyperclovax_vision_v2",
        "HyperCLOVA X Vision 2",
        "HyperCLOVAXVisionV2ForConditionalGeneration",
        image_tokens="one per square of patches",
        handled="scaled logits, attention windows in the vision encoder",
        vision="model.vision_model",
        vision_types=("qwen2_5_vl_vision",),
        vision_attention="attn",
        vision_attention_weights=False,
        several_images=True,
        layout=WindowByWindow(),
        square_side=lambda config: config.vision_config.spatial_merge_size,
        readout_scale=lambda config: config.text_config.logits_scaling,
        caps_logits=False,
    )
]
