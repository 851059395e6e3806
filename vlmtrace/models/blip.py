"""BLIP for visual question answering: a question encoder that looks at the image by cross-attention, an answer decoder.

    pixels ──▶ vision_encoder ──▶ image embeddings
                                       │ keys and values of cross_attention, in every layer
    question ──▶ text_encoder ─────────┴──▶ question states
                                                 │ keys and values of the decoder's cross-attention
    start token ──▶ text_decoder ────────────────┴──▶ logits of the first answer token

Layers of both text stacks are post-norm (BERT): self-attention, cross-attention and feed-forward, each followed by
a residual sum and a LayerNorm. Positions of the vision encoder are [CLS] and then the patches, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.models import image_geometry
from vlmtrace.models.edges.nodes import IMAGE, PROMPT, Wiring
from vlmtrace.models.families import FamilySpec
from vlmtrace.models.hooks import HookPoint
from vlmtrace.models.input_limits import check_extended, check_length, processor_refusals
from vlmtrace.models.interventions import Interventions, from_patches
from vlmtrace.models.several_images import Images, as_list, check_batch
from vlmtrace.models.sweep import blip as blip_sweep
from vlmtrace.models.sweep import blip_interventions
from vlmtrace.models.types import AnswerIds, Block, Inputs, Patches, Readout, Site, Token, Trace
from vlmtrace.models.vlm import VLM
from vlmtrace.models.weight_values import is_quantized, is_spread

#: What a layer of either text stack computes, in this order.
_MODULES = ("self_attention", "cross_attention", "mlp")


class Blip(VLM):
    """`transformers.BlipForQuestionAnswering` under the common interface."""

    answer_block = "text_decoder"
    entry_blocks = ("vision_encoder", "text_encoder")
    image_module = "cross_attention"
    answers_apart = True
    sweeps_regions = True
    skips_vision_encoder = True
    edges = (("image", "options"), ("image", "all"), ("options", "all"))
    wirings = (
        Wiring("text_encoder", _MODULES, (PROMPT,), {"cross_attention": IMAGE}),
        Wiring("text_decoder", _MODULES, (), {"cross_attention": "text_encoder"}),
    )

    def __init__(self, name: str, hf: Any, processor: Any, family: FamilySpec | None = None):
        """See `ModelInterface`; the blocks are read from the configuration."""
        super().__init__(name, hf, processor, family)
        text, vision = hf.config.text_config, hf.config.vision_config
        attentions = ("self_attention", "cross_attention")
        self.blocks = {
            block.name: block
            for block in (
                Block(
                    "vision_encoder",
                    vision.num_hidden_layers,
                    vision.num_attention_heads,
                    ("residual",),
                    attention_modules=("self_attention",),
                    hooked_modules=("self_attention",),
                ),
                Block(
                    "text_encoder",
                    text.num_hidden_layers,
                    text.num_attention_heads,
                    ("residual", "mlp", *attentions),
                    head_modules=attentions,
                    attention_modules=attentions,
                ),
                Block(
                    "text_decoder",
                    text.num_hidden_layers,
                    text.num_attention_heads,
                    ("residual", "mlp", *attentions),
                    head_modules=attentions,
                    attention_modules=attentions,
                ),
            )
        }

    # Inputs --------------------------------------------------------

    @checked
    def encode(self, images: Sequence[Images], prompts: Sequence[str]) -> Inputs:
        """See `ModelInterface.encode`; prompts of a batch have one length, and one image each."""
        check_batch(images, prompts)
        for image in images:
            self.check_n_images(len(as_list(image)))
        lengths = {self.count_tokens(prompt) for prompt in prompts}
        if len(lengths) > 1:
            # BlipTextAttention (transformers 5) drops the mask of its cross-attention, so padding would be attended to.
            raise VlmtraceError(
                f"Prompts of {', '.join(map(str, sorted(lengths)))} tokens cannot share a batch of {self.name}, since "
                "padding would change the answer: encode prompts of equal length together."
            )
        opened = [self.opened(as_list(image)[0]) for image in images]
        with processor_refusals(self, prompts[0], opened[0]):
            pixels = self.processor.image_processor(opened, return_tensors="pt")
            text = self.tokenizer(list(prompts), return_tensors="pt")
        check_length(self, text, prompts[0])
        return {
            "pixel_values": pixels["pixel_values"].to(self.device, self.dtype),
            "input_ids": text["input_ids"].to(self.device),
        }

    def tokens(self, block: str, prompt: str, inputs: Inputs, images: Images | None = None) -> list[Token]:
        """[CLS] and patches; the words of the question; or the answer decoder's start token and the answer so far."""
        if block == "vision_encoder":
            rows, columns = self.patch_grid(inputs)
            patches = [Token(f"{row},{column}", role="image") for row in range(rows) for column in range(columns)]
            return [Token("[CLS]", role="[CLS]"), *patches]
        if block == "text_decoder":
            ids = inputs.get("decoder_input_ids", self._start_ids(1))[0].tolist()
            roles = [*(["start"] + ["answer"] * (len(ids) - 2))[: len(ids) - 1], "last"]
            return [
                Token(self.tokenizer.convert_ids_to_tokens(token), role=role)
                for token, role in zip(ids, roles, strict=True)
            ]
        encoded = self.tokenizer(prompt, return_offsets_mapping=True)
        texts = self.tokenizer.convert_ids_to_tokens(encoded["input_ids"])
        special = set(self.tokenizer.all_special_tokens) - {self.tokenizer.unk_token}
        return [
            Token(text, tuple(span), text if text in special else None)
            for text, span in zip(texts, encoded["offset_mapping"], strict=True)
        ]

    @checked
    def image_cells(self, image: Images, inputs: Inputs, block: str) -> np.ndarray:
        """See `ModelInterface.image_cells`; only the vision encoder sees the image by position."""
        one_of(block, ("vision_encoder",), f"block of {self.name} that sees the image")
        return image_geometry.vision_boxes(self, self.opened(as_list(image)[0]), inputs)

    def image_positions(self, inputs: Inputs, block: str, images: Images | None = None) -> np.ndarray:
        """All positions of the vision encoder, and none of the text's."""
        is_seeing = block == "vision_encoder"
        rows, columns = self.patch_grid(inputs)
        length = (
            1 + rows * columns
            if is_seeing
            else len(self.tokens(block, "", inputs))
            if block == "text_decoder"
            else inputs["input_ids"].shape[1]
        )
        return np.full(length, is_seeing)

    def token_patches(self, inputs: Inputs, images: Images | None = None) -> np.ndarray:
        """Every image embedding is one position of the vision encoder: the identity."""
        return np.eye(len(self.image_positions(inputs, "vision_encoder")))

    def patch_grid(self, inputs: Inputs) -> tuple[int, int]:
        """Rows and columns of the one tile."""
        size = self.hf.config.vision_config.patch_size
        height, width = inputs["pixel_values"].shape[-2:]
        return height // size, width // size

    # Forward passes --------------------------------------------------------

    def _start_ids(self, batch: int) -> Tensor:
        return torch.full((batch, 1), self.hf.decoder_start_token_id, device=self.device)

    def image_embeddings(self, inputs: Inputs) -> Tensor:
        """The vision encoder's normed output, which every layer of the question encoder attends to."""
        return self.hf.vision_model(pixel_values=inputs["pixel_values"]).last_hidden_state

    def last_logits(self, inputs: Inputs, n: int, image: Tensor | None = None) -> Tensor:
        """See `ModelInterface.last_logits`: vision encoder, question encoder, answer decoder."""
        image = self.image_embeddings(inputs) if image is None else image
        question = self.hf.text_encoder(input_ids=inputs["input_ids"], encoder_hidden_states=image).last_hidden_state
        start = inputs.get("decoder_input_ids")
        start = self._start_ids(len(question)) if start is None else start
        out = self.hf.text_decoder(input_ids=start, encoder_hidden_states=question, use_cache=False)
        return out.logits[:, -n:].float().to(self.device)

    def extend(self, inputs: Inputs, ids: Sequence[int] | Tensor) -> Inputs:
        """See `ModelInterface.extend`; the answer so far is kept under `decoder_input_ids`."""
        batch = len(inputs["input_ids"])
        start = inputs.get("decoder_input_ids", self._start_ids(batch))
        new = torch.as_tensor(ids, dtype=start.dtype, device=start.device).expand(batch, -1)
        check_extended(self, start.shape[1] + new.shape[1])
        return {**inputs, "decoder_input_ids": torch.cat([start, new], dim=1)}

    @property
    def stop_ids(self) -> set[int]:
        """The separator, with which the answer decoder was trained to end."""
        return {self.hf.config.text_config.sep_token_id}

    # Where activations are --------------------------------------------------------

    def layer_module(self, block: str, layer: int) -> nn.Module:
        """Of the vision encoder, the question encoder or the answer decoder."""
        stacks = {
            "vision_encoder": lambda: self.hf.vision_model.encoder.layers,
            "text_encoder": lambda: self.hf.text_encoder.encoder.layer,
            "text_decoder": lambda: self.hf.text_decoder.bert.encoder.layer,
        }
        return stacks[block]()[layer]

    def hook_point(self, site: Site) -> HookPoint:
        """The layer's output, the feed-forward before its residual sum, or what enters an output projection."""
        layer: Any = self.layer_module(site.block, site.layer)
        match site.module:
            case "residual":
                return HookPoint(layer, is_input=False)
            case "mlp":
                return HookPoint(layer.output.dense, is_input=False)
            case "self_attention" if site.block == "vision_encoder":
                return HookPoint(layer.self_attn.projection, is_input=True)
            case "self_attention":
                return HookPoint(layer.attention.output.dense, is_input=True)
            case _:
                return HookPoint(layer.crossattention.output.dense, is_input=True)

    def attention_module(self, site: Site) -> nn.Module:
        """Self-attention or cross-attention."""
        layer: Any = self.layer_module(site.block, site.layer)
        if site.block == "vision_encoder":
            return layer.self_attn
        return (layer.attention if site.module == "self_attention" else layer.crossattention).self

    def mask_argument(self, module: str) -> str:
        """Cross-attention takes the mask of what it attends to."""
        return "encoder_attention_mask" if module == "cross_attention" else "attention_mask"

    # Sweeps --------------------------------------------------------

    def sweep_unsupported_reason(self, inputs: Inputs) -> str | None:
        """An input, a submodule or weights that `vlmtrace.models.sweep.blip` does not compute with."""
        if is_quantized(self.hf) or is_spread(self.hf):
            # The sweep computes with the weights themselves.
            return "weights that are quantized or on several devices"
        extra = sorted(set(inputs) - {"pixel_values", "input_ids", "decoder_input_ids"})
        return f"the input {extra[0]}" if extra else blip_sweep.unknown_submodule(self.hf)

    def nodes_unsupported_reason(self) -> str | None:
        """What the fast sweep does not know, edges do not either."""
        if self.uses_fast_sweep:
            return None
        return "layers with which the fast sweep does not agree"

    def sweep(
        self, clean: Trace, corrupt: Trace, inputs: Inputs, patches: Patches, answer_ids: AnswerIds, memory: int
    ) -> Readout:
        """See `vlmtrace.models.sweep.blip`, and `blip_interventions` for patches of several positions."""
        if patches.position_masks is not None:
            chosen = from_patches(patches, self.blocks[patches.block])
            return blip_interventions.intervene(self, clean, corrupt, chosen, answer_ids, memory)
        return blip_sweep.sweep(self, clean, corrupt, patches, answer_ids, memory)

    def intervenes_in(self, interventions: Interventions) -> bool:
        """All of them, but knockouts only in the question encoder."""
        return all(site.block == "text_encoder" for site in interventions.blocked)

    def intervene(
        self,
        source: Trace,
        base: Trace,
        inputs: Inputs,
        interventions: Interventions,
        answer_ids: AnswerIds,
        memory: int,
    ) -> Readout:
        """See `vlmtrace.models.sweep.blip_interventions`."""
        return blip_interventions.intervene(self, source, base, interventions, answer_ids, memory)

    def run_with_fixed_heads(
        self, clean: Trace, corrupt: Trace, keep_clean: dict[str, Tensor], start: str, answer_ids: AnswerIds
    ) -> Readout:
        """See `vlmtrace.models.sweep.blip`."""
        return blip_sweep.run_with_fixed_heads(self, clean, corrupt, keep_clean, start, answer_ids)
