"""Llama 4: layers that see chunks of the sequence, layers without positions, and mixtures of experts."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlmtrace.core.types import Array
from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import PatchLayout, all_patches
from vlmtrace.models.types import Inputs


class ClassTokenBehind(PatchLayout):
    """The class token of each tile stands behind its patches."""

    def positions(self, hf: Any, inputs: Inputs) -> Array:
        """Row by row, then the class token."""
        tiles, rows, columns = self.grid(hf.config, inputs)
        patches = all_patches(tiles, rows, columns).reshape(tiles, -1, 3)
        return np.concatenate([patches, np.full((tiles, 1, 3), -1)], axis=1).reshape(-1, 3)


FAMILIES = [
    FamilySpec(
        "llama4",
        "Llama 4",
        "Llama4ForConditionalGeneration",
        image_tokens="one per square of patches, tile by tile",
        handled="attention within chunks, queries scaled by their position; image tokens have no place in the image; "
        "its processor needs torchvision",
        text="language_model.model",
        vision="vision_model",
        mlp="feed_forward",
        vision_types=("llama4_vision_model",),
        vision_gives_tuples=True,
        several_images=True,
        layout=ClassTokenBehind(),
        square_side=None,
    )
]
