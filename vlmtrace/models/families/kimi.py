"""Kimi K2.5: a mixture of experts with latent attention, and images of any size."""

from __future__ import annotations

from typing import Any

from vlmtrace.core.types import Array
from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import PatchLayout, all_patches, patch_size
from vlmtrace.models.types import Inputs


class PatchByPatch(PatchLayout):
    """All patches of an image of any size lie in one list, row by row."""

    def grid(self, config: Any, inputs: Inputs) -> tuple[int, int, int]:
        """As the processor says."""
        tiles, rows, columns = inputs["image_grid_thw"][0].tolist()
        return tiles, rows, columns

    def positions(self, hf: Any, inputs: Inputs) -> Array:
        """There is no class token."""
        return all_patches(*self.grid(hf.config, inputs)).reshape(-1, 3)

    def tiles(self, config: Any, inputs: Inputs) -> Array:
        """Put together from the patches; of the frames that a patch repeats, the first."""
        pixels = inputs["pixel_values"].float().cpu().numpy()
        tiles, rows, columns = self.grid(config, inputs)
        height, width = patch_size(config)
        patches = pixels.reshape(tiles, rows, columns, -1, 3, height, width)[:, :, :, 0]
        # (tile, row, column, channel, height, width) -> (tile, channel, row, height, column, width)
        return patches.transpose(0, 3, 1, 4, 2, 5).reshape(tiles, 3, rows * height, columns * width)


FAMILIES = [
    FamilySpec(
        "kimi_k25",
        "Kimi K2.5",
        "Kimi_K25ForConditionalGeneration",
        image_tokens="one per square of patches",
        handled="latent attention, experts",
        vision_types=("kimi_k25_vision",),
        vision_attention="attn",
        # In every implementation the vision encoder's attention keeps its weights to itself.
        vision_attention_weights=False,
        prompt_start="<|media_begin|>image<|media_content|>{image}<|media_end|>\n",
        several_images=True,
        layout=PatchByPatch(),
        square_side=lambda config: config.vision_config.merge_kernel_size[0],
    )
]
