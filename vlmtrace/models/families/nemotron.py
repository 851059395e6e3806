"""Nemotron-H Omni: each layer of the language model is a state space model, attention or a feed-forward alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlmtrace.core.types import Array
from vlmtrace.models.families.spec import POOLING_HEAD, FamilySpec
from vlmtrace.models.patch_layout import PatchLayout, all_patches, patch_size
from vlmtrace.models.types import Inputs


class RowsInOneSequence(PatchLayout):
    """The patches of an image lie row by row; RADIO's encoder puts class tokens and registers before them."""

    def grid(self, config: Any, inputs: Inputs) -> tuple[int, int, int]:
        """As the processor says."""
        rows, columns = inputs["image_grid_hw"][0].tolist()
        return 1, rows, columns

    def positions(self, hf: Any, inputs: Inputs) -> Array:
        """As many class tokens and registers as the configuration says, then the patches."""
        none = np.full((hf.config.vision_config.num_summary_tokens, 3), -1)
        return np.concatenate([none, all_patches(*self.grid(hf.config, inputs)).reshape(-1, 3)])

    def tiles(self, config: Any, inputs: Inputs) -> Array:
        """Put together from the patches."""
        _, rows, columns = self.grid(config, inputs)
        height, width = patch_size(config)
        pixels = inputs[self.pixels].float().cpu().numpy().reshape(rows, columns, -1, height, width)
        # (row, column, channel, height, width) -> (1, channel, row, height, column, width)
        placed = pixels.transpose(2, 0, 3, 1, 4)[None]
        return placed.reshape(1, pixels.shape[2], rows * height, columns * width)


FAMILIES = [
    FamilySpec(
        "nemotron_h_omni",
        "Nemotron-H Omni",
        "NemotronH_Omni_Reasoning_V3",
        image_tokens="one per square of patches",
        handled="layers of which each is a state space model, attention or a feed-forward alone: what a layer lacks is "
        "no site; a state space model's self_attention is what it reads from its state, with heads, but no attention "
        "weights; its processor needs torchvision",
        # The processor normalizes images, so that the encoder's own numbers for it are read by nothing.
        unread_weights=rf"{POOLING_HEAD}|(^|\.)input_conditioner\.",
        text="language_model.model",
        norm="norm_f",
        attention_output=("mixer.o_proj", "mixer.out_proj"),
        mlp="mixer",
        one_part_per_layer=True,
        vision="vision_model",
        vision_types=("radio",),
        vision_attention="attention",
        layout=RowsInOneSequence(),
        one_image="two images were never tried, since its processor was not at hand",
        square_side=lambda config: round(1 / config.downsample_ratio),
    )
]
