"""EXAONE 4.5: an encoder of Qwen2.5-VL's kind, with a language model of sliding and full attention."""

from vlmtrace.models.families.qwen import WindowByWindow
from vlmtrace.models.families.spec import FamilySpec

FAMILIES = [
    FamilySpec(
        "exaone4_5",
        "EXAONE 4.5",
        "Exaone4_5_ForConditionalGeneration",
        image_tokens="one per square of patches",
        handled="sliding windows, attention windows in the vision encoder",
        vision="model.visual",
        vision_types=("exaone4_5_vision",),
        vision_attention="attn",
        vision_attention_weights=False,
        prompt_start="<vision>{image}</vision>",
        several_images=True,
        layout=WindowByWindow(),
        square_side=lambda config: config.vision_config.spatial_merge_size,
        caps_logits=False,
    )
]
