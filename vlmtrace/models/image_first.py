"""GIT: the image's tokens stand in front of the words in one sequence, and only words have ids.

    pixels ──▶ vision_encoder ──▶ projection ──▶ image tokens
                                                     │ in front of the words
    prompt ──▶ embeddings ───────────────────────────┴──▶ language_model ──▶ logits after the last position

So that inputs say what stands at each position, as those of other families do, they hold an id for each image token,
too, and a mask that tells these from the words; before the model runs they are taken away. Image tokens see each other
in both directions, and words all that comes before them. The model computes its attention itself, whatever
implementation is chosen, so that patches are answered by batches of whole passes.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import nn

from vlmtrace.core.arguments import Count, checked
from vlmtrace.models.families.git import MASK
from vlmtrace.models.input_limits import check_length, check_positions
from vlmtrace.models.types import Inputs, Site
from vlmtrace.models.universal import LANGUAGE, UniversalDecoder


class ImageFirst(UniversalDecoder):
    """A model of the GIT family under the common interface."""

    # Prompts --------------------------------------------------------

    @checked
    def prompt_text(self, prompt: str, n_images: Count = 1) -> str:
        """The prompt behind the start token, which the answer follows: the tokenizer would close it with another one.

        Args:
            prompt: what is asked
            n_images: how many images it is asked about

        Returns:
            the text

        Raises:
            VlmtraceError: several images are asked about
        """
        self.check_n_images(n_images)
        return self._start + prompt

    def text_only_prompt(self, prompt: str) -> str:
        """See `ImagePrompts.text_only_prompt`; it starts as one with an image does."""
        return self._start + prompt

    @property
    def _start(self) -> str:
        """The token that every text starts with."""
        return self.tokenizer.cls_token or self.tokenizer.bos_token or ""

    def tokenizer_options(self, text: str) -> dict[str, Any]:
        """Nothing is added: `prompt_text` writes the start token."""
        return {"add_special_tokens": False}

    # Inputs --------------------------------------------------------

    @property
    def n_image_tokens(self) -> int:
        """How many positions the image takes: one for each patch, and the class token's."""
        config = self.hf.config.vision_config
        return (config.image_size // config.patch_size) ** 2 + 1

    @property
    def max_positions(self) -> int | None:
        """Positions are counted from the first word: the image has none of them."""
        words = super().max_positions
        return None if words is None else words + self.n_image_tokens

    def _encode_one(self, images: list[Image.Image], text: str) -> Inputs:
        row, n = super()._encode_one(images, text), self.n_image_tokens
        fills = {"input_ids": self._placeholder, "attention_mask": 1}
        longer = {
            name: torch.cat([value.new_full((1, n), fills[name]), value], dim=1) if name in fills else value
            for name, value in row.items()
        }
        longer[MASK] = (torch.arange(longer["input_ids"].shape[1]) < n).long()[None]
        check_length(self, longer, text)
        return longer

    def encode_text(self, text: str) -> Inputs:
        """See `ImagePrompts.encode_text`."""
        found = super().encode_text(text)
        check_positions(self, found["input_ids"].shape[1] + self.n_image_tokens, text, "with room for an image, ")
        return found

    @property
    def _placeholder(self) -> int:
        """What stands for an image token among the ids; the model never sees it."""
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None else pad

    # Where activations are --------------------------------------------------------

    def attention_module(self, site: Site) -> nn.Module:
        """See `DecoderOnly.attention_module`; what projects its output lies beside it."""
        if site.block != LANGUAGE:
            return super().attention_module(site)
        return self.layer_module(site.block, site.layer).get_submodule("attention.self")
