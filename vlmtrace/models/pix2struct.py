"""Pix2Struct: a vision encoder that reads the question in the image, and a text decoder that answers.

    question, drawn above the image ──▶ vision_encoder ──▶ image embeddings
                                                              │ keys and values of cross-attention, in every layer
    start token ──▶ text_decoder ─────────────────────────────┴──▶ logits after the last position

Each position of the vision encoder is a patch, of which the input itself tells row and column; the last ones, which
fill up to the processor's `max_patches`, are masked. Patches of the header show letters of the question; the region
"image" is all that the decoder looks at, the header included, and all other regions are of the image alone. Checkpoints
that describe images instead (`is_vqa` is false in their processor) have no header, and their decoder begins with the
prompt, as Donut's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmtrace.core.arguments import Count, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.models.families import FamilySpec
from vlmtrace.models.image_decoder import DECODER, VISION, ImageDecoder
from vlmtrace.models.input_limits import processor_refusals
from vlmtrace.models.prompt_header import Font, find_font, letter_boxes, spans_of, with_header
from vlmtrace.models.several_images import Images, as_list
from vlmtrace.models.types import Block, Inputs, Site, Token

#: By block and module, path in a layer.
PATHS = {
    VISION: {"mlp": "mlp", "self_attention": "attention.output"},
    DECODER: {
        "mlp": "mlp.DenseReluDense.wo",
        "self_attention": "self_attention.attention.output",
        "cross_attention": "encoder_decoder_attention.attention.output",
    },
}

#: The input that holds the patches: row, column, counted from 1, and pixels; rows of 0 fill it up.
PATCHES = "flattened_patches"

#: The input that says which share of the height the header takes.
HEADER = "header_share"


class Pix2Struct(ImageDecoder):
    """`transformers.Pix2StructForConditionalGeneration` under the common interface."""

    def __init__(self, name: str, hf: Any, processor: Any, family: FamilySpec | None = None):
        """See `ModelInterface`; the processor says whether questions are drawn."""
        super().__init__(name, hf, processor, family)
        self.draws_prompts = bool(processor.image_processor.is_vqa)
        self.font: Font | None = find_font(name) if self.draws_prompts else None
        if self.draws_prompts:
            self.edges = (("image", "last"),)

    def _find_parts(self) -> None:
        hf, attentions = self.hf, ("self_attention", "cross_attention")
        self.layers = {VISION: hf.encoder.encoder.layer, DECODER: hf.decoder.layer}
        seeing, reading = hf.config.vision_config, hf.config.text_config
        own = ("self_attention",)
        n_seeing, n_reading = len(self.layers[VISION]), len(self.layers[DECODER])
        self.blocks = {
            VISION: Block(
                VISION,
                n_seeing,
                seeing.num_attention_heads,
                ("residual", "mlp", *own),
                attention_modules=own,
                hooked_modules=own,
            ),
            # Its attention gives position biases where others give weights.
            DECODER: Block(DECODER, n_reading, reading.num_heads, ("residual", "mlp", *attentions), attentions),
        }

    @property
    def max_positions(self) -> None:
        """None: the decoder's positions are relative."""
        return None

    @property
    def question_block(self) -> str:
        """The vision encoder, where questions are drawn."""
        return VISION if self.draws_prompts else super().question_block

    @property
    def loading(self) -> str:
        """See `VLM.loading`; and in which font questions are drawn, since pixels decide about numbers."""
        return super().loading if self.font is None else f"{super().loading}, questions drawn in {self.font.name}"

    # Prompts and inputs --------------------------------------------------------

    @checked
    def prompt_text(self, prompt: str, n_images: Count = 1) -> str:
        """The question as it is drawn, or behind the start token of the decoder."""
        if not self.draws_prompts:
            return super().prompt_text(prompt, n_images)
        self.check_n_images(n_images)
        return prompt

    @checked
    def encode(self, images: Sequence[Images], prompts: Sequence[str]) -> Inputs:
        """See `ModelInterface.encode`; the patches of all images are as many, filled up as the processor does."""
        for image in images:
            self.check_n_images(len(as_list(image)))
        opened = [self.opened(as_list(image)[0]) for image in images]
        shares = [0.0] * len(opened)
        if self.font is not None:
            drawn = [with_header(image, text, self.font) for image, text in zip(opened, prompts, strict=True)]
            opened, shares = [image for image, _ in drawn], [share for _, share in drawn]
        with processor_refusals(self, prompts[0], opened[0]):
            found = self.processor.image_processor(opened, is_vqa=False, return_tensors="pt")
            if self.draws_prompts:
                rows = [[self._start_id]] * len(opened)
            else:
                rows = [self.tokenizer(text, **self.tokenizer_options(text)).input_ids for text in prompts]
        self._check_one_length(rows)
        return {
            PATCHES: self._patches(found[PATCHES], opened[0].size),
            "attention_mask": found["attention_mask"].to(self.device),
            HEADER: torch.tensor(shares, device=self.device),
            "input_ids": torch.tensor(rows, device=self.device),
        }

    def _patches(self, found: Tensor, size: tuple[int, int]) -> Tensor:
        """Patches in the model's number type, in which their rows and columns must be what they were."""
        typed = found.to(self.device, self.dtype)
        if (typed[..., :2].to(found) != found[..., :2]).any():
            raise VlmtraceError(
                f"An image of {size[0]} × {size[1]} pixels with its question has more rows or columns of patches than "
                f"{str(self.dtype).removeprefix('torch.')} can count for {self.name}: use a less narrow one, or "
                "dtype='float32'."
            )
        return typed

    def misaligned(self, clean: Inputs, corrupt: Inputs) -> str | None:
        """See `ModelInterface.misaligned`: patches must have the same row and column, and headers nearly one height."""
        (rows, columns), other = self.patch_grid(clean), self.patch_grid(corrupt)
        apart = abs(float(clean[HEADER][0] - corrupt[HEADER][0])) * rows
        if (rows, columns) == other and apart < 0.5:
            return None
        differs = (
            f"{rows} × {columns} against {other[0]} × {other[1]} patches"
            if (rows, columns) != other
            else f"headers that differ by {apart:.1f} rows of patches"
        )
        why = "the question is drawn above the image, and its width decides about all sizes" if self.font else ""
        return (
            f"The clean and the corrupt run are not aligned for {self.name} ({differs}{': ' if why else ''}{why}): "
            "use images of one size and questions of about the same width, or leave the pair out."
        )

    def tokens(self, block: str, prompt: str, inputs: Inputs, images: Images | None = None) -> list[Token]:
        """Patches by row and column, those of the header with the letters that they show; or the decoder's text."""
        if block == VISION:
            return self._vision_tokens(prompt, inputs)
        if not self.draws_prompts:
            return super().tokens(block, prompt, inputs, images)
        ids = inputs["input_ids"][0].tolist()
        roles = ["start", *["answer"] * (len(ids) - 1)]
        roles[-1] = "last"
        texts = self.tokenizer.convert_ids_to_tokens(ids)
        return [Token(text, role=role) for text, role in zip(texts, roles, strict=True)]

    def _vision_tokens(self, prompt: str, inputs: Inputs) -> list[Token]:
        cells, share = self._cells(inputs), float(inputs[HEADER][0])
        spans = [(0, 0)] * len(cells)
        if self.font is not None:
            letters = letter_boxes(prompt, self.font) * [share, 1, share, 1]
            spans = spans_of(prompt, letters, cells)
        found = []
        for (row, column), cell, span in zip(self._places(inputs), cells, spans, strict=True):
            if row < 0:
                found.append(Token("padding", role="padding"))
                continue
            in_header = (cell[0] + cell[2]) / 2 < share
            # Of patches with letters the prompt's words decide.
            role = ("header" if span == (0, 0) else None) if in_header else "image"
            found.append(Token(f"{row},{column}", span if role is None else (0, 0), role))
        return found

    # The image --------------------------------------------------------

    def _places(self, inputs: Inputs) -> list[tuple[int, int]]:
        """Row and column of each position of one pair, counted from 0; (-1, -1) for what fills up."""
        found = inputs[PATCHES][0, :, :2].round().long() - 1
        return [(row, column) for row, column in found.tolist()]

    def _cells(self, inputs: Inputs) -> np.ndarray:
        """(position, 4): top, left, bottom, right in fractions of header and image together; NaN for what fills up."""
        rows, columns = self.patch_grid(inputs)
        places = np.array(self._places(inputs), dtype=float)
        places[places[:, 0] < 0] = np.nan
        return np.concatenate([places, places + 1], axis=1) / [rows, columns, rows, columns]

    def patch_grid(self, inputs: Inputs) -> tuple[int, int]:
        """Rows and columns of patches, those of the header included."""
        rows, columns = inputs[PATCHES][0, :, :2].amax(0).tolist()
        return round(rows), round(columns)

    def image_positions(self, inputs: Inputs, block: str, images: Images | None = None) -> np.ndarray:
        """All positions of the vision encoder, and none of the decoder's."""
        seeing = block == VISION
        return np.full(inputs[PATCHES].shape[1] if seeing else inputs["input_ids"].shape[1], seeing)

    @checked
    def image_cells(self, image: Images, inputs: Inputs, block: str = VISION) -> np.ndarray:
        """See `ModelInterface.image_cells`: NaN where the middle of a patch lies in the header, and for what fills up.

        A patch at the border shows a part of both; its box is what it shows of the image.
        """
        one_of(block, (VISION,), f"block of {self.name} that sees the image")
        cells, share = self._cells(inputs), float(inputs[HEADER][0])
        cells[:, [0, 2]] = (cells[:, [0, 2]] - share) / (1 - share)
        cells[(cells[:, 0] + cells[:, 2]) / 2 < 0] = np.nan
        return np.clip(cells, 0, 1)

    def image_embeddings(self, inputs: Inputs) -> Tensor:
        """The vision encoder's output, which every layer of the decoder attends to."""
        seen = {name: inputs[name] for name in (PATCHES, "attention_mask")}
        return self.hf.encoder(**seen).last_hidden_state

    # Forward passes --------------------------------------------------------

    def last_logits(self, inputs: Inputs, n: int, image: Tensor | None = None) -> Tensor:
        """See `ModelInterface.last_logits`."""
        seen: dict[str, Any] = {PATCHES: inputs[PATCHES]} if image is None else {"encoder_outputs": (image,)}
        seen |= {"attention_mask": inputs["attention_mask"], "decoder_input_ids": inputs["input_ids"]}
        return self.hf(**seen, use_cache=False).logits[:, -n:].float()

    # Where activations are --------------------------------------------------------

    def _path(self, site: Site) -> str:
        return PATHS[site.block][site.module]

    def mask_argument(self, module: str) -> str:
        """See `ModelInterface.mask_argument`; that of the decoder's attention."""
        return "mask"
