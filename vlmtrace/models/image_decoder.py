"""Models of an image encoder and a text decoder that begins with the prompt: Donut, TrOCR and, in part, Pix2Struct.

    pixels ──▶ vision_encoder ──▶ image embeddings
                                      │ keys and values of cross-attention, in every layer
    prompt ──▶ text_decoder ──────────┴──▶ logits after the last position

Donut's vision encoder goes through the image in stages, each of half as many rows and columns as the one before; its
block are the layers of the last stage, whose positions the decoder looks at. TrOCR's is a ViT or DeiT. Patches are
answered by batches of whole passes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlmtrace.core.arguments import Count, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.models.decoder_only import DecoderOnly
from vlmtrace.models.families import FamilySpec
from vlmtrace.models.hooks import HookPoint
from vlmtrace.models.input_limits import check_extended, check_length, processor_refusals
from vlmtrace.models.several_images import Images, as_list, check_batch
from vlmtrace.models.types import Block, Inputs, Site, Token, Trace
from vlmtrace.models.universal import BatchedSweeps

VISION, DECODER = "vision_encoder", "text_decoder"

#: By module, path in a layer of the decoder.
PATHS = {"mlp": "fc2", "self_attention": "self_attn.out_proj", "cross_attention": "encoder_attn.out_proj"}

#: The encoder that goes through an image in stages.
STAGED = "donut-swin"

#: Encoders, and how many positions that are no patches they put before the others.
CLASS_TOKENS = {STAGED: 0, "vit": 1, "deit": 2}

#: What stands around a question, in checkpoints that were trained to answer some.
ASKED = ("<s_docvqa>", "<s_question>", "</s_question>", "<s_answer>")


class ImageDecoder(BatchedSweeps):
    """`transformers.VisionEncoderDecoderModel` with a Swin, ViT or DeiT encoder, under the common interface."""

    answer_block = DECODER
    entry_blocks = (VISION, DECODER)
    image_module = "cross_attention"
    skips_vision_encoder = True
    edges: tuple[tuple[str, str], ...] = (("image", "options"), ("image", "last"), ("options", "last"))

    def __init__(self, name: str, hf: Any, processor: Any, family: FamilySpec | None = None):
        """See `ModelInterface`; the blocks are read from the configuration and the submodules."""
        super().__init__(name, hf, processor, family)
        self.stages: list[nn.Module] = []
        self.layers: dict[str, Any] = {}
        self._find_parts()

    def _find_parts(self) -> None:
        """Set `stages`, `layers` and `blocks`."""
        attentions, hf = ("self_attention", "cross_attention"), self.hf
        seeing, decoder = hf.config.encoder, hf.config.decoder
        self.stages = list(hf.encoder.encoder.layers) if seeing.model_type == STAGED else []
        vision: Any = self.stages[-1].blocks if self.stages else hf.encoder.layers
        heads = seeing.num_heads[-1] if self.stages else seeing.num_attention_heads
        self.layers = {VISION: vision, DECODER: hf.decoder.model.decoder.layers}
        self.blocks = {
            VISION: Block(VISION, len(vision), heads, ("residual",)),
            DECODER: Block(
                DECODER,
                len(self.layers[DECODER]),
                decoder.decoder_attention_heads,
                ("residual", "mlp", *attentions),
                head_modules=attentions,
                # TrOCR's attention gives its weights on request alone.
                attention_modules=attentions if decoder.model_type == "mbart" else (),
            ),
        }

    @property
    def stacks(self) -> list[tuple[str, list[nn.Module]]]:
        """See `ModelInterface.stacks`; stages before the last one are skipped, too."""
        return [*([("stages", self.stages[:-1])] if self.stages else []), *super().stacks]

    @property
    def max_positions(self) -> int | None:
        """As the decoder's configuration says."""
        return getattr(self.hf.config.decoder, "max_position_embeddings", None)

    # Prompts and inputs --------------------------------------------------------

    def prompt_text(self, prompt: str, n_images: Count = 1) -> str:
        """The question between the marks of checkpoints for questions about documents, or behind the start token."""
        self.check_n_images(n_images)
        known = self.tokenizer.get_vocab()
        if all(mark in known for mark in ASKED):
            task, start, end, answer = ASKED
            return f"{task}{start}{prompt}{end}{answer}"
        return f"{self.tokenizer.convert_ids_to_tokens(self._start_id)}{prompt}"

    @property
    def _start_id(self) -> int:
        start = getattr(self.hf.generation_config, "decoder_start_token_id", None)
        start = self.hf.config.decoder_start_token_id if start is None else start
        return self.tokenizer.bos_token_id if start is None else start

    def tokenizer_options(self, text: str) -> dict[str, Any]:
        """No start token is added: `prompt_text` writes it."""
        return {"add_special_tokens": False}

    def count_tokens(self, prompt: str) -> int:
        """Number of tokens of a prompt, with what stands around it."""
        text = self.prompt_text(prompt)
        with processor_refusals(self, prompt):
            return len(self.tokenizer(text, **self.tokenizer_options(text)).input_ids)

    @checked
    def encode(self, images: Sequence[Images], prompts: Sequence[str]) -> Inputs:
        """See `ModelInterface.encode`; prompts of a batch have one length."""
        check_batch(images, prompts)
        for image in images:
            self.check_n_images(len(as_list(image)))
        opened = [self.opened(as_list(image)[0]) for image in images]
        with processor_refusals(self, prompts[0], opened[0]):
            pixels = self.processor.image_processor(opened, return_tensors="pt")
            rows = [self.tokenizer(text, **self.tokenizer_options(text)).input_ids for text in prompts]
        self._check_one_length(rows)
        ids = torch.tensor(rows, device=self.device)
        check_length(self, {"input_ids": ids}, prompts[0])
        return {"pixel_values": pixels["pixel_values"].to(self.device, self.dtype), "input_ids": ids}

    def _check_one_length(self, rows: Sequence[Sequence[int]]) -> None:
        if len({len(row) for row in rows}) > 1:
            raise VlmtraceError(
                f"Prompts of unlike length cannot share a batch of {self.name}, since padding is never used: encode "
                "those of equal length together."
            )

    def extend(self, inputs: Inputs, ids: Sequence[int] | Tensor) -> Inputs:
        """See `ModelInterface.extend`."""
        before = inputs["input_ids"]
        new = torch.as_tensor(ids, dtype=before.dtype, device=before.device).expand(len(before), -1)
        check_extended(self, before.shape[1] + new.shape[1])
        return {**inputs, "input_ids": torch.cat([before, new], dim=1)}

    def tokens(self, block: str, prompt: str, inputs: Inputs, images: Images | None = None) -> list[Token]:
        """Places of the last vision stage by row and column, or the words of the prompt and the answer so far."""
        if block == VISION:
            rows, columns = self.patch_grid(inputs)
            first = [Token("[CLS]", role="[CLS]")] * self._n_class_tokens
            return first + [Token(f"{row},{column}", role="image") for row in range(rows) for column in range(columns)]
        ids = inputs["input_ids"][0].tolist()
        encoded = self.tokenizer(prompt, return_offsets_mapping=True, **self.tokenizer_options(prompt))
        spans = [tuple(span) for span in encoded["offset_mapping"]]
        special = set(self.tokenizer.all_special_tokens) | set(self.tokenizer.get_added_vocab())
        special -= {self.tokenizer.unk_token}
        found = []
        for i, text in enumerate(self.tokenizer.convert_ids_to_tokens(ids)):
            role = "last" if i == len(ids) - 1 else text if text in special else None if i < len(spans) else "answer"
            found.append(Token(text, spans[i] if i < len(spans) else (0, 0), role))
        return found

    # The image --------------------------------------------------------

    def patch_grid(self, inputs: Inputs) -> tuple[int, int]:
        """Rows and columns of patches, or of the last stage."""
        encoder = self.hf.config.encoder
        side = encoder.patch_size * 2 ** max(0, len(self.stages) - 1)
        height, width = inputs["pixel_values"].shape[-2:]
        return -(-height // side), -(-width // side)

    @property
    def _n_class_tokens(self) -> int:
        """How many positions that are no patches stand before the others."""
        return CLASS_TOKENS[self.hf.config.encoder.model_type]

    def image_positions(self, inputs: Inputs, block: str, images: Images | None = None) -> np.ndarray:
        """All positions of the vision encoder, and none of the decoder's."""
        rows, columns = self.patch_grid(inputs)
        seeing = block == VISION
        seen = self._n_class_tokens + rows * columns
        return np.full(seen if seeing else inputs["input_ids"].shape[1], seeing)

    @checked
    def image_cells(self, image: Images, inputs: Inputs, block: str = VISION) -> np.ndarray:
        """See `ModelInterface.image_cells`: NaN, since how the processors pad and turn pages is not measured."""
        one_of(block, (VISION,), f"block of {self.name} that sees the image")
        return np.full((len(self.image_positions(inputs, VISION)), 4), np.nan)

    def token_patches(self, inputs: Inputs, images: Images | None = None) -> np.ndarray:
        """Every image embedding is one position of the vision encoder: the identity."""
        return np.eye(len(self.image_positions(inputs, VISION)))

    def image_embeddings(self, inputs: Inputs) -> Tensor:
        """The vision encoder's output, which every layer of the decoder attends to."""
        return self.hf.encoder(pixel_values=inputs["pixel_values"]).last_hidden_state

    # Forward passes --------------------------------------------------------

    def last_logits(self, inputs: Inputs, n: int, image: Tensor | None = None) -> Tensor:
        """See `ModelInterface.last_logits`."""
        seen = {"pixel_values": inputs["pixel_values"]} if image is None else {"encoder_outputs": (image,)}
        return self.hf(**seen, decoder_input_ids=inputs["input_ids"], use_cache=False).logits[:, -n:].float()

    @contextlib.contextmanager
    def eager(self) -> Iterator[None]:
        """See `DecoderOnly.eager`."""
        with DecoderOnly.eager(self):  # type: ignore[arg-type]
            yield

    # Where activations are --------------------------------------------------------

    def layer_module(self, block: str, layer: int) -> nn.Module:
        """Of the last vision stage, or the decoder."""
        return self.layers[block][layer]

    def hook_point(self, site: Site) -> HookPoint:
        """The layer's output, its feed-forward's output, or what enters an attention's output projection."""
        layer = self.layer_module(site.block, site.layer)
        if site.module == "residual":
            return HookPoint(layer, is_input=False)
        return HookPoint(layer.get_submodule(self._path(site)), is_input=site.module != "mlp")

    def _path(self, site: Site) -> str:
        """Where a layer of a site's block keeps its module: the feed-forward, or the output projection."""
        return PATHS[site.module]

    def attention_module(self, site: Site) -> nn.Module:
        """The module that holds the output projection."""
        return self.layer_module(site.block, site.layer).get_submodule(self._path(site).rpartition(".")[0])

    def check_layers(self, trace: Trace, inputs: Inputs) -> None:
        """Say that sweeps are slower than those of other families."""
        self._say_slower()
