"""Emu3 and Fuyu, which have no vision encoder: pixels become tokens at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from vlmtrace.core.types import Array
from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import PatchLayout
from vlmtrace.models.types import Inputs

#: Pixels along each side of what becomes one of Emu3's codes; its processor takes no other.
EMU3_SIDE = 8


class Codes(PatchLayout):
    """One code for each square of pixels, and a newline behind each row of them."""

    def grid(self, config: Any, inputs: Inputs) -> tuple[int, int, int]:
        """One image of as many rows and columns as codes have."""
        height, width = inputs["image_sizes"][0].tolist()
        return 1, height // EMU3_SIDE, width // EMU3_SIDE

    def patch_size(self, config: Any, inputs: Inputs) -> tuple[int, int]:
        """What becomes one code."""
        return EMU3_SIDE, EMU3_SIDE


class PatchTokens(PatchLayout):
    """Patches are the image tokens, row by row, with a newline behind each row in the text."""

    def grid(self, config: Any, inputs: Inputs) -> tuple[int, int, int]:
        """As the newlines between the image tokens say."""
        is_image = (inputs["input_ids"][0] == config.image_token_id).tolist()
        first = is_image.index(True)
        columns = [*is_image[first:], False].index(False)
        return 1, sum(is_image) // columns, columns

    def patch_size(self, config: Any, inputs: Inputs) -> tuple[int, int]:
        """Without a vision encoder the model itself says so."""
        return config.patch_size, config.patch_size

    def tiles(self, config: Any, inputs: Inputs) -> Array:
        """Put together from the patches, whose channels come last."""
        # Which of the two names depends on the version of transformers.
        patches = inputs["image_patches" if "image_patches" in inputs else "pixel_values"].float().cpu().numpy()
        tiles, rows, columns = self.grid(config, inputs)
        height, width = self.patch_size(config, inputs)
        pixels = patches.reshape(tiles, rows, columns, height, width, -1)
        # (tile, row, column, height, width, channel) -> (tile, channel, row, height, column, width)
        return pixels.transpose(0, 5, 1, 3, 2, 4).reshape(tiles, -1, rows * height, columns * width)


@contextlib.contextmanager
def with_patches_of_tensors() -> Iterator[None]:
    """While this is entered, Fuyu's processor is built so that it works with Pillow alone.

    It has its images cut into patches as tensors, and the image processor for Pillow cuts arrays only.
    """
    fuyu = import_module("transformers.models.fuyu")

    class FuyuImageProcessorPil(fuyu.FuyuImageProcessorPil):  # type: ignore[name-defined]
        def patchify_image(self, image: Any, patch_size: Any = None) -> Tensor:
            return torch.as_tensor(super().patchify_image(np.asarray(image), patch_size))

    with patch.object(fuyu, "FuyuImageProcessorPil", FuyuImageProcessorPil):
        yield


FAMILIES = [
    FamilySpec(
        "emu3",
        "Emu3",
        "Emu3ForConditionalGeneration",
        image_tokens="one per code of the image's vocabulary, newlines between rows",
        handled="no vision encoder: an image becomes words of a vocabulary of its own; image tokens have no place in "
        "the image",
        text="model.text_model",
        vision="",
        vision_types=(),
        prompt_start="{image}",
        several_images=True,
        layout=Codes(),
        square_side=None,
    ),
    FamilySpec(
        "fuyu",
        "Fuyu",
        "FuyuForCausalLM",
        processor_context=with_patches_of_tensors,
        handled="no vision encoder: patches enter the language model at once; newlines between rows",
        text="model.language_model",
        vision="",
        norm="final_layernorm",
        attention_output="self_attn.dense",
        vision_types=(),
        prompt_start="",
        # The processor itself marks the beginning of the answer.
        prompt_end="<0x04>",
        one_image="its processor takes one image with a prompt",
        layout=PatchTokens(),
    ),
]
