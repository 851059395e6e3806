"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL (with experts, too): images of any size, whose patches come square by square."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vlmtrace.core.types import Array
from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import PatchLayout, all_patches, patch_size
from vlmtrace.models.types import Inputs


class SquareBySquare(PatchLayout):
    """All patches of an image lie in one row, square by square; each square becomes one image token."""

    def grid(self, config: Any, inputs: Inputs) -> tuple[int, int, int]:
        """As the processor says."""
        tiles, rows, columns = inputs["image_grid_thw"][0].tolist()
        return tiles, rows, columns

    def side(self, config: Any, inputs: Inputs) -> int:
        """Patches along each side of a square."""
        return config.vision_config.spatial_merge_size

    def order(self, config: Any, inputs: Inputs) -> Array:
        """Tile, row and column of the patches in the order of `pixel_values`: (patch, 3)."""
        side = self.side(config, inputs)
        tiles, rows, columns = self.grid(config, inputs)
        squares = all_patches(tiles, rows, columns).reshape(tiles, rows // side, side, columns // side, side, 3)
        return squares.transpose(0, 1, 3, 2, 4, 5).reshape(-1, 3)

    def positions(self, hf: Any, inputs: Inputs) -> Array:
        """There is no class token."""
        return self.order(hf.config, inputs)

    def tiles(self, config: Any, inputs: Inputs) -> Array:
        """Put together from the patches."""
        tiles, rows, columns = self.grid(config, inputs)
        height, width = patch_size(config)
        patches = self.pictures(config, inputs["pixel_values"].float().cpu().numpy())
        placed = np.empty((tiles, rows, columns, *patches.shape[1:]))
        placed[tuple(self.order(config, inputs).T)] = patches
        # (tile, row, column, channel, height, width) -> (tile, channel, row, height, column, width)
        return placed.transpose(0, 3, 1, 4, 2, 5).reshape(tiles, patches.shape[1], rows * height, columns * width)

    def pictures(self, config: Any, pixels: Array) -> Array:
        """The patches as (patch, channel, height, width); of the frames that a patch repeats, the first."""
        frames = getattr(config.vision_config, "temporal_patch_size", 1)
        return pixels.reshape(len(pixels), -1, frames, *patch_size(config))[:, :, 0]


class WindowByWindow(SquareBySquare):
    """The vision encoder lays the squares of an attention window side by side."""

    def positions(self, hf: Any, inputs: Inputs) -> Array:
        """As the encoder reorders what comes square by square."""
        from transformers.vision_utils import get_vision_window_index  # slow to import

        vision = hf.config.vision_config
        side, grid = vision.spatial_merge_size, inputs["image_grid_thw"][:1].cpu()
        squares, _ = get_vision_window_index(grid, side, vision.window_size, vision.patch_size)
        patches = (squares[:, None] * side**2 + torch.arange(side**2)).flatten().numpy()
        return self.order(hf.config, inputs)[patches]


def _qwen(model_type: str, name: str, architecture: str, handled: str = "", **more: Any) -> FamilySpec:
    return FamilySpec(
        model_type,
        name,
        architecture,
        image_tokens="one per square of patches",
        handled=f"positions along three axes{handled}",
        vision="model.visual",
        vision_types=(f"{model_type}_vision",),
        vision_attention="attn",
        # In every implementation the vision encoder's attention keeps its weights to itself.
        vision_attention_weights=False,
        prompt_start="<|vision_start|>{image}<|vision_end|>",
        several_images=True,
        square_side=lambda config: config.vision_config.spatial_merge_size,
        **{"layout": SquareBySquare(), **more},
    )


#: What is particular about families that add image features behind their first layers.
DEEP_STACK = (
    ", image features that enter again in later layers (there a clean residual stream alone does not bring the clean "
    "run back)"
)


def _deep_stack(config: Any) -> int:
    return len(config.vision_config.deepstack_visual_indexes)


FAMILIES = [
    _qwen("qwen2_vl", "Qwen2-VL", "Qwen2VLForConditionalGeneration", since="0.1.0"),
    _qwen(
        "qwen2_5_vl",
        "Qwen2.5-VL",
        "Qwen2_5_VLForConditionalGeneration",
        ", attention windows in the vision encoder",
        layout=WindowByWindow(),
        since="0.1.0",
    ),
    _qwen(
        "qwen3_vl",
        "Qwen3-VL",
        "Qwen3VLForConditionalGeneration",
        DEEP_STACK,
        later_image_features=_deep_stack,
        since="0.1.0",
    ),
    _qwen(
        "qwen3_vl_moe",
        "Qwen3-VL-MoE",
        "Qwen3VLMoeForConditionalGeneration",
        f", experts{DEEP_STACK}",
        later_image_features=_deep_stack,
    ),
]
