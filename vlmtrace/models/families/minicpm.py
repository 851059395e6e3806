"""MiniCPM-V 4.6 and 4.7, and MiniCPM-OCR: images are cut into slices; most text layers carry a state."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vlmtrace.core.types import Array
from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import PatchLayout
from vlmtrace.models.types import Inputs


class SliceBySlice(PatchLayout):
    """All patches lie in one strip of pixels, slice by slice, each slice row by row; slices may differ in size."""

    def grid(self, config: Any, inputs: Inputs) -> tuple[int, int, int]:
        """Slices (the whole image first), and the rows and columns of the largest of them."""
        sizes = inputs["target_sizes"]
        rows, columns = sizes.amax(dim=0).tolist()
        return len(sizes), rows, columns

    def tiles(self, config: Any, inputs: Inputs) -> Array:
        """Cut out of the strip; a slice that is smaller than the largest lies at the top left, the rest is 0."""
        strip = inputs["pixel_values"][0].float().cpu().numpy()  # (channel, side, side · patches)
        channels, side, _ = strip.shape
        n, rows, columns = self.grid(config, inputs)
        found = np.zeros((n, channels, rows * side, columns * side), dtype=strip.dtype)
        first = 0
        for tile, (high, wide) in zip(found, inputs["target_sizes"].tolist(), strict=True):
            last = first + high * wide * side
            patches = strip[..., first:last].reshape(channels, side, high, wide, side)
            # (channel, pixel row, row, column, pixel column) -> (channel, row, pixel row, column, pixel column)
            tile[:, : high * side, : wide * side] = patches.transpose(0, 2, 1, 3, 4).reshape(
                channels, high * side, wide * side
            )
            first = last
        return found


def _in_one_strip(inputs: Inputs) -> Inputs:
    """The model takes the slices of all pairs in one strip."""
    strips = inputs.get("pixel_values")
    return inputs if strips is None else {**inputs, "pixel_values": torch.cat(list(strips), dim=-1)[None]}


def _minicpm(model_type: str, name: str, architecture: str) -> FamilySpec:
    return FamilySpec(
        model_type,
        name,
        architecture,
        image_tokens="one per square of patches, slice by slice",
        handled="text layers that carry a state (linear attention) between those with attention; no vision encoder, "
        "since it merges patches half-way up; places in the image where no slice differs in size from the others",
        attention_output=("self_attn.o_proj", "linear_attn.out_proj"),
        vision_types=(),
        prompt_start="{image}\n",
        several_images=True,
        layout=SliceBySlice(),
        as_batch=_in_one_strip,
        # The vision encoder merges two by two patches, and its projector as many again, unless the mode is "4x".
        square_side=lambda config: 2 if config.downsample_mode == "4x" else 4,
    )


FAMILIES = [
    _minicpm("minicpmv4_6", "MiniCPM-V 4.6", "MiniCPMV4_6ForConditionalGeneration"),
    _minicpm("minicpmv4_7", "MiniCPM-V 4.7", "MiniCPMV4_7ForConditionalGeneration"),
    _minicpm("minicpm_ocr", "MiniCPM-OCR", "MiniCPMOcrForConditionalGeneration"),
]
