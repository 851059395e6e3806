"""Llama 3.2 Vision (Mllama): layers of cross-attention to the image stand between those of the language model."""

from vlmtrace.models.families.spec import FamilySpec

FAMILIES = [
    FamilySpec(
        "mllama",
        "Llama 3.2 Vision",
        "MllamaForConditionalGeneration",
        image_tokens="none: cross-attention from within the language model",
        handled="in layers of cross-attention, self_attention is the attention to the image; keys and values of the "
        "image are shared by all patches",
        interface="vlmtrace.models.mllama:Mllama",
        vision="model.vision_model",
        vision_types=(),
        attention_output=("self_attn.o_proj", "cross_attn.o_proj"),
        prompt_start="{image}",
        one_image="its language model looks at images by cross-attention, where they are not told apart",
        square_side=None,
    )
]
