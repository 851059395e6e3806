"""By how much a model's own logits depend on how they are rounded: what a sweep may differ by and still be right.

In half precision, and where activations are quantized, the same forward pass gives other logits in another batch or
in another order of summation. A difference of that size is no fault of a sweep; a larger one is. So the self-check
measures it on the very patches that it compares, in two ways that need no fast sweep: the hooked passes in one batch
with the clean run, and the hooked passes with what each layer gives rounded once more.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.sweep import reference
from vlmtrace.models.sweep.replay_check import largest_difference
from vlmtrace.models.types import Inputs, Patches, Readout, Site, Trace
from vlmtrace.models.vlm import VLM
from vlmtrace.models.weight_values import is_quantized

#: A sweep rounds elsewhere than hooks do, and at more than one place: it may differ by so many times what is measured.
FACTOR = 2.0

#: How often what layers give is rounded once more.
DRAWS = 3


def rounds_coarsely(model: VLM) -> bool:
    """Whether a model's logits depend on rounding by more than float32 does."""
    return model.dtype not in (torch.float32, torch.float64) or is_quantized(model.hf)


def smallest_difference(model: VLM, logits: Tensor) -> float:
    """What is always allowed: the step between the largest logit and the next number; −∞ does not count."""
    finite = logits[logits.isfinite()]
    largest = max(float(finite.abs().amax()) if len(finite) else 0.0, 1.0)
    return max(1e-4, torch.finfo(model.dtype).eps) * largest


@torch.no_grad()
def measured_rounding(
    model: VLM, clean: Trace, sides: tuple[Inputs, Inputs], patches: Patches, answer_ids: Tensor, slow: Readout
) -> float:
    """The largest difference between hooked passes that differ in nothing but rounding.

    Args:
        model: any
        clean: trace of one pair's clean run
        sides: its corrupt and its clean inputs (batch 1 each)
        patches: that are answered
        answer_ids: (1, 2)
        slow: what the hooked reference gives for these patches

    Returns:
        in logits
    """
    # The hooks of the reference see a batch as one long sequence, so the patches are those of its first row.
    together = {name: torch.cat([side[name] for side in sides]) for name in sides[0]}
    found = [reference.sweep(model, clean, together, patches, answer_ids.expand(len(sides), -1)).rows(slice(0, 1))]
    # bitsandbytes turns activations into half precision before it quantizes them.
    step = max(torch.finfo(model.dtype).eps, torch.finfo(torch.float16).eps if is_quantized(model.hf) else 0.0)
    generator = torch.Generator().manual_seed(0)
    points = [
        (model.hook_point(Site(block.name, "residual", layer)), partial(_rounded, step=step, generator=generator))
        for block in model.blocks.values()
        for layer in range(block.n_layers)
    ]
    with attach_hooks(points):
        found += [reference.sweep(model, clean, sides[0], patches, answer_ids) for _ in range(DRAWS)]
    return max(largest_difference(other.correct, slow.correct) for other in found)


def _rounded(value: Tensor, step: float, generator: torch.Generator) -> Tensor:
    """Each number moved by up to half a step to its neighbours, as if it had been rounded once more."""
    drawn = torch.rand(value.shape, generator=generator).to(value.device) - 0.5
    # In half precision a number moves to a neighbour or stays: which one is drawn by the fraction that it moved.
    return (value.float() * (1 + drawn * step)).to(value.dtype)
