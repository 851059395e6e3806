"""Attention of many states that share the keys and values before their first changed position.

The states of a sweep differ from the corrupt run from one position on. What stands before is the same for all of them,
so its keys and values are kept once: the states' queries are laid side by side and multiplied with them in one product,
instead of copying hundreds of keys for each state.

Shapes: P pairs, S states (patches) per pair, T positions, L of them run again, K key heads, G query heads that share a
key head, E width of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from vlmtrace.core.errors import VlmtraceError

NAME = "vlmtrace_shared_prefix"

_current: ContextVar[Prefix] = ContextVar("current prefix")


class Recorder:
    """Stands where a layer expects a cache of keys and values, and remembers what it is given.

    Attributes:
        key: (P, K, T, E)
        value: (P, K, T, E)
    """

    def __init__(self) -> None:
        """Remember nothing yet."""
        self.key, self.value = torch.empty(0), torch.empty(0)

    def update(self, key: Tensor, value: Tensor, *_args: Any, **_options: Any) -> tuple[Tensor, Tensor]:
        """Called by the layer with its keys and values; it goes on with what is returned."""
        self.key, self.value = key, value
        return key, value


class Prefix:
    """Stands where a layer expects a cache: what was recorded before a position, for all states of a pair.

    Attributes:
        key: (P, K, first, E)
        value: (P, K, first, E)
    """

    def __init__(self, recorded: Recorder, first: int):
        """Keep what was recorded before position `first`."""
        self.key, self.value = recorded.key[:, :, :first], recorded.value[:, :, :first]

    def update(self, key: Tensor, value: Tensor, *_args: Any, **_options: Any) -> tuple[Tensor, Tensor]:
        """Called by the layer with the states' own keys and values; it goes on with what is returned."""
        return key, value  # `attend` puts the prefix before them


@contextlib.contextmanager
def shared_prefixes(hf: Any, prefix: Prefix) -> Iterator[None]:
    """While this is entered, the language model's attention sees `prefix` before its own keys and values."""
    config = hf.config.get_text_config()
    before = config._attn_implementation
    token = _current.set(prefix)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _current.reset(token)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention over the current prefix and each state's own keys, in the form transformers calls it.

    Args:
        module: the attention, which this does not need
        query: (P·S, K·G, L, E)
        key: (P·S, K, L, E), of the positions that are run again
        value: (P·S, K, L, E), of the same
        attention_mask: (1 or P, 1, L, T), bool or added to the scores; None: everything is seen
        scaling: of the scores; None: 1/√E
        softcap: bounds the scores; None: they are not bounded
        **options: what else transformers passes on

    Returns:
        (P·S, L, K·G, E), and None where others give weights

    Raises:
        VlmtraceError: the model asks for something that this attention does not know
    """
    if options.get("s_aux") is not None:
        raise VlmtraceError("The fast sweep does not know attention sinks: this model is not supported.")
    prefix = _current.get()
    n_pairs, n_key_heads, before, size = prefix.key.shape
    _, n_heads, length, _ = query.shape
    # Queries that share a key head, of all states of a pair, side by side.
    grouped = query.view(n_pairs, -1, n_key_heads, n_heads // n_key_heads, length, size)  # (P, S, K, G, L, E)
    n_states, shared = grouped.shape[1], n_heads // n_key_heads
    folded = grouped.transpose(1, 2).reshape(n_pairs, n_key_heads, n_states * shared * length, size)  # (P, K, S·G·L, E)
    scores = query.new_empty(n_pairs, n_key_heads, n_states, shared * length, before + length)  # (P, K, S, G·L, T)
    scores[..., :before] = (folded @ prefix.key.mT).view(n_pairs, n_key_heads, n_states, shared * length, before)
    # (P, K, S, L, E) each
    own_key, own_value = (part.unflatten(0, (n_pairs, n_states)).transpose(1, 2) for part in (key, value))
    own_query = folded.view(n_pairs, n_key_heads, n_states, shared * length, size)  # (P, K, S, G·L, E)
    scores[..., before:] = own_query @ own_key.mT
    weights = _softmax(
        scores.unflatten(3, (shared, length)), attention_mask, size**-0.5 if scaling is None else scaling, softcap
    ).flatten(3, 4)
    on_prefix = weights[..., :before].reshape(*folded.shape[:3], before) @ prefix.value
    context = on_prefix.view(own_query.shape) + weights[..., before:] @ own_value  # (P, K, S, G·L, E)
    context = context.unflatten(3, (shared, length)).permute(0, 2, 4, 1, 3, 5)  # (P, S, L, K, G, E)
    return context.reshape(len(query), length, n_heads, size), None


def _softmax(scores: Tensor, mask: Tensor | None, scaling: float, softcap: float | None) -> Tensor:
    """Attention weights, in float32 inside, from scores (P, K, S, G, L, T)."""
    dtype = scores.dtype
    scores = scores.float().mul_(scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        mask = mask[:, :, None, None]
        scores = scores.masked_fill_(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1).to(dtype)


AttentionInterface.register(NAME, attend)
