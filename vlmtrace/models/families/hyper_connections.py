"""GLM-5-Next and Qwen4-Exp: several residual streams side by side, which layers mix (hyper-connections)."""

from vlmtrace.models.families.qwen import SquareBySquare
from vlmtrace.models.families.spec import FamilySpec

FAMILIES = [
    FamilySpec(
        "glm5_next",
        "GLM-5-Next",
        "Glm5NextForConditionalGeneration",
        image_tokens="one per square of patches",
        handled="residual streams side by side: a patch sets all of a position; linear and indexed attention",
        interface="vlmtrace.models.universal:UniversalDecoder",
        vision="model.visual",
        vision_types=(),
        attention_output="self_attn.o_proj",
        prompt_start="<|begin_of_image|>{image}<|end_of_image|>",
        several_images=True,
        layout=SquareBySquare(),
        square_side=lambda config: config.vision_config.spatial_merge_size,
        stream_axis=2,
    ),
    FamilySpec(
        "qwen4_exp",
        "Qwen4-Exp",
        "Qwen4ExpForConditionalGeneration",
        image_tokens="one per square of patches",
        handled="residual streams side by side: a patch sets all of a position; linear and indexed attention",
        interface="vlmtrace.models.universal:UniversalDecoder",
        vision="model.visual",
        vision_types=("qwen4_exp_vision",),
        vision_attention="attn",
        vision_attention_weights=False,
        norm="hyper_connection_mixer",
        attention_output=("self_attn.o_proj", "linear_attn.out_proj"),
        prompt_start="<|vision_start|>{image}<|vision_end|>",
        several_images=True,
        layout=SquareBySquare(),
        square_side=lambda config: config.vision_config.spatial_merge_size,
    ),
]
