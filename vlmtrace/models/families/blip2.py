"""BLIP-2 and InstructBLIP: queries read the image for a frozen language model, OPT's or Llama's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vlmtrace.models.families.spec import FamilySpec


def _adapt(spec: FamilySpec, config: Any) -> FamilySpec:
    """OPT keeps its submodules elsewhere than Llama."""
    if config.get_text_config().model_type != "opt":
        return spec
    return replace(
        spec,
        text="language_model.model.decoder",
        norm="final_layer_norm",
        attention_output="self_attn.out_proj",
        mlp="fc2",
    )


def _refusal(config: Any) -> str | None:
    text: Any = getattr(config, "text_config", None)
    if not getattr(text, "is_encoder_decoder", False):
        return None
    return (
        f"whose language model {text.model_type} has an encoder of its own, in which the image's tokens stand "
        "(those with a decoder-only language model are supported)"
    )


def _queries(model_type: str, name: str, architecture: str, vision_type: str) -> FamilySpec:
    return FamilySpec(
        model_type,
        name,
        architecture,
        since="0.1.0",
        image_tokens="32 queries, which see all of the image",
        handled="with OPT or Llama; image tokens have no place in the image",
        refusal=_refusal,
        adapt=_adapt,
        text="language_model.model",
        vision="vision_model",
        # Without an image these models are their language model, and nothing else.
        text_only="language_model",
        vision_types=(vision_type,),
        prompt_start="",
        square_side=None,
    )


FAMILIES = [
    _queries("blip-2", "BLIP-2", "Blip2ForConditionalGeneration", "blip_2_vision_model"),
    _queries("instructblip", "InstructBLIP", "InstructBlipForConditionalGeneration", "instructblip_vision_model"),
]
