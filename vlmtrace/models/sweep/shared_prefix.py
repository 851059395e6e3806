"""Attention of many states that share the keys and values before their first changed position.

The states of a sweep differ from the corrupt run from one position on. What stands before is the same for all of them,
so its keys and values are kept once: the states' queries are laid side by side and multiplied with them in one product,
instead of copying hundreds of keys for each state.

Shapes: P pairs, S states (patches) per pair, T positions, L of them run again, R of those with a query (all of them
but in the last layer), K key heads, G query heads that share a key head, E width of a head's keys, V of its values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface

from vlmtrace.models.hooks import MODEL_LOCK
from vlmtrace.models.sweep.kept_keys import Prefix

NAME = "vlmtrace_shared_prefix"

#: Attention that is not computed, since what it gives is overwritten.
NONE = "vlmtrace_no_attention"

_current: ContextVar[Prefix] = ContextVar("current prefix")


@contextlib.contextmanager
def _attention(hf: Any, name: str) -> Iterator[None]:
    # Another thread must not run the model meanwhile: its layers would take their attention from here, too.
    with MODEL_LOCK:
        config = hf.config.get_text_config()
        before = config._attn_implementation
        config._attn_implementation = name
        try:
            yield
        finally:
            config._attn_implementation = before


@contextlib.contextmanager
def shared_prefixes(hf: Any, prefix: Prefix) -> Iterator[None]:
    """While this is entered, the language model's attention sees `prefix` before its own keys and values."""
    token = _current.set(prefix)
    try:
        with _attention(hf, NAME):
            yield
    finally:
        _current.reset(token)


def no_attention(hf: Any) -> contextlib.AbstractContextManager[None]:
    """While this is entered, the language model's attention is not computed: it gives its queries."""
    return _attention(hf, NONE)


def _queries(_module: Any, query: Tensor, *_args: Any, **_options: Any) -> tuple[Tensor, None]:
    return query.transpose(1, 2), None


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
        module: the attention
        query: (P·S, K·G, R, E), of the last of the positions that are run again
        key: (P·S, K, L, E), of the positions that are run again
        value: (P·S, K, L, V), of the same
        attention_mask: (1 or P, 1, R, T), bool or added to the scores; None: everything is seen
        scaling: of the scores; None: 1/√E
        softcap: bounds the scores; None: they are not bounded
        **options: what else transformers passes on; of it `s_aux`, (K·G,), is the score of the attention sink that
            takes a share of each query's weights and gives nothing

    Returns:
        (P·S, R, K·G, V), and None where others give weights
    """
    prefix = _current.get()
    if prefix.attended is not None:
        key, value = prefix.attended.key, prefix.attended.value
    # Layers that share keys may lie on different devices.
    before_key, before_value = (part.to(query.device) for part in prefix.expanded(module, key, value))
    n_pairs, n_key_heads, _, size = before_key.shape
    _, n_heads, rows, _ = query.shape
    shared, width = n_heads // n_key_heads, before_value.shape[-1]
    # Queries that share a key head, of all states of a pair, side by side.
    grouped = query.view(n_pairs, -1, n_key_heads, shared, rows, size)  # (P, S, K, G, R, E)
    scale = size**-0.5 if scaling is None else scaling
    sinks = options.get("s_aux")
    sinks = None if sinks is None else sinks.view(n_key_heads, shared)  # (K, G)
    before = _Before(before_key, before_value, prefix.is_seen, prefix.is_causal)
    # The fused kernel's log-sum-exp, by which contexts are merged, has no gradient.
    is_fused = query.device.type == "cpu" and not torch.is_grad_enabled()
    if is_fused and prefix.is_seen and softcap is None and width == size:
        context = _merged(grouped, key, value, before, attention_mask, scale, sinks)
    else:
        context = _scored(grouped, key, value, before, attention_mask, scale, softcap, sinks)
    return context.reshape(len(query), rows, n_heads, width), None


class _Before(NamedTuple):
    """What a prefix is in the keys and values of attention; see `Prefix`."""

    key: Tensor
    value: Tensor
    is_seen: bool
    is_causal: bool


def _merged(
    grouped: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: _Before,
    mask: Tensor | None,
    scale: float,
    sinks: Tensor | None,
) -> Tensor:
    """Contexts (P, S, R, K, G, E): attention to the prefix and to the states' own keys, merged by their normalizers.

    Scores are never in memory as a whole: the processor's fused attention gives their log-sum-exp beside the context.
    """
    n_pairs, n_states, n_key_heads, shared, rows, size = grouped.shape
    before, length = prefix.key.shape[2], key.shape[2]
    query = grouped.reshape(n_pairs * n_states, n_key_heads, shared * rows, size)
    if prefix.is_causal and shared == 1 and rows == length:
        own = _fused(query, key, value, None, scale, is_causal=True)
    else:
        own = _fused(query, key, value, _own_mask(mask, before, length, n_states, shared, query.dtype), scale)
    own_context, own_normalizer = (part.unflatten(0, (n_pairs, n_states)) for part in own)  # (P, S, K, G·R, E or none)
    if before:
        folded = grouped.transpose(1, 2).reshape(n_pairs, n_key_heads, n_states * shared * rows, size)
        on_prefix = _fused(folded, prefix.key, prefix.value, None, scale)
        # (P, S, K, G·R, E or none)
        context, normalizer = (part.unflatten(2, (n_states, -1)).transpose(1, 2) for part in on_prefix)
        own_share = (own_normalizer - normalizer).sigmoid()[
            ..., None
        ]  # float32, also where contexts are in half precision
        kind = torch.promote_types(query.dtype, torch.float32)
        own_context = torch.lerp(context.to(kind), own_context.to(kind), own_share.to(kind)).to(query.dtype)
    if sinks is not None:
        if before:
            own_normalizer = torch.logaddexp(own_normalizer, normalizer)
        kept = (own_normalizer - sinks.float().repeat_interleave(rows, dim=1)).sigmoid()[..., None]
        own_context = (own_context.float() * kept).to(query.dtype)
    return own_context.unflatten(3, (shared, rows)).permute(0, 1, 4, 2, 3, 5)


def _fused(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, is_causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Contexts (N, K, Q, E) and the log-sum-exp of the scores (N, K, Q), in the type of the contexts."""
    # The public function gives no log-sum-exp.
    context, normalizer = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, attn_mask=mask, scale=scale
    )
    return context, normalizer


