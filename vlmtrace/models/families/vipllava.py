"""ViP-LLaVA: LLaVA whose image tokens are made of several layers of CLIP."""

from vlmtrace.models.families import FamilySpec

FAMILIES = [
    FamilySpec(
        "vipllava",
        "ViP-LLaVA",
        "VipLlavaForConditionalGeneration",
        handled="features of several layers side by side",
        several_images=True,
        caps_logits=False,
    ),
]
