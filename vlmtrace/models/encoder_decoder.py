"""Models whose language model has an encoder of its own: image tokens stand among the words that it reads.

    pixels ──▶ vision encoder ──▶ image tokens
                                      │ take the places of the image's placeholders
    prompt ──▶ embeddings ────────────┴──▶ text_encoder ──▶ states of the prompt
                                                                │ keys and values of cross-attention, in every layer
    start token ──▶ text_decoder ───────────────────────────────┴──▶ logits of the first answer token

Where each stack keeps its parts is said by `FamilySpec.stacks`. Patches are answered by batches of whole passes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.models import image_geometry
from vlmtrace.models.decoder_only import DecoderOnly
from vlmtrace.models.families import FamilySpec
from vlmtrace.models.hooks import HookPoint, attach_hooks
from vlmtrace.models.image_prompts import ImagePrompts
from vlmtrace.models.sequence_tokens import language_tokens
from vlmtrace.models.several_images import Images, as_list
from vlmtrace.models.types import Block, Inputs, Site, Token, Trace
from vlmtrace.models.universal import BatchedSweeps
from vlmtrace.models.vlm import VLM

ENCODER, DECODER = "text_encoder", "text_decoder"


class EncoderDecoder(BatchedSweeps, ImagePrompts):
    """A transformers model with an encoder and a decoder of text, under the common interface."""

    answer_block = DECODER
    entry_blocks = (ENCODER,)
    image_module = "self_attention"
    has_visual_tokens = False
    edges = (("image", "options"), ("image", "all"), ("options", "all"))

    def __init__(self, name: str, hf: Any, processor: Any, family: FamilySpec | None = None):
        """See `ModelInterface`; the blocks are those of `FamilySpec.stacks`."""
        super().__init__(name, hf, processor, family)
        self.blocks = {block: self._block(block) for block in self.family.stacks}

    def _block(self, name: str) -> Block:
        stack = self.family.stacks[name]
        layers: Any = self.hf.get_submodule(stack.layers)
        attentions = tuple(module for module in stack.paths if module.endswith("attention"))
        weights = attentions if stack.gives_weights else ()
        heads = stack.n_heads(self.hf.config)
        return Block(name, len(layers), heads, ("residual", *stack.paths), attentions, weights)

    # Inputs --------------------------------------------------------

    @checked
    def encode(self, images: Sequence[Images], prompts: Sequence[str]) -> Inputs:
        """See `ModelInterface.encode`; the answer so far is kept under `decoder_input_ids`."""
        found = super().encode(images, prompts)
        return {**found, "decoder_input_ids": self._start_ids(len(found["input_ids"]))}

    def encode_text(self, text: str) -> Inputs:
        """Nothing here reads a prompt without its image."""
        raise VlmtraceError(f"{self.name} is not run without an image: use a decoder-only model, e.g. tiny-llava.")

    def _start_ids(self, batch: int) -> Tensor:
        """What the decoder starts with: its start token, and the token that the checkpoint always gives first."""
        settings, config = self.hf.generation_config, self.hf.config
        places = (settings, config, config.get_text_config(), getattr(config, "decoder", None))
        start = next(
            (found for place in places if (found := getattr(place, "decoder_start_token_id", None)) is not None), None
        )
        if start is None:
            start = self.tokenizer.bos_token_id
        forced = getattr(settings, "forced_bos_token_id", None)
        ids = [start] + ([forced] if isinstance(forced, int) else [])
        return torch.tensor([ids], device=self.device).expand(batch, -1)

    def extend(self, inputs: Inputs, ids: Sequence[int] | Tensor) -> Inputs:
        """See `ModelInterface.extend`: the decoder's input grows."""
        before = inputs["decoder_input_ids"]
        new = torch.as_tensor(ids, dtype=before.dtype, device=before.device).expand(len(before), -1)
        return {**inputs, "decoder_input_ids": torch.cat([before, new], dim=1)}

    def spell_answer(self, answer: str, prefix: str = "", blank: bool | None = None) -> list[int]:
        """See `VLM.spell_answer`; the answer begins the decoder's text."""
        return VLM.spell_answer(self, answer, prefix, blank)

    def tokens(self, block: str, prompt: str, inputs: Inputs, images: Images | None = None) -> list[Token]:
        """The words of the prompt with the image's tokens, or the decoder's start and the answer so far."""
        if block == ENCODER:
            return language_tokens(self, prompt, inputs)
        ids = inputs["decoder_input_ids"][0].tolist()
        n_start = self._start_ids(1).shape[1]
        roles = ["start"] * n_start + ["answer"] * (len(ids) - n_start)
        roles[-1] = "last"
        texts = self.tokenizer.convert_ids_to_tokens(ids)
        return [Token(text, role=role) for text, role in zip(texts, roles, strict=True)]

    # The image --------------------------------------------------------

    def image_positions(self, inputs: Inputs, block: str, images: Images | None = None) -> np.ndarray:
        """Those of image tokens in the encoder; none in the decoder."""
        if block == ENCODER:
            return self.is_image(inputs)[0].cpu().numpy()
        return np.zeros(inputs["decoder_input_ids"].shape[1], dtype=bool)

    @checked
    def image_cells(self, image: Images, inputs: Inputs, block: str = ENCODER) -> np.ndarray:
        """See `ModelInterface.image_cells`."""
        one_of(block, (ENCODER,), f"block of {self.name} that holds the image's tokens")
        return image_geometry.token_boxes(self, self.opened(as_list(image)[0]), inputs)

    def patch_grid(self, inputs: Inputs) -> tuple[int, int]:
        """As the family's layout says."""
        tiles, rows, columns = self.family.layout.grid(self.hf.config, inputs)
        return tiles * rows, columns

    def token_patches(self, inputs: Inputs, images: Images | None = None) -> None:
        """None: the vision encoder is not offered for patching."""

    def image_embeddings(self, inputs: Inputs) -> Tensor:
        """The projected image tokens, as they enter the first layer of the encoder."""
        kept: list[Tensor] = []

        def keep(stream: Tensor) -> None:
            kept.append(stream[self.is_image(inputs)].unflatten(0, (len(stream), -1)))

        with attach_hooks([(self.entry_point(ENCODER), keep)]):
            self.last_logits(inputs, 1)
        return kept[0]

    # Forward passes --------------------------------------------------------

    def last_logits(self, inputs: Inputs, n: int, image: Tensor | None = None) -> Tensor:
        """See `ModelInterface.last_logits`; `image` replaces the image tokens as they enter the encoder."""

        def replace(stream: Tensor) -> Tensor | None:
            if image is None:
                return None
            return stream.masked_scatter(self.is_image(inputs)[..., None], image.to(stream.dtype))

        # Ahead of what keeps the encoder's input: that is the input with `image` in it.
        with attach_hooks([(self.entry_point(ENCODER), replace)], ahead=True):
            return self.hf(**inputs, use_cache=False).logits[:, -n:].float()

    @contextlib.contextmanager
    def eager(self) -> Iterator[None]:
        """See `DecoderOnly.eager`."""
        with DecoderOnly.eager(self):  # type: ignore[arg-type]
            yield

    # Where activations are --------------------------------------------------------

    def layer_module(self, block: str, layer: int) -> nn.Module:
        """Of the encoder or the decoder of text."""
        layers: Any = self.hf.get_submodule(self.family.stacks[block].layers)
        return layers[layer]

    def hook_point(self, site: Site) -> HookPoint:
        """The layer's output, its feed-forward's output, or what enters an attention's output projection."""
        layer = self.layer_module(site.block, site.layer)
        if site.module == "residual":
            return HookPoint(layer, is_input=False)
        part = layer.get_submodule(self.family.stacks[site.block].paths[site.module])
        return HookPoint(part, is_input=site.module != "mlp")

    def attention_module(self, site: Site) -> nn.Module:
        """The module that holds the output projection."""
        path = self.family.stacks[site.block].paths[site.module]
        return self.layer_module(site.block, site.layer).get_submodule(path.rpartition(".")[0])

    def mask_argument(self, module: str) -> str:
        """See `ModelInterface.mask_argument`; attention of all stacks takes it under one name."""
        return self.family.stacks[ENCODER].mask_argument

    def check_layers(self, trace: Trace, inputs: Inputs) -> None:
        """Say that sweeps are slower than those of other families."""
        self._say_slower()
