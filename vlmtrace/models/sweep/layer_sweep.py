"""What the fast sweeps of all families are made of: one pass through the layers, and attention on shared keys.

Shapes: P pairs, S states (patches) per pair, F of them fresh (patched in the layer below), N states laid in one
dimension, T positions, D width, H heads, E width of a head, M positions attended to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmtrace.models.hooks import HookPoint
from vlmtrace.models.products import linear, product, takes_onednn
from vlmtrace.models.types import Patches, Site, Trace
from vlmtrace.models.vlm import VLM

#: Heads of fewer columns than this are too narrow for products of their own.
WIDE_HEAD = 32

#: What enters a layer: states of which any row may differ from the corrupt run, fresh states of which one row does,
#: and which row that is. Either kind may be missing.
Advance = Callable[[int, Tensor | None, Tensor | None, Tensor], Tensor]


def sweep_layers(n_layers: int, patches: Patches, enter: Callable[[int, Patches], Tensor], advance: Advance) -> Tensor:
    """Go through the layers once, upward, with a growing batch of states.

    Args:
        n_layers: of the block
        patches: sorted by layer
        enter: layer and its patches -> the patched layer outputs (P, S, …)
        advance: layer, changed states (P, S, …), fresh states (P, F, …), rows (P, F) -> layer outputs (P, S + F, …)

    Returns:
        the last layer's outputs (P, S, …), in the order of `patches`
    """
    changed: Tensor | None = None
    fresh: Tensor | None = None
    rows = patches.positions[:, :0]
    for layer in range(patches.layers[0], n_layers):
        if changed is not None or fresh is not None:
            changed = advance(layer, changed, fresh, rows)
        chosen = [i for i, at in enumerate(patches.layers) if at == layer]
        entering = patches.subset(chosen)
        fresh, rows = enter(layer, entering) if chosen else None, entering.positions
    return concat_states(changed, fresh)


def restore_window_hooks(
    model: VLM, clean: Trace, patches: Patches, layer: int, n_states: int, first: int = 0
) -> list[tuple[HookPoint, Callable[[Tensor], Tensor]]]:
    """For `attach_hooks` around a layer: its modules are clean where the window of a patch made below it reaches it.

    Args:
        model: any
        clean: trace of the clean runs
        patches: sorted by layer
        layer: the layer that is to run
        n_states: it runs on the states of the first so many patches
        first: the position that a state's rows start with

    Returns:
        hook points of the layer, each with the function that restores the clean activation
    """
    if patches.windows is None:
        return []
    block = model.blocks[patches.block]
    reaching: dict[str, list[int]] = {}
    for i in range(n_states):
        if layer in patches.window(i) and layer > patches.layers[i] and block.has(patches.modules[i], layer):
            reaching.setdefault(patches.modules[i], []).append(i)

    def restore(chosen: list[int], module: str) -> Callable[[Tensor], Tensor]:
        rows = gather_rows(clean[patches.block, module, layer], patches.positions[:, chosen])  # (P, chosen, D)
        positions = patches.positions[:, chosen].to(rows.device)
        pairs = torch.arange(len(positions), device=rows.device)[:, None]

        def hook(value: Tensor) -> Tensor:
            states = value.reshape(len(positions), n_states, -1, value.shape[-1]).clone()  # (P, S, T, D)
            states[pairs, torch.tensor(chosen, device=rows.device), positions - first] = rows
            return states.reshape(value.shape)

        return hook

    return [
        (model.hook_point(Site(patches.block, module, layer)), restore(chosen, module))
        for module, chosen in reaching.items()
    ]


def concat_states(changed: Tensor | None, fresh: Tensor | None) -> Tensor:
    """Changed states (P, S, …) and fresh states (P, F, …) as one, in this order: (P, S + F, …)."""
    return torch.cat([part for part in (changed, fresh) if part is not None], dim=1)


def row_index(positions: Tensor, width: int) -> Tensor:
    """Positions (P, S) as the index (P, S, 1, D) of one row of each of states (P, S, T, D)."""
    return positions[:, :, None, None].expand(-1, -1, 1, width)


def take_row(states: Tensor, positions: Tensor) -> Tensor:
    """One row of each state: (P, S, T, D) -> (P, S, 1, D)."""
    return states.gather(2, row_index(positions.to(states.device), states.shape[-1]))


def repeat_with_row(stream: Tensor, positions: Tensor, rows: Tensor) -> Tensor:
    """A stream (P, T, D) once for each patch, with one row (P, S, 1, D) replaced: (P, S, T, D)."""
    states = stream.unsqueeze(1).repeat(1, positions.shape[1], 1, 1)
    return states.scatter_(2, row_index(positions.to(stream.device), stream.shape[-1]), rows)


def gather_rows(stream: Tensor, positions: Tensor) -> Tensor:
    """Rows of a stream that all states share: (P, T, D), (P, S) -> (P, S, D)."""
    return stream.gather(1, positions.to(stream.device)[:, :, None].expand(-1, -1, stream.shape[-1]))


def with_heads(heads: list[int | None], n_heads: int, new: Tensor, old: Tensor) -> Tensor:
    """Rows (P, S, D): `new` in the slice of each patch's head (None: everywhere), `old` elsewhere."""
    if all(head is None for head in heads):
        return new
    return torch.where(head_columns(heads, n_heads, new.shape[-1], new.device), new, old)


