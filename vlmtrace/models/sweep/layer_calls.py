"""How a single layer is called: with which of its run's options, at which positions, for how many states.

Shapes: P pairs of equal length, S states (patches) per pair, T positions, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from vlmtrace.models.layer_kinds import IMAGE_STATES

#: Chooses positions along a dimension of a tensor.
Choose = Callable[[Tensor, int], Tensor]


def stream_of(layer: nn.Module, hidden: Tensor, **options: Any) -> Tensor:
    """A layer's output: the residual stream, which in some families comes first of several things.

    Args:
        layer: that runs
        hidden: the residual stream that enters it
        **options: what else it is called with
    """
    out = layer(hidden, **options)
    return out[0] if isinstance(out, tuple) else out


def options_at(options: dict[str, Any], length: int, choose: Choose) -> dict[str, Any]:
    """Of what a layer is called with, that which has one entry for each position, at some of them.

    Args:
        options: by name; what belongs to the image is left as it is
        length: the number of positions
        choose: gives those of some positions

    Returns:
        all options
    """
    return {name: value if name in IMAGE_STATES else _at(value, length, choose) for name, value in options.items()}


def _at(value: Any, length: int, choose: Choose) -> Any:
    if isinstance(value, tuple):
        return tuple(_at(part, length, choose) for part in value)
    if not isinstance(value, Tensor):
        return value
    if value.ndim > 1 and value.shape[1] == length:
        return choose(value, 1)
    if value.ndim == 4 and value.shape[1] == 1 and value.shape[2] == length:
        return choose(value, 2)  # a row for each query
    return value


def for_each_state(value: Tensor, n_states: int, n_pairs: int = 1) -> Tensor:
    """What is there for each pair, (P, …), for each of n states of a pair, or so that it goes with them.

    What all pairs share has one entry. Its numbers go with any number of states; what chooses among rows (the kinds of
    tokens) or numbers positions has to be there for each.
    """
    if len(value) > 1:
        return value.repeat_interleave(n_states, dim=0)
    goes_with_all = value.is_floating_point() or value.is_complex()
    return value if goes_with_all else value.repeat_interleave(n_states * n_pairs, dim=0)


def without_image(options: dict[str, Any], n: int) -> dict[str, Any]:
    """The same call, with next to nothing to attend to in the place of the image, whose keys come from elsewhere.

    Args:
        options: of a layer of cross-attention, or of any other
        n: how many rows of a batch it runs on
    """
    return {
        name: value[:1, :1].expand(n, -1, -1) if name in IMAGE_STATES and value is not None else value
        for name, value in options.items()
    }


def with_image(options: dict[str, Any], n_states: int) -> dict[str, Any]:
    """The same call, with the image of each pair for each of its n states."""
    return {
        name: value.repeat_interleave(n_states, dim=0) if name in IMAGE_STATES and value is not None else value
        for name, value in options.items()
    }


def image_rows(options: dict[str, Any]) -> int:
    """Of how many rows the image consists that a layer of cross-attention is called with; 0 for any other layer."""
    found = (options.get(name) for name in IMAGE_STATES)
    return max((states.shape[1] for states in found if states is not None), default=0)
