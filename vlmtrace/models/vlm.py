"""A vision-language model under one face, whatever its family.

What a family has to say about itself fits on one screen: how to prepare images and prompts, which blocks of
layers there are, which torch module carries which activation, and how to sweep over patches quickly. Everything
else (hooks, traces, tables, tests) is written once, against this face.
"""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.models.families import FamilySpec, family_of
from vlmtrace.models.hooks import MODEL_LOCK, HookPoint, hooks
from vlmtrace.models.types import Block, Inputs, Patches, Readout, Site, Token, Trace


class VLM(ABC):
    """One loaded model. Holds no state between calls.

    Attributes:
        name: as given to `load_model`
        family: what is particular about its family
        revision: the commit on the hub that the files are of, where that is known
        hf: the transformers model, in evaluation mode
        blocks: the stacks of layers, by name, in the order in which information flows
        answer_block: the block whose last layer is read out for the answer
        entry_blocks: the blocks whose layer 0 is entered by embeddings of the image or the prompt
        uses_fast_sweep: whether the fast sweep agreed with the hooked reference when the model was loaded
        image_module: the attention module by which the head block looks at the image
        edges: ways from where to where by which information could flow, for attention knockouts
        has_visual_tokens: whether image tokens stand in the text sequence, where one stack of layers reads them
            together with the words
        falls_back_to_reference: whether a model whose fast sweep differs from the hooked reference is used all the
            same, with the reference; if not, it is refused
    """

    name: str
    family: FamilySpec
    revision: str | None = None
    hf: Any
    processor: Any
    tokenizer: Any
    blocks: dict[str, Block]
    answer_block: str
    entry_blocks: tuple[str, ...]
    uses_fast_sweep: bool = True
    image_module: str
    edges: tuple[tuple[str, str], ...]
    has_visual_tokens: bool = False
    falls_back_to_reference: bool = True
    #: Whether images of unlike size can give unlike numbers of tokens, so that they share no batch.
    image_size_matters: bool = False
    #: Whether the fast sweep knows patches of several positions at once; the reference does in any case.
    sweeps_regions: bool = False

    def __init__(self, name: str, hf: Any, processor: Any, family: FamilySpec | None = None):
        self.name = name
        self.family = family or family_of(hf.config, name)
        self.hf = hf.eval().requires_grad_(False)
        self.processor = processor
        self.tokenizer = processor.tokenizer

    @property
    def device(self) -> torch.device:
        return next(self.hf.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.hf.parameters()).dtype

    def __repr__(self) -> str:
        blocks = ", ".join(f"{b.name} {b.n_layers}×{b.n_heads}" for b in self.blocks.values())
        return f"<{type(self).__name__} {self.name}: layers × heads: {blocks}>"

    # What a family provides --------------------------------------------------------

    @abstractmethod
    def encode(self, images: Sequence[Image.Image | str | Path], prompts: Sequence[str]) -> Inputs:
        """Prepare images and prompts as the model's own processor does.

        Raises:
            VlmtraceError: an image cannot be read, or the prompts differ in length (nothing is ever padded, so that
                padding can never change a number)
        """

    @abstractmethod
    def last_logits(self, inputs: Inputs, n: int, image: Tensor | None = None) -> Tensor:
        """One forward pass: logits (batch, n, vocabulary), float32, of what follows each of the last n positions.

        Args:
            image: (batch, image position, width), put in the place of the `image_embeddings`
        """

    @abstractmethod
    def image_embeddings(self, inputs: Inputs) -> Tensor:
        """What the language side receives of each image: (batch, image position, width)."""

    @abstractmethod
    def generate(self, inputs: Inputs, max_new_tokens: int = 8) -> list[str]:
        """Greedy answers, special tokens removed."""

    @abstractmethod
    def extend(self, inputs: Inputs, ids: Sequence[int]) -> Inputs:
        """The inputs as they are once these answer tokens have been generated: `answer_logits` is of the next one."""

    @abstractmethod
    def hook_point(self, site: Site) -> HookPoint:
        """The torch module that carries a site."""

    @abstractmethod
    def layer_module(self, block: str, layer: int) -> nn.Module:
        """The torch module of a whole layer."""

    @abstractmethod
    def attention_module(self, site: Site) -> nn.Module:
        """The torch module whose second output are the attention weights (batch, head, query, key) of a site."""

    @abstractmethod
    def token_patches(self, inputs: Inputs) -> np.ndarray | None:
        """Of which vision encoder positions each row of `image_embeddings` is made, for inputs of one pair.

        Returns:
            (image position, vision position): rows sum to 1, or to 0 for what the model adds (newlines); None where
            an image token stands for no particular patches
        """

    @abstractmethod
    def sweep_unsupported_reason(self, inputs: Inputs) -> str | None:
        """What the fast sweep does not know about this model or these inputs, in words; None: it knows everything."""

    @abstractmethod
    def sweep(
        self,
        clean: Trace,
        corrupt: Trace,
        inputs: Inputs,
        patches: Patches,
        answer_ids: Tensor,
        memory: int,
    ) -> Readout:
        """Answer every patch of a group of pairs exactly, sharing what the patches share.

        Args:
            clean, corrupt: traces of the group, at all sites of the swept block and those above it
            inputs: the group's corrupt inputs
            patches: what to patch
            answer_ids: (pair, 2): first tokens of the correct and the incorrect answer
            memory: bytes that intermediate states may take
        Returns:
            Readout of shape (pair, patch)
        """

    @abstractmethod
    def run_with_fixed_heads(
        self, clean: Trace, corrupt: Trace, keep_clean: dict[str, Tensor], start: str, answer_ids: Tensor
    ) -> Readout:
        """Run with all heads fixed: as in the clean run where `keep_clean` says so, elsewhere as in the corrupt run.

        Args:
            clean, corrupt: traces of one pair (batch 1)
            keep_clean: by head module of the `head_block`, bool (set, layer, head)
            start: "clean" or "corrupt": which run's embeddings enter layer 0
        Returns:
            Readout of shape (1, set)
        """

    @abstractmethod
    def tokens(self, block: str, prompt: str, inputs: Inputs) -> list[Token]:
        """What stands at each position of a block for one prompt (`inputs`: of one pair, for the image's grid)."""

    @abstractmethod
    def patch_grid(self, inputs: Inputs) -> tuple[int, int]:
        """Rows and columns of image patches that the vision encoder sees."""

    @abstractmethod
    def image_cells(self, image: Image.Image | str | Path, inputs: Inputs, block: str) -> np.ndarray:
        """Where in the image the image positions of a block lie, whatever the processor resized, cropped or tiled.

        Args:
            image: the image of which `inputs` (of one pair) were made; only its size matters
        Returns:
            (image position, 4): top, left, bottom, right in fractions of the original image, NaN where a position has
            no place in it ([CLS], newlines). Rows of `image_block` are those of `image_embeddings`
        """

    @abstractmethod
    def image_positions(self, inputs: Inputs, block: str) -> np.ndarray:
        """(position,) bool: which positions of a block are the rows of its `image_cells`, for inputs of one pair."""

    # What only some families have --------------------------------------------------------

    def mask_argument(self, module: str) -> str:
        """The name under which an `attention_module` takes its mask."""
        return "attention_mask"

    @contextlib.contextmanager
    def eager(self) -> Iterator[None]:
        """While this is entered, attention gives its weights, which faster implementations do not."""
        yield

    def is_image(self, inputs: Inputs) -> Tensor:
        """Where image tokens stand in the text sequence: (pair, position) bool."""
        return torch.zeros_like(inputs["input_ids"], dtype=torch.bool)

    def adds_image_features_after(self, layer: int) -> bool:
        """Whether the model adds image features to the residual stream behind a layer of the `head_block`."""
        return False

    def check_layers(self, trace: Trace, inputs: Inputs) -> None:  # noqa: B027 - most have nothing more to check
        """Check what the fast sweep takes for granted about the layers, when the model loads.

        Args:
            trace: of one pair, at all sites
            inputs: of that pair

        Raises:
            VlmtraceError: the layers do something that the family's are not known to do
        """

    # What only models with visual tokens have --------------------------------------------------------

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the last layer of the language model and the unembedding."""
        raise self._without_visual_tokens()

    def read(self, hidden: Tensor) -> Tensor:
        """Logits (…, vocabulary) of final hidden states (…, width), as the model's own forward pass computes them."""
        raise self._without_visual_tokens()

    def unembed(self, normed: Tensor) -> Tensor:
        """Logits (…, vocabulary), float32, of vectors (…, width) that have been through the final norm."""
        raise self._without_visual_tokens()

    def text_only_prompt(self, prompt: str) -> str:
        """The exact text of a prompt without an image, for `encode_text`."""
        raise self._without_visual_tokens()

    def encode_text(self, text: str) -> Inputs:
        """Inputs of one text without an image, as `text_only_prompt` gives it."""
        raise self._without_visual_tokens()

    def _without_visual_tokens(self) -> VlmtraceError:
        return VlmtraceError(
            f"{self.name} does not read image tokens in its text sequence, which this needs: use a decoder-only model, "
            "e.g. tiny-llava."
        )

    # What follows from it --------------------------------------------------------

    @property
    def head_block(self) -> Block:
        """The block whose heads `patch_heads` goes through."""
        return next(block for block in self.blocks.values() if block.head_modules)

    @property
    def image_block(self) -> str:
        """The block whose sequence holds the image tokens that the language side reads."""
        return self.head_block.name if self.image_module == "self_attention" else "vision_encoder"

    @property
    def injects_image_features_later(self) -> bool:
        """Whether later layers of the language model receive image features, too."""
        return self.adds_image_features_after(0)

    def encode_image(self, image: Image.Image) -> Inputs:
        """Inputs of an image with a prompt that does not matter."""
        return self.encode([image], [self.prompt_text("?")])

    def sites(self, blocks: Sequence[str] | None = None) -> list[Site]:
        """Every site that can be patched, in the order of blocks, layers, modules."""
        return [
            Site(block.name, module, layer)
            for block in self.blocks.values()
            if blocks is None or block.name in blocks
            for layer in range(block.n_layers)
            for module in block.modules
        ]

    def check_site(self, site: Site) -> Site:
        """Return the site, or raise a sentence that says which exist."""
        block = self.blocks[one_of(site.block, self.blocks, f"block of {self.name}")]
        one_of(site.module, block.modules, f"module of {block.name}")
        if not 0 <= site.layer < block.n_layers:
            raise VlmtraceError(
                f"Layer {site.layer} does not exist: {block.name} of {self.name} has layers 0 to {block.n_layers - 1}."
            )
        return site

    def prompt_text(self, prompt: str) -> str:
        """The exact text handed to the processor, after a chat template where the model has one."""
        return prompt

    def count_tokens(self, prompt: str) -> int:
        """Number of tokens of a prompt, special tokens included."""
        return len(self.tokenizer(self.prompt_text(prompt)).input_ids)

    def answer_token(self, answer: str) -> int:
        """The id of the first token of an answer, as the model emits it.

        Raises:
            VlmtraceError: the answer is empty or its first token is unknown to the tokenizer.
        """
        ids = self.tokenizer(answer, add_special_tokens=False).input_ids
        if not ids or ids[0] == self.tokenizer.unk_token_id:
            raise VlmtraceError(
                f"The answer {answer!r} does not start with a token of {self.name}'s vocabulary: use another word."
            )
        return ids[0]

    def answer_ids(self, correct: Sequence[str], incorrect: Sequence[str]) -> Tensor:
        """(pair, 2) ids of the options' first tokens.

        Raises:
            VlmtraceError: an answer is unknown, or two options share their first token.
        """
        rows = []
        for right, wrong in zip(correct, incorrect, strict=True):
            row = [self.answer_token(right), self.answer_token(wrong)]
            if row[0] == row[1]:
                raise VlmtraceError(
                    f"The options {right!r} and {wrong!r} share their first token under {self.name}'s tokenizer, "
                    "so their logits cannot be told apart: replace one of them."
                )
            rows.append(row)
        return torch.tensor(rows, device=self.device)

    @property
    def stop_ids(self) -> set[int]:
        """The tokens that end an answer."""
        ids = self.hf.generation_config.eos_token_id
        ids = self.tokenizer.eos_token_id if ids is None else ids
        return {ids} if isinstance(ids, int) else set(ids or ())

    def answer_logits(self, inputs: Inputs, image: Tensor | None = None) -> Tensor:
        """One forward pass: logits (batch, vocabulary), float32, of the first answer token; see `last_logits`."""
        with MODEL_LOCK:
            return self.last_logits(inputs, 1, image)[:, 0]

    @torch.no_grad()
    def answer_tokens(self, inputs: Inputs, max_new_tokens: int = 8, image: Tensor | None = None) -> list[int]:
        """Ids of the answer that the model itself gives to one question, greedily, without the token that ends it."""
        found: list[int] = []
        image = self.image_embeddings(inputs) if image is None else image
        while len(found) < max_new_tokens:
            token = int(self.answer_logits(self.extend(inputs, found), image=image)[0].argmax())
            if token in self.stop_ids:
                break
            found.append(token)
        return found

    def trace(self, inputs: Inputs, sites: Sequence[Site] | None = None, image: Tensor | None = None) -> Trace:
        """One forward pass that keeps the activations of `sites` (default: all).

        Args:
            image: (batch, image position, width), put in the place of the `image_embeddings`
        """
        trace = Trace(logits=torch.empty(0), image=image)
        sites = self.sites() if sites is None else [self.check_site(site) for site in sites]

        def keep(site: Site) -> Callable[[Tensor], None]:
            return lambda value: trace.activations.__setitem__(site, value.detach())

        def keep_input(block: str) -> Callable[[Tensor], None]:
            return lambda value: trace.layer_inputs.__setitem__(block, value.detach())

        points = [(self.hook_point(site), keep(site)) for site in sites]
        points += [
            (HookPoint(self.layer_module(block, 0), True), keep_input(block)) for block in {s.block for s in sites}
        ]
        with torch.no_grad(), hooks(points, len(inputs["input_ids"])):
            trace.logits = self.answer_logits(inputs, image)
        missing = [site for site in sites if site not in trace.activations]
        if missing:
            raise VlmtraceError(
                f"The forward pass of {self.name} never reached {missing[0]}: this model is not supported."
            )
        return trace

    def attention(self, inputs: Inputs, block: str, module: str) -> Tensor:
        """Attention weights of a block's module: (layer, batch, head, query, key), float32; rows sum to 1.

        Where a vision encoder works on tiles, the batch is that of all tiles.
        """
        found = self.blocks[one_of(block, self.blocks, f"block of {self.name}")]
        one_of(module, found.attention_modules, f"attention of {block}")
        weights: list[Tensor] = []
        with MODEL_LOCK, torch.no_grad(), self.eager(), contextlib.ExitStack() as stack:
            for layer in range(found.n_layers):
                handle = self.attention_module(Site(block, module, layer)).register_forward_hook(
                    lambda _module, _args, output: weights.append(output[1].float())
                )
                stack.callback(handle.remove)
            self.answer_logits(inputs)
        return torch.stack(weights)

    def fingerprint(self) -> str:
        """Identifies the weights: a digest over every parameter's name, shape and first values."""
        digest = hashlib.sha256()
        for name, parameter in sorted(self.hf.named_parameters()):
            digest.update(f"{name} {tuple(parameter.shape)}".encode())
            digest.update(parameter.detach().flatten()[:256].float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def inputs_of_pair(inputs: Inputs, pair: int, n_pairs: int) -> Inputs:
    """One pair's share of a batch; some families lay the patches of all images in one row, equally many each."""
    return {
        name: value[pair * len(value) // n_pairs : (pair + 1) * len(value) // n_pairs] for name, value in inputs.items()
    }
