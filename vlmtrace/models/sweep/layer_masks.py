"""What each position sees in each layer of a language model.

Shapes: P pairs of equal length, T positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlmtrace.models.layer_kinds import ATTENTION
from vlmtrace.models.types import Call, Site
from vlmtrace.models.vlm import VLM

BLOCK = "language_model"


def masks_of(model: VLM, calls: list[Call]) -> list[Tensor | None]:
    """Each layer's mask, spelled out; masks that are the same are the same tensor.

    Layers without attention to their own sequence let nothing reach an earlier position: they are taken for causal.

    Args:
        model: with visual tokens
        calls: what each layer was called with

    Returns:
        by layer (1 or P, 1, T, T), bool or added to the scores; None: every position sees everything
    """
    causal: dict[tuple[int, torch.device], Tensor] = {}
    masks: list[Tensor | None] = []
    for layer, call in enumerate(calls):
        mask, attends = call.options.get("attention_mask"), model.blocks[BLOCK].kind_at(layer) == ATTENTION
        attention = model.attention_module(Site(BLOCK, "self_attention", layer)) if attends else None
        if not attends or (mask is None and getattr(attention, "is_causal", True)):
            # None means causal to a causal layer, but only while queries and keys are the same positions.
            n, device = call.hidden.shape[1], call.hidden.device
            if (n, device) not in causal:
                causal[n, device] = torch.ones(n, n, dtype=torch.bool, device=device).tril()[None, None]
            mask = causal[n, device]
        masks.append(mask)
    return masks


def seen(mask: Tensor) -> Tensor:
    """Which keys a query sees, bool, from a mask that is bool or added to the scores."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
