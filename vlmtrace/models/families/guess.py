"""Parts of a model that no family describes, guessed from how transformers' classes name theirs.

A guess is never trusted: when such a model loads, it is said what was guessed, and patches are compared with hooked
forward passes. Its vision encoder is not offered for patching, since the order of its positions cannot be told from
names (some encoders go through the image window by window), and image tokens get no place in the image.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import UnknownLayout

#: Names of the final norm in a stack of text layers.
NORMS = ("norm", "final_layernorm", "final_layer_norm", "embedding_norm", "layer_norm", "norm_f", "ln_f")

#: Names of the output projection of attention, or of what stands in its place, in a text layer.
PROJECTIONS = (
    "self_attn.o_proj",
    "self_attn.out_proj",
    "self_attn.dense",
    "self_attn.wo",
    "attention.o_proj",
    "attention.out_proj",
    "attention.wo",
    "attention.output.dense",
    "attn.o_proj",
    "attn.out_proj",
    "linear_attn.out_proj",
    "conv.out_proj",
    "cross_attn.o_proj",
    "mixer.o_proj",
    "mixer.out_proj",
)

#: Names of the feed-forward in a text layer.
FEED_FORWARDS = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "fc2")

#: Names of what is a layer's only part, where each layer is attention, a state or a feed-forward alone.
ONLY_PARTS = ("mixer",)

#: Names under which a stack of layers lies within what `get_decoder` gives.
INNER = ("model", "decoder", "language_model", "text_model", "encoder")


#: Models of more layers are not built to look at their names: no text stack is known to have as many.
MOST_LAYERS = 1000


class CannotGuess(VlmtraceError):
    """A part of a model has none of the names under which it is looked for."""


def guess(config: Any) -> FamilySpec | None:
    """What a model's family would be, were it known.

    Args:
        config: the model's transformers configuration

    Returns:
        the spec; None where transformers has no class for it that answers about images

    Raises:
        CannotGuess: a part was not found; the end of a sentence that starts with the model
    """
    from transformers import AutoModelForImageTextToText  # slow to import

    if type(config) not in AutoModelForImageTextToText._model_mapping:
        return None
    text = config.get_text_config()
    if getattr(config, "is_encoder_decoder", False) or getattr(text, "is_encoder_decoder", False):
        raise CannotGuess("whose language model has an encoder of its own")
    if getattr(text, "num_hidden_layers", 0) > MOST_LAYERS:
        raise CannotGuess(f"whose {text.num_hidden_layers} layers are more than it looks through")
    try:
        with torch.device("meta"):
            hf = AutoModelForImageTextToText.from_config(copy.deepcopy(config))
    except Exception as error:  # whatever a class raises over its configuration
        raise CannotGuess(f"which transformers cannot build ({type(error).__name__})") from error
    names = {id(module): name for name, module in hf.named_modules()}
    stack = _stack(hf)
    only = _only_part(stack.layers)
    mixing = [layer for layer in stack.layers if not only or _first_in(layer, PROJECTIONS)]
    vision = hf.get_encoder(modality="image")
    return FamilySpec(
        config.model_type,
        type(hf).__name__,
        type(hf).__name__,
        image_tokens="unknown",
        handled="parts are guessed, and said when a model loads",
        interface="vlmtrace.models.guessed:GuessedDecoder",
        text=names[id(stack)],
        vision=names.get(id(vision), "") if vision is not hf else "",
        # A model without one of these names is patched all the same: only words cannot be read off its layers.
        norm=next((name for name in NORMS if hasattr(stack, name)), ""),
        attention_output=_in_all(mixing, PROJECTIONS, "output projection of attention"),
        mlp=only or _the_same_in_all(stack.layers, FEED_FORWARDS, "feed-forward"),
        one_part_per_layer=bool(only),
        vision_types=(),
        one_image="its parts are guessed, and two images were never tried",
        layout=UnknownLayout(),
        square_side=None,
    )


def _stack(hf: Any) -> Any:
    """The stack of text layers."""
    found = hf.get_decoder()
    for _ in INNER:
        if isinstance(getattr(found, "layers", None), nn.ModuleList):
            return found
        found = next(
            (getattr(found, name) for name in INNER if isinstance(getattr(found, name, None), nn.Module)), None
        )
    raise CannotGuess("whose text layers it cannot find")


def _only_part(layers: Any) -> str:
    """The name of the only part of each layer, where some of these parts mix positions and others do not; else ""."""
    name = next((name for name in ONLY_PARTS if all(hasattr(layer, name) for layer in layers)), "")
    mixes = {_first_in(layer, PROJECTIONS) is not None for layer in layers}
    feeds = any(_first_in(layer, FEED_FORWARDS) for layer in layers)
    return name if mixes == {True, False} and not feeds else ""


def _first_in(layer: Any, paths: tuple[str, ...]) -> str | None:
    """The first of several paths that a layer has; None: it has none of them."""
    known = {name for name, _ in layer.named_modules()}
    return next((path for path in paths if path in known), None)


def _the_same_in_all(layers: Any, paths: tuple[str, ...], what: str) -> str:
    """Of several paths the one that all layers have."""
    found = _in_all(layers, paths, what)
    if len(found) > 1:
        raise CannotGuess(f"whose text layers have several kinds of {what}")
    return found[0]


def _in_all(layers: Any, paths: tuple[str, ...], what: str) -> tuple[str, ...]:
    """Of several paths those that layers have: of each layer the first."""
    found: dict[str, None] = {}
    for layer in layers:
        path = _first_in(layer, paths)
        if path is None:
            raise CannotGuess(f"in whose text layers it cannot find the {what}")
        found[path] = None
    return tuple(found)
