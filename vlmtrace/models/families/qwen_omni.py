"""Qwen2.5-Omni and Qwen3-Omni: the thinker, which reads images, sound and text and writes text."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

from vlmtrace.models.families.qwen import SquareBySquare, WindowByWindow
from vlmtrace.models.families.spec import FamilySpec


class _Thinker:
    """Builds and loads the thinker out of a checkpoint that holds the talker, too."""

    architecture: str

    @classmethod
    def _class(cls) -> Any:
        return getattr(import_module("transformers"), cls.architecture)

    @classmethod
    def from_config(cls, config: Any, **_options: Any) -> Any:
        """Of the configuration of the whole."""
        return cls._class()(config.thinker_config)

    @classmethod
    def from_pretrained(cls, path: Any, **options: Any) -> Any:
        """As transformers does."""
        return cls._class().from_pretrained(path, **options)


class Thinker25(_Thinker):
    """Of Qwen2.5-Omni."""

    architecture = "Qwen2_5OmniThinkerForConditionalGeneration"


class Thinker3(_Thinker):
    """Of Qwen3-Omni."""

    architecture = "Qwen3OmniMoeThinkerForConditionalGeneration"


def _thinker(model_type: str, name: str, architecture: str, loader: type[_Thinker], **more: Any) -> list[FamilySpec]:
    """The thinker by itself, and in a checkpoint of the whole, whose talker is left where it is."""
    alone = FamilySpec(
        f"{model_type}_thinker",
        f"{name} (thinker)",
        loader.architecture,
        image_tokens="one per square of patches",
        loader=loader.architecture,
        vision_attention="attn",
        vision_attention_weights=False,
        prompt_start="<|vision_bos|>{image}<|vision_eos|>",
        several_images=True,
        square_side=lambda config: config.vision_config.spatial_merge_size,
        caps_logits=False,
        **more,
    )
    whole = replace(
        alone,
        model_type=model_type,
        name=name,
        architecture=architecture,
        also_named=(architecture.replace("ForConditionalGeneration", "Model"),),
        loader=f"{__name__}:{loader.__name__}",
        unread_weights=r"^(talker|token2wav|code2wav)\.",
        handled=f"{alone.handled}; what speaks is not loaded",
    )
    return [alone, whole]


FAMILIES = [
    *_thinker(
        "qwen2_5_omni",
        "Qwen2.5-Omni",
        "Qwen2_5OmniForConditionalGeneration",
        Thinker25,
        handled="positions along three axes, attention windows in the vision encoder; for images",
        vision="model.visual",
        vision_types=("qwen2_5_omni_vision_encoder",),
        layout=WindowByWindow(),
    ),
    *_thinker(
        "qwen3_omni_moe",
        "Qwen3-Omni",
        "Qwen3OmniMoeForConditionalGeneration",
        Thinker3,
        handled="positions along three axes, experts, image features that enter again in later layers; for images",
        # The encoder begins with a list that is none of layers.
        vision="model.visual.blocks",
        vision_types=("qwen3_omni_moe_vision_encoder",),
        layout=SquareBySquare(),
        later_image_features=lambda config: len(config.vision_config.deepstack_visual_indexes),
    ),
]
