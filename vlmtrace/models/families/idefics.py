"""Idefics 2, 3 and SmolVLM: an image is cut into tiles, of which the language model sees one after the other.

IDEFICS, the first, looks at the image by cross-attention, in gated layers between those of its language model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any
from unittest.mock import patch

from vlmtrace.models.families.spec import FamilySpec


@contextlib.contextmanager
def without_num2words() -> Iterator[None]:
    """While this is entered, SmolVLM's processor can be built without the package num2words.

    It spells the number of a video's frames with it, and refuses to be built where it is missing.
    """
    from transformers.utils import is_num2words_available  # slow to import

    with contextlib.ExitStack() as stack:
        if not is_num2words_available():
            processing = import_module("transformers.models.smolvlm.processing_smolvlm")
            stack.enter_context(patch.object(processing, "num2words", str))
        yield


def _idefics(model_type: str, name: str, architecture: str, **more: Any) -> FamilySpec:
    return FamilySpec(
        model_type,
        name,
        architecture,
        image_tokens="one per square of patches, tile by tile",
        handled="tiles and the tokens between them",
        text="model.text_model",
        vision="model.vision_model",
        vision_types=(f"{model_type}_vision",),
        several_images=True,
        square_side=lambda config: config.scale_factor,
        **more,
    )


FAMILIES = [
    _idefics("idefics3", "Idefics 3", "Idefics3ForConditionalGeneration", since="0.1.0"),
    _idefics(
        "smolvlm", "SmolVLM", "SmolVLMForConditionalGeneration", processor_context=without_num2words, since="0.1.0"
    ),
    FamilySpec(
        "idefics2",
        "Idefics 2",
        "Idefics2ForConditionalGeneration",
        image_tokens="64 latents, which see all of the image, tile by tile",
        handled="tiles; image tokens have no place in the image",
        text="model.text_model",
        vision="model.vision_model",
        vision_types=("idefics2_vision",),
        several_images=True,
        pads_images=True,
        square_side=None,
        caps_logits=False,
    ),
    FamilySpec(
        "idefics",
        "IDEFICS 1",
        "IdeficsForVisionText2Text",
        image_tokens="none: cross-attention from within the language model",
        handled="gated layers of cross-attention count as layers of their own, in which self_attention is the "
        "attention to the image",
        interface="vlmtrace.models.idefics:Idefics",
        processor_settings={"image_token": "<image>"},
        text="model",
        vision="model.vision_model",
        vision_types=("idefics_vision",),
        attention_output=("self_attn.o_proj", "cross_attn.o_proj"),
        prompt_start="{image}",
        chats=False,
        one_image="in its gated layers images are not told apart",
        square_side=None,
        caps_logits=False,
    ),
]
