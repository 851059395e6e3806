"""PaddleOCR-VL: images of any size, whose patches come row by row and are taken together in squares at the end."""

from __future__ import annotations

from typing import Any

from vlmtrace.core.types import Array
from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import PatchLayout
from vlmtrace.models.types import Inputs


class RowByRow(PatchLayout):
    """All patches of an image lie in one row, each as a small picture of its own."""

    def grid(self, config: Any, inputs: Inputs) -> tuple[int, int, int]:
        """As the processor says."""
        tiles, rows, columns = inputs["image_grid_thw"][0].tolist()
        return tiles, rows, columns

    def tiles(self, config: Any, inputs: Inputs) -> Array:
        """Put together from the patches."""
        pixels = inputs["pixel_values"].float().cpu().numpy()
        tiles, rows, columns = self.grid(config, inputs)
        _, channels, height, width = pixels.shape
        placed = pixels.reshape(tiles, rows, columns, channels, height, width)
        # (tile, row, column, channel, height, width) -> (tile, channel, row, height, column, width)
        return placed.transpose(0, 3, 1, 4, 2, 5).reshape(tiles, channels, rows * height, columns * width)


FAMILIES = [
    FamilySpec(
        "paddleocr_vl",
        "PaddleOCR-VL",
        "PaddleOCRVLForConditionalGeneration",
        image_tokens="one per square of patches",
        handled="positions along three axes, images of any size",
        vision="model.visual",
        vision_types=("paddleocr_vl_vision",),
        # It lists them image by image, which is no tensor.
        vision_attention_weights=False,
        prompt_start="<|IMAGE_START|>{image}<|IMAGE_END|>",
        several_images=True,
        layout=RowByRow(),
        square_side=lambda config: config.vision_config.spatial_merge_size,
    )
]