def head_columns(heads: list[int | None], n_heads: int, width: int, device: torch.device) -> Tensor:
    """(S, width) bool: which columns of the heads' concatenated outputs each patch sets: its head's; None: all."""
    owner = torch.arange(width, device=device) // (width // n_heads)
    own = owner == torch.tensor([-1 if head is None else head for head in heads], device=device)[:, None]
    return own | torch.tensor([head is None for head in heads], device=device)[:, None]


def split_heads(stream: Tensor, heads: int) -> Tensor:
    """(N, T, D) -> (N, H, T, E)."""
    return stream.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """Softmax attention without a mask: heads (N, H, T, E) -> contexts (N, T, D)."""
    return F.scaled_dot_product_attention(query, key, value, scale=scale).transpose(1, 2).flatten(2)


def attend_shared(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As `attend`, where many queries share few keys and oneDNN computes: its products outrun the fused kernel.

    Args:
        query: (P, H, N, E)
        key: (P, H, M, E)
        value: (P, H, M, E)

    Returns:
        contexts (P, N, D)
    """
    pairs, heads, n, size = query.shape
    if size < WIDE_HEAD or n < key.shape[2] or not takes_onednn(query):
        return attend(query, key, value)
    contexts = query.new_empty(pairs, n, heads, size)
    key, value = (key / size**0.5).contiguous(), value.transpose(2, 3).contiguous()  # (P, H, M, E), (P, H, E, M)
    for pair in range(pairs):
        for head in range(heads):
            weights = product(query[pair, head], key[pair, head]).softmax(-1)  # (N, M)
            contexts[pair, :, head] = product(weights, value[pair, head])
    return contexts.flatten(2)


def attend_unprojected(attention: Any, rows: Tensor, memory: Tensor, heads: int) -> Tensor:
    """Cross-attention without projecting what is attended to: contexts (N, T, D).

    The key projection is moved to the query's side, q·(W h) = (W^T q)·h, and the value projection behind the average,
    Σ p (W h) = W (Σ p h); the key bias adds the same to all scores of a query and drops out of the softmax. Worth it
    where T·H is less than D: then fewer rows are projected than there are in memory.

    Args:
        attention: a module with linear `query`, `key`, `value`
        rows: (N, T, D), or (1, T, D) where all share them
        memory: (N, M, D), what is attended to
        heads: how many
    """
    n, _, width = memory.shape
    size = attention.query.out_features // heads
    query = linear(attention.query, rows).unflatten(-1, (heads, size))  # (N or 1, T, H, E)
    key_weight = attention.key.weight.view(heads, size, width)  # (H, E, D)
    value_weight = attention.value.weight.view(heads, size, width)
    query = torch.einsum("nthe,hed->nthd", query, key_weight).flatten(1, 2) / size**0.5  # (…, T·H, D)
    scores = query.expand(n, -1, -1) @ memory.transpose(1, 2)  # (N, T·H, M)
    average = scores.float().softmax(-1).to(scores.dtype) @ memory  # (N, T·H, D)
    contexts = torch.einsum("nthd,hed->nthe", average.unflatten(1, (-1, heads)), value_weight)
    return contexts.flatten(2) + attention.value.bias
