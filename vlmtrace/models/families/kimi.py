"""Kimi K2.5: a mixture of experts with latent attention, and images of any size."""

from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import PatchList

FAMILIES = [
    FamilySpec(
        "kimi_k25",
        "Kimi K2.5",
        "Kimi_K25ForConditionalGeneration",
        image_tokens="one per square of patches",
        handled="latent attention, experts",
        vision_types=("kimi_k25_vision",),
        vision_attention="attn",
        # In every implementation the vision encoder's attention keeps its weights to itself.
        vision_attention_weights=False,
        prompt_start="<|media_begin|>image<|media_content|>{image}<|media_end|>\n",
        several_images=True,
        layout=PatchList(),
        square_side=lambda config: config.vision_config.merge_kernel_size[0],
    )
]
