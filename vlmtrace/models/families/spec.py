"""What is particular about a family of models, and how families are found.

A family declares itself: each module of this folder holds `FAMILIES`, a list of `FamilySpec` (and `UNSUPPORTED`, where
models are refused by name), and nothing else needs to know of it. Packages outside add families by an entry point of
the group `vlmtrace.families` that names such a list, or one `FamilySpec`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from torch import Tensor

from vlmtrace.core.types import Array
from vlmtrace.models.patch_layout import PatchLayout
from vlmtrace.models.types import Inputs

#: Vision encoders that several families can be joined with.
CLIP_OR_SIGLIP = ("clip_vision_model", "siglip_vision_model")

#: The head by which SigLIP pools an image into one vector, which no language model reads.
POOLING_HEAD = r"(^|\.)vision_(tower|model)\.(vision_model\.)?head\."

#: The layout of most families.
ROW_BY_ROW = PatchLayout()


class Pack(Protocol):
    """How a model rearranges what patches have into what image tokens have, after projection."""

    def __call__(self, hf: Any, patches: Array, inputs: Inputs, newline: float) -> Array:
        """Rearrange.

        Args:
            hf: the transformers model
            patches: (tile, row, column, …)
            inputs: of one pair
            newline: what image tokens have that the model adds

        Returns:
            (image token, …)
        """
        ...


def tokens_with_image_id(config: Any, inputs: Inputs) -> Tensor:
    """Where image tokens stand in most families: where the id is `image_token_id`; (pair, position) bool."""
    return inputs["input_ids"] == config.image_token_id


def timm_encoder(config: Any) -> tuple[str, ...]:
    """The package of a vision encoder that comes from timm."""
    return ("timm",) if config.vision_config.model_type == "timm_wrapper" else ()


def _feature_layer(config: Any) -> int | Sequence[int] | None:
    """As LLaVA's configuration and those after it say."""
    return getattr(config, "vision_feature_layer", None)


def _reads_class_token(config: Any) -> bool:
    """As LLaVA's configuration and those after it say."""
    return getattr(config, "vision_feature_select_strategy", None) == "full"


@dataclass(frozen=True)
class StackSpec:
    """Where a stack of layers keeps its parts, in a model that has several of text.

    Attributes:
        layers: path of the list of layers
        paths: by module, path in a layer: the feed-forward of "mlp", the output projection of an attention
        n_heads: config -> attention heads of a layer
        gives_weights: whether its attention modules give their weights as their second output
        mask_argument: the name under which its attention modules take their mask
    """

    layers: str
    paths: Mapping[str, str]
    n_heads: Callable[[Any], int]
    gives_weights: bool = True
    mask_argument: str = "attention_mask"


