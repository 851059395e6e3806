"""Mistral 3 and LightOnOCR, and what models with Pixtral's encoder share: images of any size, in rows of patches."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any
from unittest.mock import patch

from vlmtrace.models.families.spec import FamilySpec


@contextlib.contextmanager
def without_torchvision() -> Iterator[None]:
    """While this is entered, Pixtral's processor can be built without torchvision.

    It takes one function of arithmetic from a module that prepares images with torchvision, and refuses to be built
    where that is missing. The module that prepares them with Pillow has the same function.
    """
    from transformers.utils import is_torchvision_available  # slow to import

    with contextlib.ExitStack() as stack:
        if not is_torchvision_available():
            package = import_module("transformers.models.pixtral")
            wanted = f"{package.__name__}.image_processing_pixtral"
            sys.modules[wanted] = import_module(f"{package.__name__}.image_processing_pil_pixtral")
            try:
                processor = import_module(f"{package.__name__}.processing_pixtral").PixtralProcessor
            finally:
                del sys.modules[wanted]
            for module in (package, import_module("transformers")):
                stack.enter_context(patch.object(module, "PixtralProcessor", processor))
        yield


#: Pixtral's encoder, where a family can be joined with it.
PIXTRAL: dict[str, Any] = {
    "vision_types": ("pixtral",),
    "vision_attention": "attention",
    "vision_in_one_row": True,
    "processor_context": without_torchvision,
}


def of_pixtral(spec: FamilySpec, config: Any) -> FamilySpec:
    """The family as it is with Pixtral's encoder, where a model has that one."""
    return replace(spec, **PIXTRAL) if config.vision_config.model_type == "pixtral" else spec


FAMILIES = [
    FamilySpec(
        "mistral3",
        "Mistral 3",
        "Mistral3ForConditionalGeneration",
        image_tokens="one per square of patches",
        handled="Mistral Small 3.1 and Ministral 3; a token that ends each row of the image",
        several_images=True,
        square_side=lambda config: config.spatial_merge_size,
        prompt_start="{image}",
        **PIXTRAL,
    ),
    FamilySpec(
        "lighton_ocr",
        "LightOnOCR",
        "LightOnOcrForConditionalGeneration",
        image_tokens="one per square of patches",
        handled="images of any size",
        vision="model.vision_encoder",
        several_images=True,
        square_side=lambda config: config.spatial_merge_size,
        prompt_start="{image}",
        **PIXTRAL,
    ),
]