def _own_mask(
    mask: Tensor | None, before: int, length: int, n_states: int, shared: int, dtype: torch.dtype
) -> Tensor | None:
    """What is added to the scores of the states' own keys: (1 or P·S, 1, G·R, L)."""
    if mask is None:
        return None
    mask = mask[..., before : before + length]
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, float("-inf"))
    mask = mask.repeat(1, 1, shared, 1)
    return mask if len(mask) == 1 else mask.repeat_interleave(n_states, dim=0)


def _scored(
    grouped: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: _Before,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Contexts (P, S, R, K, G, V) by way of all scores, whatever the mask, the device and the width of values."""
    n_pairs, n_states, n_key_heads, shared, rows, size = grouped.shape
    before = prefix.key.shape[2]
    if softcap is None and grouped.dtype != torch.float32:
        # Softmax is in float32 inside whatever its type: scaled queries spare copies of all scores in float32.
        grouped, scale = grouped * scale, 1.0
    folded = grouped.transpose(1, 2).reshape(n_pairs, n_key_heads, n_states * shared * rows, size)  # (P, K, S·G·R, E)
    scores = grouped.new_empty(n_pairs, n_key_heads, n_states, shared * rows, before + key.shape[2])
    scores[..., :before] = (folded @ prefix.key.mT).view(*scores.shape[:-1], before)
    # (P, K, S, L, E or V) each
    own_key, own_value = (part.unflatten(0, (n_pairs, n_states)).transpose(1, 2) for part in (key, value))
    own_query = folded.view(n_pairs, n_key_heads, n_states, shared * rows, size)  # (P, K, S, G·R, E)
    scores[..., before:] = own_query @ own_key.mT
    from_key = before if prefix.is_seen else 0
    weights = _softmax(scores.unflatten(3, (shared, rows)), mask, scale, softcap, from_key, sinks).flatten(3, 4)
    on_prefix = weights[..., :before].reshape(*folded.shape[:3], before) @ prefix.value
    context = on_prefix.unflatten(2, (n_states, -1)) + weights[..., before:] @ own_value  # (P, K, S, G·R, V)
    return context.unflatten(3, (shared, rows)).permute(0, 2, 4, 1, 3, 5)


def _softmax(
    scores: Tensor, mask: Tensor | None, scale: float, softcap: float | None, from_key: int, sinks: Tensor | None
) -> Tensor:
    """Attention weights from scores (P, K, S, G, R, T), which are overwritten; keys before `from_key` are all seen."""
    dtype = scores.dtype
    if softcap is not None:
        scores = torch.tanh(scores.float() * (scale / softcap)) * softcap
    elif scale != 1.0:
        scores = scores.float().mul_(scale)
    if mask is not None:
        mask, masked = mask[:, :, None, None, :, from_key:], scores[..., from_key:]
        if mask.dtype == torch.bool:
            masked.masked_fill_(~mask, float("-inf"))
        else:
            masked.add_(mask)
    if sinks is None:
        return scores.softmax(-1).to(dtype)
    sink = sinks.to(scores.dtype)[None, :, None, :, None, None].expand(*scores.shape[:-1], 1)
    return torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1].to(dtype)


AttentionInterface.register(NAME, attend)
AttentionInterface.register(NONE, _queries)