@dataclass(frozen=True)
class FamilySpec:
    """What is particular about a family. What has a default is as in LLaVA-1.5 and most families after it.

    Paths are dotted names of submodules; `config` is a model's transformers configuration.

    Attributes:
        model_type: the family's name in config.json
        name: the name that people use
        architecture: the transformers class that config.json names
        also_named: further classes that config.json may name
        image_tokens: in words, what an image token of the language model stands for
        handled: in words, what is particular about the family and taken care of; for `families_table`
        interface: "module:class", the subclass of `VLM` under which models of the family are used
        loader: the transformers class whose `from_pretrained` loads a model, or "module:class"
        load_options: further arguments of that call
        processor_context: makes a context in which the family's processor is loaded, where packages may be missing
        processor_settings: attributes that the processor's class lacks or has otherwise than the model needs them
        packages: config -> packages, by their names for import, without which such a model cannot be built
        since: the version of vlmtrace in which the family was first supported
        unread_weights: regular expression of names of tensors that a checkpoint may hold though the model has no place
            for them, since nothing reads what they compute
        refusal: config -> why such a model is not supported, as the end of a sentence; None: nothing is against it
        adapt: spec and config -> the spec for this model, where it depends on what the family was joined with
        text: path of the stack of text layers
        vision: path of the vision encoder; "" where there is none
        layers: path in the stack of text layers: the list of its layers
        norm: path in the stack of text layers: the final norm; "" where there is none
        attention_output: path in a text layer: the output projection of its attention, or of what stands in its place;
            several where layers differ, of which each has one
        mlp: path in a text layer: the feed-forward, or its last module
        one_part_per_layer: whether each text layer is attention (or carries a state) or a feed-forward, and not both:
            one without any `attention_output` is the latter
        text_only: path of what runs a prompt without an image; "" for the whole model
        vision_types: types of vision encoder whose positions are known to be the patches of `layout`; a model with
            another one is used without its vision encoder
        vision_layers_read: config -> of the vision encoder's hidden states (0 is what enters its first layer, negative
            numbers count from the end), the one or those that are read; None: the last
        vision_attention: path in a vision layer: its attention
        vision_attention_weights: whether that attention gives its weights
        vision_gives_tuples: whether a vision layer gives a tuple, of which the residual stream is the first entry
        vision_in_one_row: whether the vision encoder takes all images of a batch as one sequence, so that its attention
            scores grow with the square of their number
        prompt_start: what precedes the prompt where the processor has no chat template, with {image} for the image's
            placeholder, and {number} where images are counted; "" where the processor itself puts the image's tokens
        chats: whether its models are trained with a chat template as a rule, so that one that lacks it is warned of;
            of those that never put an image's tokens into a prompt (`prompt_start` without {image}) it is not asked
        prompt_end: what the processor itself adds behind the prompt
        still_frames: how many frames the videos have that the processor takes: an image is shown in all of them; 0: it
            takes images
        several_images: whether a prompt may have several images, each of which becomes tokens of its own
        one_image: why a prompt has one image, as the end of a sentence; "" where it may have several
        pads_images: whether an image is padded to the size of the largest in its prompt, and the vision encoder runs
            the padding, too
        generated_token_type: the kind that a generated token has in `token_type_ids`
        pixels: the input that holds the image
        is_image: config and inputs -> where image tokens stand in the language model, (pair, position) bool
        more_token_fills: further inputs with one entry per position, and what a generated token has in them
        layout: how pixel values hold the patches
        square_side: config -> patches along each side of the square that one image token stands for; None where image
            tokens stand for no particular patches
        reads_class_token: config -> whether class tokens of the vision encoder are among the image tokens
        mixes_squares: whether the squares around it enter an image token, too, by convolutions behind the vision
            encoder: it lies where its square does, but is not made of it alone
        pack: rearranges image tokens after projection; None where they come row by row, tile by tile
        pooled: inputs of one pair -> for each image token the patches that are pooled into it, by their number, tile by
            tile and row by row: (image token, patch of it), -1 for none; None where they come in squares
        as_batch: inputs of several pairs, each as the processor gives it alone -> what the model takes for all of them
        later_image_features: config -> the text layers behind which the model adds image features; a number: so many,
            from the first on
        layers_read_embeddings: config -> whether the model gives each layer something made of what enters the first one
        readout_scale: config -> what the model's forward pass multiplies its logits by
        caps_logits: whether the model's forward pass applies the text configuration's `final_logit_softcapping`
        stream_axis: the dimension in which a text layer's residual streams lie side by side, see `HookPoint`; None:
            there is one
        stacks: by block, the stacks of a model whose language model has an encoder of its own
    """

    model_type: str
    name: str
    architecture: str
    also_named: tuple[str, ...] = ()
    image_tokens: str = "one per patch"
    handled: str = ""
    # How it is loaded
    interface: str = "vlmtrace.models.decoder_only:DecoderOnly"
    loader: str = "AutoModelForImageTextToText"
    load_options: Mapping[str, Any] = field(default_factory=dict)
    processor_context: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    processor_settings: Mapping[str, Any] = field(default_factory=dict)
    packages: Callable[[Any], tuple[str, ...]] = lambda _config: ()
    since: str = "0.2.0"
    unread_weights: str = POOLING_HEAD
    refusal: Callable[[Any], str | None] = lambda _config: None
    adapt: Callable[[FamilySpec, Any], FamilySpec] = lambda spec, _config: spec
    # Where its submodules are
    text: str = "model.language_model"
    vision: str = "model.vision_tower"
    layers: str = "layers"
    norm: str = "norm"
    attention_output: str | tuple[str, ...] = "self_attn.o_proj"
    mlp: str = "mlp"
    one_part_per_layer: bool = False
    text_only: str = ""
    vision_types: tuple[str, ...] = CLIP_OR_SIGLIP
    vision_layers_read: Callable[[Any], int | Sequence[int] | None] = _feature_layer
    vision_attention: str = "self_attn"
    vision_attention_weights: bool = True
    vision_gives_tuples: bool = False
    vision_in_one_row: bool = False
    # What its prompts and images become
    prompt_start: str = "{image}\n"
    chats: bool = True
    prompt_end: str = ""
    still_frames: int = 0
    several_images: bool = False
    one_image: str = ""
    pads_images: bool = False
    generated_token_type: int = 0
    pixels: str = "pixel_values"
    is_image: Callable[[Any, Inputs], Tensor] = tokens_with_image_id
    more_token_fills: Mapping[str, int] = field(default_factory=dict)
    layout: PatchLayout = ROW_BY_ROW
    square_side: Callable[[Any], int] | None = lambda _config: 1
    reads_class_token: Callable[[Any], bool] = _reads_class_token
    mixes_squares: bool = False
    pack: Pack | None = None
    pooled: Callable[[Inputs], Array] | None = None
    as_batch: Callable[[Inputs], dict[str, Any]] = lambda inputs: inputs
    # What its layers do
    later_image_features: Callable[[Any], int | Collection[int]] = lambda _config: 0
    layers_read_embeddings: Callable[[Any], bool] = lambda _config: False
    readout_scale: Callable[[Any], float] = lambda _config: 1.0
    caps_logits: bool = True
    stream_axis: int | None = None
    stacks: Mapping[str, StackSpec] = field(default_factory=dict)

    @property
    def token_fills(self) -> dict[str, int]:
        """Inputs with one entry per position, beside the ids, and what a generated token has in them."""
        known = {"attention_mask": 1, "token_type_ids": self.generated_token_type, "mm_token_type_ids": 0}
        return {**known, **self.more_token_fills}

    @property
    def named(self) -> set[str]:
        """The classes that config.json of such a model may name."""
        return {self.architecture, *self.also_named}

    def missing_packages(self, config: Any) -> list[str]:
        """Those of `packages` that are not installed."""
        return [package for package in self.packages(config) if find_spec(package) is None]

    def leaves_out(self, tensor: str) -> bool:
        """Whether a tensor of this name may be in the files, though the model has no place for it."""
        return re.search(self.unread_weights, tensor) is not None

    def interface_class(self) -> Any:
        """The subclass of `VLM` for this family."""
        return load_object(self.interface)

    def loader_class(self) -> Any:
        """The class that loads a model of this family."""
        return load_object(self.loader if ":" in self.loader else f"transformers:{self.loader}")


@dataclass(frozen=True)
class UnsupportedFamily:
    """A family that is refused by name.

    Attributes:
        model_type: the family's name in config.json
        name: the name that people use
        reason: why, as the end of a sentence that starts with the model
    """

    model_type: str
    name: str
    reason: str


def load_object(reference: str) -> Any:
    """What "module:name" refers to. Imported only now, since models need heavy libraries."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)
