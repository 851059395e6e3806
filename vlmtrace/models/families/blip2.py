"""BLIP-2, InstructBLIP and InstructBLIP-Video: queries read the image for a frozen OPT, Llama or T5."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from vlmtrace.models.families.spec import FamilySpec, StackSpec
from vlmtrace.models.patch_layout import UnknownLayout


def _t5(stack: str, **attentions: str) -> StackSpec:
    feed_forward = {"encoder": "layer.1.DenseReluDense", "decoder": "layer.2.DenseReluDense"}[stack]
    return StackSpec(
        f"language_model.{stack}.block",
        {"mlp": feed_forward, "self_attention": "layer.0.SelfAttention.o", **attentions},
        lambda config: config.text_config.num_heads,
        # What they give second are the biases of relative positions.
        gives_weights=False,
        mask_argument="mask",
    )


#: Where T5 keeps its parts.
T5 = {
    "text_encoder": _t5("encoder"),
    "text_decoder": _t5("decoder", cross_attention="layer.1.EncDecAttention.o"),
}


def _adapt(spec: FamilySpec, config: Any) -> FamilySpec:
    """OPT keeps its submodules elsewhere than Llama; T5 reads the prompt in an encoder, and answers in a decoder."""
    if config.get_text_config().model_type == "t5":
        return replace(
            spec,
            handled="an encoder that reads queries and prompt, and a decoder that answers",
            interface="vlmtrace.models.encoder_decoder:EncoderDecoder",
            vision_types=(),
            layout=UnknownLayout(),
            stacks=T5,
        )
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
    if not getattr(text, "is_encoder_decoder", False) or text.model_type == "t5":
        return None
    return f"whose language model {text.model_type} is not known (those with OPT, Llama and T5 are supported)"


@contextlib.contextmanager
def without_torchvision() -> Iterator[None]:
    """While this is entered, frames are prepared with Pillow."""
    from vlmtrace.models.still_frames import with_still_frames  # imports transformers, which is slow

    with with_still_frames():
        yield


def _queries(model_type: str, name: str, architecture: str, vision_type: str, **more: Any) -> FamilySpec:
    said = {
        "since": "0.1.0",
        "image_tokens": "32 queries, which see all of the image",
        "handled": "with OPT, Llama or T5; image tokens have no place in the image",
    }
    return FamilySpec(
        model_type,
        name,
        architecture,
        refusal=_refusal,
        adapt=_adapt,
        text="language_model.model",
        vision="vision_model",
        # Without an image these models are their language model, and nothing else.
        text_only="language_model",
        vision_types=(vision_type,),
        prompt_start="",
        one_image="its processor makes tokens of one image",
        square_side=None,
        **{**said, **more},
    )


FAMILIES = [
    _queries("blip-2", "BLIP-2", "Blip2ForConditionalGeneration", "blip_2_vision_model"),
    _queries("instructblip", "InstructBLIP", "InstructBlipForConditionalGeneration", "instructblip_vision_model"),
    _queries(
        "instructblipvideo",
        "InstructBLIP-Video",
        "InstructBlipVideoForConditionalGeneration",
        "instructblipvideo_vision_model",
        since="0.2.0",
        image_tokens="32 queries for each of four frames, which see all of a frame",
        handled="its processor takes videos of four frames: an image is shown in all four, as a video in which nothing "
        "moves; with OPT, Llama or T5; image tokens have no place in the image",
        processor_context=without_torchvision,
        still_frames=4,
        is_image=lambda config, inputs: inputs["input_ids"] == config.video_token_id,
    ),
]
