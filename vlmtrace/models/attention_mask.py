"""Attention masks in which some queries do not see some keys."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmtrace.models.hooks import MODEL_LOCK, attach_hooks
from vlmtrace.models.layer_kinds import by_name, check_can_be_hidden
from vlmtrace.models.types import Site
from vlmtrace.models.vlm import VLM


@contextlib.contextmanager
def cut(model: VLM, module: str, layers: Sequence[int], blocked: Tensor, block: str | None = None) -> Iterator[None]:
    """Knock out attention: while this is entered, some queries of a block's module do not see some keys.

    A position that may see nothing at all gets nothing: its heads' outputs are 0. A softmax over equally forbidden keys
    would give it their average instead.

    Args:
        model: any
        module: "self_attention" or "cross_attention"
        layers: in which attention is cut
        blocked: (pair, query, key) bool
        block: whose module; None: the head block's

    Yields:
        nothing; the model runs inside

    Raises:
        VlmtraceError: a layer has a state instead of attention weights
    """
    own = model.head_block if block is None else model.blocks[block]
    name = model.mask_argument(module)
    blind = blocked.all(-1)[..., None]
    alone = module == "self_attention"

    def hook(attention: Any, args: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        options, args = by_name(attention, args, options), args[:1]  # its mask may have come without its name
        hidden = args[0] if args else options["hidden_states"]
        longer = hidden.shape[1] - blocked.shape[1]
        # A run whose sequence goes on with an answer: its tokens see and are seen as ever.
        here = F.pad(blocked, (0, longer * alone, 0, longer)) if longer > 0 else blocked
        here = here.to(hidden.device)
        return args, {**options, name: with_blocked(options.get(name), here, attention, model.dtype)}

    def give_nothing(value: Tensor) -> Tensor:
        unseeing = F.pad(blind, (0, 0, 0, max(0, value.shape[1] - blind.shape[1])))
        return value.masked_fill(unseeing.to(value.device), 0)

    sites = [Site(own.name, module, layer) for layer in check_can_be_hidden(model.name, own, layers)]
    with MODEL_LOCK, contextlib.ExitStack() as stack:
        for site in sites:
            handle = model.attention_module(site).register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        points = [model.hook_point(site) for site in sites]
        stack.enter_context(attach_hooks([(point, give_nothing) for point in points]))
        yield


def with_blocked(mask: Tensor | None, blocked: Tensor, attention: Any, dtype: torch.dtype) -> Tensor:
    """An attention mask (pair, 1, query, key), added to the scores, that also forbids what is blocked."""
    low = torch.finfo(dtype).min
    if mask is None and getattr(attention, "is_causal", False) and blocked.shape[1] == blocked.shape[2]:
        # Without a mask a causal layer is causal by itself; with one it does what the mask says.
        mask = torch.ones_like(blocked[:1], dtype=torch.bool).tril()[:, None]
    if mask is None:
        mask = torch.zeros(1, dtype=dtype, device=blocked.device)
    elif mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, low)
    return mask.expand(len(blocked), 1, *blocked.shape[1:]).masked_fill(blocked[:, None], low)
