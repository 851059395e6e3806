"""Muse Glimmer and Muse Spark: images of any size, seen window by window in most layers of the vision encoder."""

from __future__ import annotations

from typing import Any

from vlmtrace.core.types import Array
from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import PatchList
from vlmtrace.models.types import Inputs


class PatchWindows(PatchList):
    """The vision encoder lays the patches of an attention window side by side."""

    def positions(self, hf: Any, inputs: Inputs) -> Array:
        """As the encoder reorders what comes row by row."""
        from transformers.vision_utils import get_vision_window_index  # slow to import

        vision, grid = hf.config.vision_config, inputs["image_grid_thw"][:1].cpu()
        side = vision.pos_emb_height * vision.patch_size  # of a window, in pixels
        order, _ = get_vision_window_index(grid, 1, side, vision.patch_size)
        return super().positions(hf, inputs)[order.numpy()]


def _muse(model_type: str, name: str, architecture: str, handled: str = "") -> FamilySpec:
    return FamilySpec(
        model_type,
        name,
        architecture,
        image_tokens="one per square of patches",
        handled=f"scaled and capped logits, sliding windows, attention windows in the vision encoder{handled}",
        vision_types=(f"{model_type}_vision",),
        vision_attention="attn",
        # In every implementation the vision encoder's attention keeps its weights to itself.
        vision_attention_weights=False,
        prompt_start="{image}",
        several_images=True,
        layout=PatchWindows(),
        square_side=lambda config: config.vision_config.merge_size,
        readout_scale=lambda config: config.text_config.output_multiplier,
    )


FAMILIES = [
    _muse("muse_glimmer", "Muse Glimmer", "MuseGlimmerForConditionalGeneration"),
    _muse("muse_spark", "Muse Spark", "MuseSparkForConditionalGeneration", ", experts"),
]
