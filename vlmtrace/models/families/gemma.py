"""Gemma 3 and PaliGemma 1 and 2: image tokens see each other in both directions."""

from __future__ import annotations

from typing import Any

from vlmtrace.models.families.spec import FamilySpec


def _gemma3_side(config: Any) -> int:
    side = config.vision_config.image_size // config.vision_config.patch_size
    return side // round(config.mm_tokens_per_image**0.5)


FAMILIES = [
    FamilySpec(
        "gemma3",
        "Gemma 3",
        "Gemma3ForConditionalGeneration",
        since="0.1.0",
        image_tokens="one per square of patches",
        handled="an image that sees itself in both directions, sliding windows",
        several_images=True,
        square_side=_gemma3_side,
        # Its forward pass does not cap the logits, whatever its text configuration says.
        caps_logits=False,
    ),
    FamilySpec(
        "paligemma",
        "PaliGemma 1 and 2",
        "PaliGemmaForConditionalGeneration",
        since="0.1.0",
        handled="a prompt that sees itself in both directions (so that the fast sweep gains little over hooks), "
        "sliding windows, capped logits",
        prompt_start="{image}",
        chats=False,
        prompt_end="\n",
        several_images=True,
        # What it generates belongs to the causal part of the sequence, not to the prompt.
        generated_token_type=1,
    ),
]
