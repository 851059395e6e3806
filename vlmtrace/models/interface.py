"""What every family's class provides: the interface against which sweeps, methods and tests are written.

How to prepare images and prompts, which blocks of layers there are, which torch module carries which activation, and
how to answer many patches quickly. `VLM` adds what follows from it.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.images import open_image
from vlmtrace.models.edges.nodes import Wiring
from vlmtrace.models.families import FamilySpec, family_of
from vlmtrace.models.hooks import HookPoint
from vlmtrace.models.interventions import Interventions
from vlmtrace.models.load_options import LoadOptions
from vlmtrace.models.several_images import Images
from vlmtrace.models.types import AnswerIds, Block, Inputs, Patches, Readout, Site, Token, Trace


class ModelInterface(ABC):
    """One loaded model. It holds no state between calls.

    Attributes:
        name: as given to `load_model`
        family: what is particular about its family
        revision: the commit on the hub that the files are of, where that is known
        hf: the transformers model, in evaluation mode
        processor: the transformers processor of images and text
        tokenizer: the processor's
        blocks: the stacks of layers, by name, in the order in which information flows
        answer_block: the block whose last layer is read out for the answer
        entry_blocks: the blocks whose layer 0 is entered by embeddings of the image or the prompt
        uses_fast_sweep: whether the fast sweep agreed with the hooked reference when the model was loaded
        image_module: the attention module by which the head block looks at the image
        edges: pairs (source, target) of token groups between which attention can be knocked out
        has_visual_tokens: whether image tokens stand in the text sequence, where one stack of layers reads them
            together with the words
        falls_back_to_reference: whether a model whose fast sweep differs from the hooked reference is used all the
            same, with the reference; if not, it is refused
        image_size_matters: whether images of unlike size can give unlike numbers of tokens, so that they share no batch
        draws_prompts: whether a prompt is drawn into the image, so that its words have places there and are no tokens
        answers_apart: whether the answer's tokens go through a block of their own, so that the prompt's states are the
            same whatever the answer
        joins_answers: whether patched runs can read two answers of several tokens behind one prompt, see
            `vlmtrace.models.sweep.joined_answers`
        engine: what answers patches, in a word or two, for `families_table`
        sweeps_regions: whether the fast sweep knows patches of several positions at once; the reference always does
        skips_vision_encoder: whether a run that is given image embeddings leaves the vision encoder out
        fixes_heads: whether `run_with_fixed_heads` is faster than the hooked reference, which is taken otherwise
        skippable: names of the `stacks` of which lower layers need not run again in batched passes, see
            `vlmtrace.models.sweep.universal`; None: not tried yet
        load_options: how `load_model` loaded it, beside its name and device
        wirings: the stacks of layers whose nodes and edges are known, see `vlmtrace.models.edges`; empty: none
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
    image_size_matters: bool = False
    draws_prompts: bool = False
    answers_apart: bool = False
    joins_answers: bool = False
    engine: str = "fast sweep"
    sweeps_regions: bool = False
    skips_vision_encoder: bool = False
    fixes_heads: bool = True
    skippable: frozenset[str] | None = None
    load_options: LoadOptions = LoadOptions()
    wirings: tuple[Wiring, ...] = ()

    def __init__(self, name: str, hf: Any, processor: Any, family: FamilySpec | None = None):
        """Take a loaded transformers model and its processor under the interface.

        Args:
            name: for messages and records
            hf: the transformers model; it is put into evaluation mode, and its parameters need no gradient
            processor: its processor
            family: what is particular about it; None: what its configuration says
        """
        self.name = name
        self.family = family or family_of(hf.config, name)
        self.hf = hf.eval().requires_grad_(False)
        self.processor = processor
        self.tokenizer = processor.tokenizer

    @property
    def max_positions(self) -> int | None:
        """Tokens that its text sequence may have, image tokens included; None: its configuration names no limit."""
        return getattr(self.hf.config.get_text_config(), "max_position_embeddings", None)

    # Inputs --------------------------------------------------------

    def opened(self, image: Image.Image | str | Path) -> Image.Image:
        """An image as the model's processor is handed it: opened, and resampled where `load_model` was told to."""
        return self.load_options.sizing.apply(open_image(image), self.processor.image_processor)

    @abstractmethod
    def encode(self, images: Sequence[Images], prompts: Sequence[str]) -> Inputs:
        """Prepare a batch of images and prompts as the model's own processor does.

        Args:
            images: for each prompt its image, or a list of its images; or paths to them
            prompts: as `prompt_text` gives them

        Returns:
            what the model's forward pass takes, by name

        Raises:
            VlmtraceError: an image cannot be read, the processor refuses it (a strip too narrow, say), a prompt is
                longer than the model's positions, the prompts differ in length (nothing is ever padded, so that
                padding can never change a number), there is none, or there are not as many images
        """

    @abstractmethod
    def extend(self, inputs: Inputs, ids: Sequence[int] | Tensor) -> Inputs:
        """The inputs as they are once these answer tokens have been generated: `answer_logits` is of the next one.

        Args:
            inputs: a batch
            ids: the same for all of the batch, or (batch, token)
        """

    def misaligned(self, clean: Inputs, corrupt: Inputs) -> str | None:
        """Why positions of two runs do not correspond, where neither tokens nor the sizes of images tell it.

        Args:
            clean: of one pair
            corrupt: of the same pair, of equal shapes

        Returns:
            a sentence; None: they correspond, as far as the model itself can tell
        """
        return None

    @abstractmethod
    def tokens(self, block: str, prompt: str, inputs: Inputs, images: Images | None = None) -> list[Token]:
        """What stands at each position of a block for one prompt.

        Args:
            block: its name
            prompt: as `prompt_text` gives it
            inputs: of one pair, for the image's grid
            images: those of which `inputs` were made, where they are several; only their sizes matter
        """

    # The image --------------------------------------------------------

    @abstractmethod
    def patch_grid(self, inputs: Inputs) -> tuple[int, int]:
        """Rows and columns of image patches that the vision encoder sees of the one image of a prompt."""

    def patch_grids(self, images: Images, inputs: Inputs) -> list[tuple[int, int]]:
        """Rows and columns of image patches that the vision encoder sees of each image of a prompt.

        Args:
            images: those of which `inputs` were made; only their sizes matter
            inputs: of one pair
        """
        return [self.patch_grid(inputs)]

    @abstractmethod
    def image_cells(self, image: Images, inputs: Inputs, block: str) -> np.ndarray:
        """Where in the image the image positions of a block lie, whatever the processor resized, cropped or tiled.

        Args:
            image: the image, or list of images, of which `inputs` were made; only their sizes matter
            inputs: of one pair
            block: the vision encoder, or the block that holds image tokens

        Returns:
            (image position, 4): top, left, bottom, right in fractions of the original image, NaN where a position has
            no place in it ([CLS], newlines). Rows of `image_block` are those of `image_embeddings`. Of several images,
            one after the other, each position in fractions of its own
        """

    def image_numbers(self, image: Images, inputs: Inputs, block: str) -> np.ndarray:
        """Of which image of the prompt each row of `image_cells` is: (image position,), counted from 0."""
        return np.zeros(len(self.image_cells(image, inputs, block)), dtype=int)

    @abstractmethod
    def image_positions(self, inputs: Inputs, block: str, images: Images | None = None) -> np.ndarray:
        """(position,) bool: which positions of a block are the rows of its `image_cells`, for inputs of one pair.

        Args:
            inputs: of one pair
            block: its name
            images: those of which `inputs` were made, where they are several; only their sizes matter
        """

    @abstractmethod
    def image_embeddings(self, inputs: Inputs) -> Tensor:
        """What the language side receives of each image: (batch, image position, width)."""

    @abstractmethod
    def token_patches(self, inputs: Inputs, images: Images | None = None) -> np.ndarray | None:
        """Of which vision encoder positions each row of `image_embeddings` is made, for inputs of one pair.

        Args:
            inputs: of one pair
            images: those of which `inputs` were made, where they are several; only their sizes matter

        Returns:
            (image position, vision position): rows sum to 1, or to 0 for what the model adds (newlines); None where
            an image token stands for no particular patches
        """

    def is_image(self, inputs: Inputs) -> Tensor:
        """Where image tokens stand in the text sequence: (pair, position) bool."""
        return torch.zeros_like(inputs["input_ids"], dtype=torch.bool)

    # Forward passes --------------------------------------------------------

    @abstractmethod
    def last_logits(self, inputs: Inputs, n: int, image: Tensor | None = None) -> Tensor:
        """Run one forward pass and keep the logits of what follows each of the last positions.

        Args:
            inputs: a batch
            n: how many positions
            image: (batch, image position, width), which replaces the `image_embeddings`

        Returns:
            (batch, n, vocabulary), float32
        """

    @contextlib.contextmanager
    def eager(self) -> Iterator[None]:
        """While this is entered, attention gives its weights, which faster implementations do not."""
        yield

    # Where activations are --------------------------------------------------------

    @abstractmethod
    def hook_point(self, site: Site) -> HookPoint:
        """The torch module that carries a site."""

    @abstractmethod
    def layer_module(self, block: str, layer: int) -> nn.Module:
        """The torch module of a whole layer."""

    def entry_point(self, block: str) -> HookPoint:
        """What carries the residual stream that enters layer 0 of a block."""
        return HookPoint(self.layer_module(block, 0), is_input=True)

    @property
    def stacks(self) -> list[tuple[str, list[nn.Module]]]:
        """Every stack of layers by its block's name, in the order in which information flows."""
        return [
            (block.name, [self.layer_module(block.name, layer) for layer in range(block.n_layers)])
            for block in self.blocks.values()
        ]

    @abstractmethod
    def attention_module(self, site: Site) -> nn.Module:
        """The torch module whose second output are the attention weights (batch, head, query, key) of a site."""

    def mask_argument(self, module: str) -> str:
        """The name under which an `attention_module` takes its mask."""
        return "attention_mask"

    def adds_image_features_after(self, layer: int) -> bool:
        """Whether the model adds image features to the residual stream behind a layer of the `head_block`."""
        return False

    # Sweeps --------------------------------------------------------

    def check_layers(self, trace: Trace, inputs: Inputs) -> None:  # noqa: B027 - most have nothing more to check
        """Check what the fast sweep takes for granted about the layers, when the model loads.

        Args:
            trace: of one pair, at all sites
            inputs: of that pair

        Raises:
            VlmtraceError: the layers do something that the family's are not known to do
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
        answer_ids: AnswerIds,
        memory: int,
    ) -> Readout:
        """Answer every patch of a batch of pairs exactly, sharing what the patches share.

        Args:
            clean: trace of the clean runs, at all sites of the swept block and those above it
            corrupt: trace of the corrupt runs, at the same sites
            inputs: of the corrupt runs
            patches: what to patch
            answer_ids: first tokens (pair, 2) of the correct and the incorrect answer, or a whole answer
            memory: bytes that intermediate states may take

        Returns:
            Readout of shape (pair, patch)
        """

    def intervenes_in(self, interventions: Interventions) -> bool:
        """Whether `intervene` knows what these interventions do; if not, hooks do."""
        return False

    def intervene(
        self,
        source: Trace,
        base: Trace,
        inputs: Inputs,
        interventions: Interventions,
        answer_ids: AnswerIds,
        memory: int,
    ) -> Readout:
        """Answer every intervention in a batch of pairs exactly, sharing what they share.

        Args:
            source: trace of the runs that are copied from, at all sites that are overwritten
            base: trace of the runs in which the interventions act, at all sites of all blocks but the vision encoder's
                heads, and at those that are overwritten
            inputs: of the latter runs
            interventions: what to do
            answer_ids: as in `sweep`; two whole answers only where nothing is done in the answer's own block
            memory: bytes that intermediate states may take

        Returns:
            Readout of shape (pair, intervention)

        Raises:
            VlmtraceError: the family has no fast path for them, see `intervenes_in`
        """
        raise VlmtraceError(f"{self.name} has no fast path for these interventions: run them with hooks.")

    @abstractmethod
    def run_with_fixed_heads(
        self, clean: Trace, corrupt: Trace, keep_clean: dict[str, Tensor], start: str, answer_ids: AnswerIds
    ) -> Readout:
        """Run with all heads fixed: as in the clean run where `keep_clean` says so, elsewhere as in the corrupt run.

        Args:
            clean: trace of the clean run of one pair
            corrupt: trace of its corrupt run
            keep_clean: by head module of the `head_block`, bool (set, layer, head)
            start: "clean" or "corrupt": which run's embeddings enter layer 0
            answer_ids: as in `sweep`, of one pair

        Returns:
            Readout of shape (1, set)
        """

    def nodes_unsupported_reason(self) -> str | None:
        """Why the edges between this model's nodes are not known, in words; None: they are."""
        return "layers that are run whole, not node by node"

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
