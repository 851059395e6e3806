"""What stands where a layer expects a cache of keys and values: it remembers them, or says which come before.

Shapes: P pairs, S states (patches) per pair, T positions, K key heads, E width of a head, M positions of an image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Recorded(Exception):
    """The forward pass of a layer got as far as its keys and values, and no more is wanted."""


class Recorder:
    """Stands where a layer expects a cache of keys and values, and remembers what it is given.

    Attributes:
        key: (P, K, T, E)
        value: (P, K, T, E)
    """

    def __init__(self, stops: bool = False, start: int = 0):
        """Remember nothing yet.

        Args:
            stops: whether the layer goes no further than its keys and values, but raises `Recorded`
            start: the position that the layer's rows start with
        """
        self.key, self.value = torch.empty(0), torch.empty(0)
        self.stops, self.start = stops, start

    def update(self, key: Tensor, value: Tensor, *_args: Any, **_options: Any) -> tuple[Tensor, Tensor]:
        """Called by the layer with its keys and values; it goes on with what is returned."""
        self.key, self.value = key, value
        if self.stops:
            raise Recorded
        return key, value

    def get_seq_length(self, *_args: Any) -> int:
        """How many positions come before those of the layer's rows; some layers scale their queries by it."""
        return self.start

    @property
    def nbytes(self) -> int:
        """Bytes of what is remembered."""
        return self.key.nbytes + self.value.nbytes


class Prefix:
    """Stands where a layer expects a cache: what was recorded before a position, for all states of a pair.

    Attributes:
        key: (P, K, first, E); with latent attention, what keys and values are made of
        value: (P, K, first, E)
        is_seen: whether every query sees all of it, with nothing added to the scores
        is_causal: whether each query sees the states' own keys up to its own position, and no further
    """

    def __init__(
        self,
        recorded: Recorder,
        first: int,
        is_seen: bool = False,
        is_causal: bool = False,
        own: Recorder | None = None,
        start: int | None = None,
        attended: Recorder | None = None,
    ):
        """Keep what was recorded before position `first`.

        Args:
            recorded: keys and values of the corrupt run
            first: the position that the states start with
            is_seen: whether every query is known to see all positions before `first`
            is_causal: whether every query is known to see those from `first` to its own, and no further
            own: the states' own keys and values, where the layer runs on their last positions only
            start: the position that the layer's rows start with; None: `first`
            attended: as `own`, but what heads attend to, behind all that the layer makes of its keys and values
        """
        self.key, self.value = recorded.key[:, :, :first], recorded.value[:, :, :first]
        self.is_seen, self.is_causal, self.own, self.attended = is_seen, is_causal, own, attended
        self.start = first if start is None else start

    @classmethod
    def of_image(cls, recorded: Recorder, n_states: int) -> Prefix:
        """The keys and values of an image, which are all that a layer of cross-attention attends to.

        Args:
            recorded: what such a layer recorded, (P, K, M, E) of M positions of the image
            n_states: how many states per pair
        """
        own, n = Recorder(), len(recorded.key) * n_states
        own.key, own.value = _no_positions(recorded.key, n), _no_positions(recorded.value, n)
        return cls(recorded, recorded.key.shape[2], own=own)

    def expanded(self, module: Any, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values before the states' own `key` and `value`: (P, K, first, E) each."""
        # Multi-head latent attention caches what keys and values are made of.
        expand = getattr(module, "expand_kv", None)
        if expand is None:
            return self.key, self.value
        if not self.key.shape[2]:
            return _no_positions(key, len(self.key)), _no_positions(value, len(self.key))
        return expand(self.key, self.value)

    def get_seq_length(self, *_args: Any) -> int:
        """How many positions come before those of the layer's rows; some layers scale their queries by it."""
        return self.start

    def update(self, key: Tensor, value: Tensor, *_args: Any, **_options: Any) -> tuple[Tensor, Tensor]:
        """Called by the layer with the states' own keys and values; it goes on with what is returned."""
        # `attend` puts the prefix before them.
        return (key, value) if self.own is None else (self.own.key, self.own.value)


def _no_positions(part: Tensor, n: int) -> Tensor:
    """Keys or values (…, K, T, E) of no positions at all: (n, K, 0, E)."""
    return part.new_empty(n, part.shape[1], 0, part.shape[-1])
