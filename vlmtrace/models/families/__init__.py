"""Families of decoder-only models: where each keeps its parts, and which are refused, with the reason.

What differs between families is little: the paths of their modules, what stands around the image in a prompt where the
processor has no chat template, and how many patches of the image share a token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

#: Patches along each side of the square that one image token stands for, read from a model's configuration.
Merge = Callable[[Any], int]


@dataclass(frozen=True)
class Parts:
    """What is particular about a family.

    Attributes:
        cls: the transformers class
        text, vision: dotted paths from the model to its stack of text layers and its vision encoder
        norm: the final norm's path in the stack of text layers
        out, mlp: paths in a text layer: the attention's output projection, and the feed-forward (its last module)
        before: what precedes the prompt where the processor has no chat template; "" where the processor itself puts
            the image's tokens
        after: what the processor itself adds behind the prompt
        merge: None where an image token stands for no particular patches
        packed: the image tokens are rearranged after projection: padding dropped, a newline after each row
        adds_between: image features are added between the first text layers, too
        generated_type: the kind that a generated token has in `token_type_ids`
    """

    cls: str
    text: str = "model.language_model"
    vision: str = "model.vision_tower"
    norm: str = "norm"
    out: str = "self_attn.o_proj"
    mlp: str = "mlp"
    before: str = "{image}\n"
    after: str = ""
    merge: Merge | None = lambda _config: 1
    packed: bool = False
    adds_between: bool = False
    generated_type: int = 0

    @property
    def fills(self) -> dict[str, int]:
        """Inputs that have one entry a position, beside the ids, and what a generated token has in them."""
        return {"attention_mask": 1, "token_type_ids": self.generated_type, "mm_token_type_ids": 0}


def _qwen(cls: str, adds_between: bool = False) -> Parts:
    return Parts(
        cls,
        vision="model.visual",
        before="<|vision_start|>{image}<|vision_end|>",
        merge=lambda config: config.vision_config.spatial_merge_size,
        adds_between=adds_between,
    )


def _idefics(cls: str) -> Parts:
    return Parts(cls, "model.text_model", "model.vision_model", merge=lambda config: config.scale_factor)


def _gemma3_merge(config: Any) -> int:
    side = config.vision_config.image_size // config.vision_config.patch_size
    return side // round(config.mm_tokens_per_image**0.5)


#: Model type in config.json -> parts.
PARTS = {
    "llava": Parts("LlavaForConditionalGeneration"),
    "llava_next": Parts("LlavaNextForConditionalGeneration", packed=True),
    "llava_onevision": Parts("LlavaOnevisionForConditionalGeneration", packed=True),
    "qwen2_vl": _qwen("Qwen2VLForConditionalGeneration"),
    "qwen2_5_vl": _qwen("Qwen2_5_VLForConditionalGeneration"),
    "qwen3_vl": _qwen("Qwen3VLForConditionalGeneration", adds_between=True),
    "gemma3": Parts("Gemma3ForConditionalGeneration", merge=_gemma3_merge),
    # What PaliGemma generates belongs to the causal part of the sequence, not to the prompt, all of which sees itself.
    "paligemma": Parts("PaliGemmaForConditionalGeneration", before="{image}", after="\n", generated_type=1),
    "idefics3": _idefics("Idefics3ForConditionalGeneration"),
    "smolvlm": _idefics("SmolVLMForConditionalGeneration"),
    "internvl": Parts("InternVLForConditionalGeneration", merge=lambda config: round(1 / config.downsample_ratio)),
    "aya_vision": Parts("AyaVisionForConditionalGeneration", merge=lambda config: config.downsample_factor),
    "blip-2": Parts("Blip2ForConditionalGeneration", "language_model.model", "vision_model", before="", merge=None),
    "instructblip": Parts(
        "InstructBlipForConditionalGeneration", "language_model.model", "vision_model", before="", merge=None
    ),
}

#: Vision encoders whose positions are known to be patches of the image, and which.
VISION = (
    "clip_vision_model",
    "siglip_vision_model",
    "internvl_vision",
    "idefics3_vision",
    "smolvlm_vision",
    "blip_2_vision_model",
    "instructblip_vision_model",
    "qwen2_vl_vision",
    "qwen2_5_vl_vision",
    "qwen3_vl_vision",
)

#: Those of them whose attention keeps its weights to itself, in every implementation.
WEIGHTLESS = ("qwen2_vl_vision", "qwen2_5_vl_vision", "qwen3_vl_vision")


def parts_of(config: Any) -> Parts:
    """A family's parts, whichever language model it was joined with."""
    parts = PARTS[config.model_type]
    if config.get_text_config().model_type == "opt":
        stack, norm = "language_model.model.decoder", "final_layer_norm"
        return replace(parts, text=stack, norm=norm, out="self_attn.out_proj", mlp="fc2")
    return parts


def why_refused(config: Any) -> str | None:
    """Why models with this configuration are not supported, as the end of a sentence; None: nothing is against it."""
    text: Any = getattr(config, "text_config", None)
    if config.model_type in ("blip-2", "instructblip") and getattr(text, "is_encoder_decoder", False):
        return (
            f"whose language model {text.model_type} has an encoder of its own, in which the image's tokens stand "
            "(those with a decoder-only language model are supported)"
        )
    return {
        "mllama": "which looks at the image by cross-attention from within its language model",
        "molmo2": "whose images only torchvision can prepare, so that it could not be checked",
        "florence2": "whose language model has an encoder of its own, in which the image's tokens stand",
    }.get(config.model_type)
