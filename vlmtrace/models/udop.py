"""UDOP: an encoder that reads image and question, of a page whose words nobody has recognized, and a decoder.

    question ──▶ embeddings ──┐
    pixels ──▶ patches ───────┴──▶ text_encoder ──▶ keys and values of cross-attention ──▶ text_decoder ──▶ logits

UDOP (Tang et al. 2023, https://arxiv.org/abs/2212.02623) was trained on the words of a page with their boxes, beside
its image. A pairs table has an image and a question, so here the page is one on which no word was recognized. The model
adds to each word the patch under the middle of its box, and takes this patch out of the image. It does so with all
tokens: those of the question have no box, which takes out the first patch and adds none; separators have the box of the
last corner, so that the last patch stands at the separators. Rows of 0 take the places of what is taken out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vlmtrace.core.arguments import Count, checked
from vlmtrace.core.caller import warn
from vlmtrace.core.errors import one_of
from vlmtrace.models.encoder_decoder import ENCODER, EncoderDecoder
from vlmtrace.models.families import FamilySpec
from vlmtrace.models.input_limits import processor_refusals
from vlmtrace.models.several_images import Images
from vlmtrace.models.types import Inputs, Token, Trace

#: What precedes a question in training.
TASK = "Question answering. "

#: A page without words, as the tokenizer takes it: one word of no letter and no place.
NO_WORDS: dict[str, Any] = {"text_pair": [""], "boxes": [[0, 0, 0, 0]]}


class Udop(EncoderDecoder):
    """`transformers.UdopForConditionalGeneration` under the common interface."""

    image_size_matters = False  # every image becomes one of the model's own size

    def __init__(self, name: str, hf: Any, processor: Any, family: FamilySpec | None = None):
        """See `ModelInterface`; its tokenizer takes words with boxes only, and this one the same tokens without."""
        super().__init__(name, hf, processor, family)
        own = processor.tokenizer
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=own.backend_tokenizer,
            eos_token=own.eos_token,
            unk_token=own.unk_token,
            pad_token=own.pad_token,
        )

    # Inputs --------------------------------------------------------

    @checked
    def prompt_text(self, prompt: str, n_images: Count = 1) -> str:
        """The question behind the name of the task, as in training."""
        self.check_n_images(n_images)
        return f"{TASK}{prompt}"

    def _encode_one(self, images: list, text: str) -> Inputs:
        self.check_n_images(len(images))
        with processor_refusals(self, text, images[0]):
            row = self.processor.tokenizer(text, return_tensors="pt", **NO_WORDS)
            row["pixel_values"] = self.processor.image_processor(images[0], apply_ocr=False, return_tensors="pt")[
                "pixel_values"
            ]
        return {name: row[name] for name in ("input_ids", "attention_mask", "bbox", "pixel_values")}

    def check_layers(self, trace: Trace, inputs: Inputs) -> None:
        """Say that sweeps are slower than those of other families, and that the page's words are not given."""
        super().check_layers(trace, inputs)
        warn(
            f"{self.name} was trained on the words of a page with their places. It is given the image and the question "
            "alone, as of a page on which no word was recognized."
        )

    # Positions of the encoder --------------------------------------------------------

    @property
    def _side(self) -> int:
        """Patches along each side."""
        return self.hf.config.image_size // self.hf.config.patch_size

    def _patches(self, inputs: Inputs) -> np.ndarray:
        """(position,): the patch that each position of the encoder shows; -1 for none, -2 for what fills up."""
        side, boxes = self._side, inputs["bbox"][0].cpu().numpy().astype(float)
        across, down = (np.clip(np.floor((boxes[:, i] + boxes[:, i + 2]) / 2 * side), 0, side - 1) for i in (0, 1))
        under = (down * side + across).astype(int)  # (token,)
        # The model adds no patch to a token without a box.
        at_tokens = np.where(np.isin(boxes.mean(axis=1), (0, 1)), -1, under)
        left = np.setdiff1d(np.arange(side**2), under)
        return np.concatenate([at_tokens, left, np.full(side**2 - len(left), -2)])

    def is_image(self, inputs: Inputs) -> Tensor:
        """(pair, position) bool, of the encoder: patches, and tokens that a patch is added to."""
        found = torch.as_tensor(self._patches(inputs) >= 0, device=self.device)
        return found.expand(len(inputs["input_ids"]), -1)

    def tokens(self, block: str, prompt: str, inputs: Inputs, images: Images | None = None) -> list[Token]:
        """The question's words, separators with the patch that is added to them, and patches by row and column."""
        if block != ENCODER:
            return super().tokens(block, prompt, inputs, images)
        texts = self.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
        spans = self.tokenizer(prompt, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
        found = []
        for i, patch in enumerate(self._patches(inputs).tolist()):
            place = f"{patch // self._side},{patch % self._side}"
            if patch == -2:
                found.append(Token("padding", role="padding"))
            elif patch >= 0:
                found.append(Token(f"{texts[i]} {place}" if i < len(texts) else place, role="image"))
            else:
                known = i < len(spans)
                found.append(Token(texts[i], tuple(spans[i]) if known else (0, 0), None if known else texts[i]))
        return found

    @checked
    def image_cells(self, image: Images, inputs: Inputs, block: str = ENCODER) -> np.ndarray:
        """See `ModelInterface.image_cells`; the whole image is stretched to the model's size."""
        one_of(block, (ENCODER,), f"block of {self.name} that holds the image's tokens")
        patches = self._patches(inputs)
        places = np.stack(np.divmod(patches[patches >= 0], self._side), axis=1)  # (image position, 2)
        return np.concatenate([places, places + 1], axis=1) / self._side

    def patch_grid(self, inputs: Inputs) -> tuple[int, int]:
        """As the configuration says."""
        return self._side, self._side
