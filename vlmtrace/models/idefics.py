"""IDEFICS, the first: a language model that looks at the image in gated layers between its own.

    pixels ──▶ vision_encoder ──▶ perceiver, where there is one ──▶ what the image has
                                                                        │ read by a gated layer before every
                                                                        │ fourth layer or so
    prompt ──▶ embeddings ──▶ language_model ───────────────────────────┴──▶ logits after the last position

Nothing of the image stands in the text sequence but a mark: no position is an image token. The gated layers count as
layers of the language model, in the order in which all of them run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlparse

import torch
from PIL import Image
from torch import Tensor, nn

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.decoder_only import DecoderOnly
from vlmtrace.models.hooks import MODEL_LOCK
from vlmtrace.models.input_limits import quoted
from vlmtrace.models.types import Inputs
from vlmtrace.models.weight_values import fetched, plain

#: What the processor puts around every image's mark.
AROUND = "<fake_token_around_image>"

#: Says which positions see which images: (pair, position, image).
MASK = "image_attention_mask"


class Idefics(DecoderOnly):
    """A model of the first IDEFICS family under the common interface.

    In gated layers, the site "self_attention" is their attention to the image. What `image_embeddings` gives are the
    rows that those layers look at.
    """

    edges = (("options", "last"),)
    skips_vision_encoder = True

    def _find_text_layers(self) -> Sequence[nn.Module]:
        """Gated layers stand in front of every so many of the language model's."""
        found: list[nn.Module] = []
        for i, layer in enumerate(self.text.layers):
            gate, off = divmod(i, self.hf.config.cross_layer_interval)
            found += [layer] if off else [self.text.gated_cross_attn_layers[gate], layer]
        return found

    @property
    def injects_image_features_later(self) -> bool:
        """Every gated layer reads the image."""
        return True

    def is_image(self, inputs: Inputs) -> Tensor:
        """(pair, position) bool, false everywhere: the image's mark carries nothing of it."""
        return torch.zeros_like(inputs["input_ids"], dtype=torch.bool)

    @property
    def image_ids(self) -> set[int]:
        """See `VLM.image_ids`: the image's mark."""
        return {self.tokenizer.convert_tokens_to_ids(self.image_placeholder)}

    # Inputs --------------------------------------------------------

    def _processed(self, images: list[Image.Image], text: str) -> Any:
        """The processor takes a prompt in parts, images among them, and puts start token and marks itself."""
        mark = self.image_placeholder
        # A chat template may have written them already.
        text = text.removeprefix(self.tokenizer.bos_token or "").replace(f"{AROUND}{mark}{AROUND}", mark)
        before, _, after = text.partition(mark)
        self._refuse_address(before, after)
        parts = [part for part in (before, images[0], after) if part]
        return self.processor(text=[parts], return_tensors="pt", add_special_tokens=False)

    def _refuse_address(self, *parts: str) -> None:
        """The processor would fetch an image from it."""
        for part in map(str.strip, parts):
            address = urlparse(part)
            if " " not in part and address.scheme and address.netloc:
                raise VlmtraceError(
                    f"The prompt {quoted(part)} is an address alone, and the processor of {self.name} would take it "
                    "for an image: ask something about it, in words."
                )

    def extend(self, inputs: Inputs, ids: Sequence[int] | Tensor) -> Inputs:
        """See `ModelInterface.extend`; new tokens see of the image what the last one does."""
        longer = super().extend(inputs, ids)
        seen = longer.get(MASK)
        if seen is not None:
            n_new = longer["input_ids"].shape[1] - inputs["input_ids"].shape[1]
            longer[MASK] = torch.cat([seen, seen[:, -1:].expand(-1, n_new, -1)], dim=1)
        return longer

    # Forward passes --------------------------------------------------------

    def last_logits(self, inputs: Inputs, n: int, image: Tensor | None = None) -> Tensor:
        """See `ModelInterface.last_logits`; `image` replaces what the gated layers look at."""
        given = dict(inputs)
        if image is not None or "pixel_values" not in given:
            given.pop("pixel_values", None)
            if image is None:
                # Without an image no position sees any, and what stands in its place does not matter.
                given[MASK] = torch.zeros(*given["input_ids"].shape, 1, device=self.device)
                width = self.hf.config.vision_config.embed_dim
                image = torch.zeros(len(given["input_ids"]), 1, width, device=self.device)
            name = "perceiver_embeddings" if self.hf.config.use_resampler else "image_encoder_embeddings"
            rows = image.unflatten(1, (given[MASK].shape[-1], -1))  # (pair, image, row, width)
            given[name] = rows.to(self.dtype)
        return self.hf(**given, use_cache=False, logits_to_keep=n).logits[:, -n:].float().to(self.device)

    def image_embeddings(self, inputs: Inputs) -> Tensor:
        """What the gated layers look at: (pair, row, width), image by image."""
        pixels = inputs["pixel_values"]
        with MODEL_LOCK:
            rows = self.text.vision_model(pixel_values=pixels.flatten(0, 1)).last_hidden_state
            if self.hf.config.use_resampler:
                rows = self.text.perceiver_resampler(rows)
        return rows.unflatten(0, pixels.shape[:2]).flatten(1, 2)

    def unembed(self, normed: Tensor) -> Tensor:
        """See `DecoderOnly.unembed`; tokens that were added to the vocabulary have a matrix of their own."""
        logits, more = super().unembed(normed), getattr(self.hf.get_output_embeddings(), "additional_fc", None)
        if more is None:
            return logits
        added = nn.functional.linear(normed.to(self.device), plain(fetched(more, "weight"), more).float())
        return torch.cat([logits, added], dim=-1)
