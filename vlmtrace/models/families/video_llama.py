"""VideoLLaMA 3: images of any size; as the processor says, patches become tokens alone or by squares."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlmtrace.core.types import Array
from vlmtrace.models.families.qwen import SquareBySquare
from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import squares_of
from vlmtrace.models.types import Inputs


def _side(inputs: Inputs) -> int:
    return int(inputs["image_merge_sizes"][0])


class SquaresOfTheProcessor(SquareBySquare):
    """The processor chooses how many patches a square has along each side: one, unless it is told otherwise."""

    def side(self, config: Any, inputs: Inputs) -> int:
        """As the processor says."""
        return _side(inputs)


def _pack(hf: Any, patches: Array, inputs: Inputs, newline: float) -> Array:
    """Squares row by row."""
    squares = squares_of(patches, _side(inputs), boxes=bool(np.isnan(newline)))
    return squares.reshape(-1, patches.shape[-1])


FAMILIES = [
    FamilySpec(
        "video_llama_3",
        "VideoLLaMA 3",
        "VideoLlama3ForConditionalGeneration",
        image_tokens="one per patch, or per square of patches",
        handled="images of any size; for images",
        vision="model.vision_model",
        vision_types=("video_llama_3_vision",),
        vision_attention_weights=False,
        prompt_start="{image}\n",
        several_images=True,
        layout=SquaresOfTheProcessor(),
        pack=_pack,
        caps_logits=False,
    )
]
