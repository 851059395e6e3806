"""Mllama: a language model that looks at the image by cross-attention from within, in layers between its own.

    pixels ──▶ vision_encoder ──▶ projector ──▶ keys and values of the image
                                                        │ read by every fifth layer or so
    prompt ──▶ embeddings ──▶ language_model ───────────┴──▶ logits after the last position

Nothing of the image stands in the text sequence but a mark: no position is an image token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from vlmtrace.models.decoder_only import DecoderOnly
from vlmtrace.models.hooks import HookPoint, attach_hooks
from vlmtrace.models.types import Inputs

#: What turns the vision encoder's output into what the language model looks at.
PROJECTOR = "model.multi_modal_projector"


class _Projected(Exception):
    """The forward pass got as far as the image's embeddings."""


class Mllama(DecoderOnly):
    """A model of the Mllama family under the common interface.

    In layers of cross-attention, the site "self_attention" is their attention to the image. What `image_embeddings`
    gives are the rows that those layers look at, tile by tile.
    """

    edges = (("options", "last"),)

    @property
    def injects_image_features_later(self) -> bool:
        """Every layer of cross-attention reads the image."""
        return True

    def is_image(self, inputs: Inputs) -> Tensor:
        """(pair, position) bool, false everywhere: the image's mark carries nothing of it."""
        return torch.zeros_like(inputs["input_ids"], dtype=torch.bool)

    def extend(self, inputs: Inputs, ids: Sequence[int] | Tensor) -> Inputs:
        """See `ModelInterface.extend`; new tokens see of the image what the last one does."""
        longer = super().extend(inputs, ids)
        seen = longer.get("cross_attention_mask")  # (pair, position, image, tile)
        if seen is not None:
            n_new = longer["input_ids"].shape[1] - inputs["input_ids"].shape[1]
            longer["cross_attention_mask"] = torch.cat([seen, seen[:, -1:].expand(-1, n_new, -1, -1)], dim=1)
        return longer

    def last_logits(self, inputs: Inputs, n: int, image: Tensor | None = None) -> Tensor:
        """See `ModelInterface.last_logits`; `image` replaces what the layers of cross-attention look at."""

        def replace(projected: Tensor) -> Tensor | None:
            return None if image is None else image.reshape(projected.shape).to(projected.dtype)

        with attach_hooks([(HookPoint(self.hf.get_submodule(PROJECTOR), is_input=False), replace)]):
            return super().last_logits(inputs, n)

    def image_embeddings(self, inputs: Inputs) -> Tensor:
        """What the layers of cross-attention look at: (pair, row of a tile, width), tile by tile."""
        kept: list[Tensor] = []

        def keep(projected: Tensor) -> None:
            kept.append(projected.reshape(len(inputs["input_ids"]), -1, projected.shape[-1]))
            raise _Projected

        point = HookPoint(self.hf.get_submodule(PROJECTOR), is_input=False)
        with attach_hooks([(point, keep)]), contextlib.suppress(_Projected):
            self.hf(**inputs, use_cache=False)
        return kept[0]
