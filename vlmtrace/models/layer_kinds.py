"""How a text layer gets to know what stands elsewhere: by attention, from the image alone, or by a state it carries on.

Most layers of most models have attention. Some models mix them with layers that carry a state from position to position
(linear attention, state space models, short convolutions), with layers that look at the image alone, by
cross-attention, or with layers that are nothing but a feed-forward.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from torch import nn

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.types import Block

#: A layer that attends to the positions of its own sequence.
ATTENTION = "attention"

#: A layer that attends to the image, and to no other position of its own sequence.
CROSS_ATTENTION = "cross_attention"

#: A layer that carries a state from each position to the next, and has no attention weights.
STATE = "state"

#: A layer that is a feed-forward alone: no position gets to know of another.
NO_ATTENTION = "none"

#: Layers that make no keys and values.
WITHOUT_KEYS = (STATE, NO_ATTENTION)

#: What configurations call layers that attend to the positions of their own sequence, all of them or the last ones.
PLAIN_TYPES = ("full_attention", "sliding_attention", "chunked_attention")

#: What configurations call layers that carry a state.
STATE_TYPES = ("linear_attention", "conv", "mamba", "recurrent")

#: What text layers call a module that carries a state.
STATEFUL = ("linear_attn", "conv")

#: What state space models call the cache that holds their state.
STATE_CACHE = "cache_params"

#: Where layers pass keys and values on to those above them, by the kind of their attention.
SHARED_KEYS = "shared_kv_states"

#: What can be done where no layer attends to single positions.
INSTEAD = "patch its modules or heads instead (patch_modules, patch_heads)"

#: What a layer is given of the input's embeddings beside the residual stream, a row for each position.
OWN_EMBEDDINGS = "per_layer_input"

#: What a layer that looks at the image is called with: in Mllama, and in IDEFICS.
IMAGE_STATES = ("cross_attention_states", "image_hidden_states")


def attention_path(layer: nn.Module, paths: str | tuple[str, ...]) -> str:
    """Of the paths of an output projection that a family's layers may have, the one that a layer has.

    Args:
        layer: a text layer
        paths: as `FamilySpec.attention_output`

    Returns:
        a path in the layer

    Raises:
        VlmtraceError: the layer has none of them
    """
    alternatives = (paths,) if isinstance(paths, str) else paths
    for path in alternatives:
        try:
            layer.get_submodule(path)
        except AttributeError:
            continue
        return path
    raise VlmtraceError(
        f"A text layer ({type(layer).__name__}) has no {' and no '.join(alternatives)}: name the output projection of "
        "its attention in the family's attention_output."
    )


def has_attention(layer: nn.Module, paths: str | tuple[str, ...]) -> bool:
    """Whether a layer has one of the output projections that a family's layers may have.

    Args:
        layer: a text layer
        paths: as `FamilySpec.attention_output`
    """
    known = {name for name, _ in layer.named_modules()}
    return not known.isdisjoint((paths,) if isinstance(paths, str) else paths)


def kind_of(layer: nn.Module, path: str) -> str:
    """How a layer gets to know what stands elsewhere.

    Args:
        layer: a text layer
        path: of its output projection, from `attention_path`

    Returns:
        `ATTENTION`, `CROSS_ATTENTION` or `STATE`
    """
    name = path.partition(".")[0]
    attention = layer.get_submodule(name)
    if name in STATEFUL or STATE_CACHE in _parameters(type(attention)):
        return STATE
    looks = _caches_image(attention) or getattr(attention, "is_cross_attention", False)
    return CROSS_ATTENTION if looks else ATTENTION


def records_keys(attention: nn.Module | None, kind: str) -> bool:
    """Whether a text layer hands a cache the keys and values that it attends to.

    Args:
        attention: of the layer, or what stands in its place; None: nothing does
        kind: of the layer

    Returns:
        False where it carries a state or is a feed-forward alone, and where it makes keys of the image anew in each run
    """
    return kind == ATTENTION or (kind == CROSS_ATTENTION and attention is not None and _caches_image(attention))


def _caches_image(attention: nn.Module) -> bool:
    return IMAGE_STATES[0] in _parameters(type(attention))


def stated_heads(text: Any) -> int:
    """How many heads a configuration gives every text layer; the largest number, where it gives each layer its own."""
    try:
        return text.num_attention_heads
    except RuntimeError:  # transformers refuses to name one number for layers that differ
        return max(text.per_layer_config[layer].num_attention_heads for layer in range(text.num_hidden_layers))


def heads_of(layer: nn.Module, path: str, otherwise: int) -> int:
    """Of how many heads' outputs a layer's output projection reads the concatenation.

    Args:
        layer: a text layer
        path: of its output projection, from `attention_path`
        otherwise: what the configuration says, for layers that do not tell

    Returns:
        the number of heads; 1 where nothing in the layer is divided into heads (short convolutions)
    """
    attention = layer.get_submodule(path.partition(".")[0])
    if kind_of(layer, path) == STATE:
        return int(getattr(attention, "num_v_heads", getattr(attention, "num_heads", 1)))
    width = getattr(layer.get_submodule(path), "in_features", None)
    size = getattr(attention, "v_head_dim", None) or getattr(attention, "head_dim", None)
    if not width or not size or width % size:
        return otherwise
    return int(width // size)


def kinds_in(config: Any, n_layers: int) -> tuple[str, ...]:
    """What a text configuration says of how its layers get to know what stands elsewhere.

    Args:
        config: a transformers configuration of a text stack
        n_layers: how many it has

    Returns:
        of each layer `ATTENTION`, `STATE`, or what the configuration calls it where it is neither; empty where it says
        nothing
    """
    types = list(getattr(config, "layer_types", None) or [])
    if len(types) != n_layers:
        return ()
    known = dict.fromkeys(PLAIN_TYPES, ATTENTION) | dict.fromkeys(STATE_TYPES, STATE)
    return tuple(known.get(kind, kind) for kind in types)


def language_block(
    layers: Iterable[nn.Module], paths: str | tuple[str, ...], n_heads: int, one_part: bool = False
) -> Block:
    """The block of a stack of text layers, of which each tells its own heads.

    Args:
        layers: of the language model
        paths: as `FamilySpec.attention_output`
        n_heads: what the configuration says of all of them
        one_part: as `FamilySpec.one_part_per_layer`

    Returns:
        the block; attention weights are offered where every layer has some, of as many heads
    """
    layers, attention = list(layers), ("self_attention",)
    found = [None if one_part and not has_attention(layer, paths) else attention_path(layer, paths) for layer in layers]
    by_layer = list(zip(layers, found, strict=True))
    heads = tuple(0 if path is None else heads_of(layer, path, n_heads) for layer, path in by_layer)
    kinds = tuple(NO_ATTENTION if path is None else kind_of(layer, path) for layer, path in by_layer)
    return Block(
        "language_model",
        len(layers),
        max(heads, default=n_heads),
        ("residual", "mlp", *attention),
        head_modules=attention,
        attention_modules=attention if set(kinds) <= {ATTENTION} and len(set(heads)) == 1 else (),
        heads=heads if len(set(heads)) > 1 else (),
        kinds=kinds if set(kinds) - {ATTENTION} else (),
        lacking=tuple(attention if path is None else ("mlp",) for path in found) if one_part else (),
    )


def key_sources(attentions: Iterable[nn.Module | None]) -> list[int | None]:
    """By layer, the lower one whose keys and values its attention reads; None: its own.

    Args:
        attentions: the attention of each layer, from the lowest on; None where a layer has none

    Raises:
        VlmtraceError: no lower layer passes on what an attention reads
    """
    found: list[int | None] = []
    passing: dict[str, int] = {}
    for layer, attention in enumerate(attentions):
        kind = str(getattr(attention, "layer_type", ""))
        reads = bool(getattr(attention, "is_kv_shared_layer", False))
        if reads and kind not in passing:
            raise VlmtraceError(f"Layer {layer} reads keys and values that no lower layer passes on.")
        found.append(passing[kind] if reads else None)
        if getattr(attention, "store_full_length_kv", False):
            passing[kind] = layer
    return found


def attending_layers(block: Block) -> list[int]:
    """The layers with attention to the positions of their own sequence: those in which positions can be hidden.

    Args:
        block: of the layers

    Returns:
        their numbers, ascending

    Example:
        >>> from vlmtrace.models import Block
        >>> mixed = Block("language_model", 3, 8, ("self_attention",), kinds=("state", "attention", "state"))
        >>> attending_layers(mixed)
        [1]
    """
    return [layer for layer in range(block.n_layers) if block.kind_at(layer) == ATTENTION]


def check_some_attend(name: str, block: Block) -> list[int]:
    """The layers in which positions can be hidden from others.

    Args:
        name: the model's, for the sentence
        block: whose layers

    Returns:
        those of `attending_layers`, one at least

    Raises:
        VlmtraceError: there are none
    """
    found = attending_layers(block)
    if not found:
        kinds = ", ".join(sorted(set(block.kinds)))
        raise VlmtraceError(
            f"No layer of {block.name} of {name} is known to attend to single positions of its sequence (they are of "
            f"the kinds {kinds}), so that attention cannot be knocked out: {INSTEAD}."
        )
    return found


def check_can_be_hidden(name: str, block: Block, layers: Iterable[int]) -> list[int]:
    """The layers in which positions can be hidden from others, of those in which they are to be.

    A layer that looks at the image alone, or is nothing but a feed-forward, lets no position see another, so that there
    is nothing to hide in it.

    Args:
        name: the model's, for the sentence
        block: of the layers
        layers: in which they are to be hidden

    Returns:
        those with attention to the positions of their own sequence

    Raises:
        VlmtraceError: a layer carries a state, of which no single position can be taken away, or is of a kind of which
            that is not known
    """
    layers = list(layers)
    kept = ", ".join(map(str, attending_layers(block)))
    instead = f"choose layers with attention ({kept})" if kept else INSTEAD
    for layer in layers:
        if block.kind_at(layer) == STATE:
            raise VlmtraceError(
                f"Layer {layer} of {name} carries a state from position to position instead of attention weights, so "
                f"no position can be hidden from another in it: {instead}."
            )
        if block.kind_at(layer) not in (ATTENTION, CROSS_ATTENTION, NO_ATTENTION):
            raise VlmtraceError(
                f"Layer {layer} of {name} is of a kind ({block.kind_at(layer)}) of which it is not known that a "
                f"position can be hidden from another in it: {instead}."
            )
    return [layer for layer in layers if block.kind_at(layer) == ATTENTION]


def check_has_weights(name: str, block: Block) -> None:
    """Check that a block gives attention weights.

    Args:
        name: the model's, for the sentence
        block: the block

    Raises:
        VlmtraceError: its layers have none, or not all of them have some
    """
    if block.attention_modules:
        return
    why = "its attention keeps them to itself in every implementation"
    if block.kinds:
        why = "some of its layers carry a state, look at the image alone, or do more than attend"
    elif block.heads:
        why = "some of its layers have fewer heads than others"
    if block.head_modules:
        instead = "patch its heads instead (patch_heads)"
    elif block.hooked_modules:
        instead = "patch its heads instead (patch_whole_heads)"
    else:
        instead = "patch its residual stream instead (patch_modules)"
    raise VlmtraceError(f"{block.name} of {name} gives no attention weights, since {why}: {instead}.")


def by_name(module: nn.Module, args: tuple, options: dict[str, Any]) -> dict[str, Any]:
    """What a layer is called with beside its first argument, by name, however the caller has passed it.

    Args:
        module: the layer
        args: positional arguments, the residual stream first
        options: keyword arguments

    Returns:
        all but the residual stream

    Raises:
        VlmtraceError: an argument has no name
    """
    if len(args) < 2:
        return options
    names = _parameters(type(module))[1:]
    if len(args) - 1 > len(names):
        raise VlmtraceError(
            f"A text layer ({type(module).__name__}) is called with arguments that have no name: the model is not "
            "supported."
        )
    return {**dict(zip(names, args[1:], strict=False)), **options}


def _parameters(kind: type) -> tuple[str, ...]:
    """The names of what a module's forward pass takes, without `self`."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = inspect.signature(kind.forward).parameters.items()  # type: ignore[attr-defined]
    return tuple(name for name, parameter in found if parameter.kind in positional)[1:]
