"""Sweeps in chunks that fit into memory, whatever the number of patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.heap import give_back_memory
from vlmtrace.models.interventions import Interventions
from vlmtrace.models.types import Patches, Readout

Work = TypeVar("Work", Patches, Interventions)


def in_chunks(patches: Work, size: int, run: Callable[[Work], Readout]) -> Readout:
    """Run a sweep over some patches at a time, in the order of their layers.

    Where an accelerator runs out of memory all the same, the chunk is halved and the sweep goes on.

    Args:
        patches: in any order; interventions stay in theirs
        size: how many at a time
        run: answers patches that are sorted by layer

    Returns:
        Readout (pair, patch), in the order of `patches`

    Raises:
        VlmtraceError: not even one patch at a time fits
    """
    order = sorted(range(len(patches)), key=lambda i: patches.layers[i])
    readouts: list[Readout] = []
    start = 0
    while start < len(order):
        chunk = patches.subset(order[start : start + size])
        try:
            readouts.append(run(chunk))
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise VlmtraceError(
                    "The device has too little memory for a single patch: use a smaller model, fewer pairs, or the CPU."
                ) from error
            size = max(1, min(size, len(chunk)) // 2)
            torch.cuda.empty_cache()
            continue
        start += size
        give_back_memory()
    back = torch.tensor(order, device=readouts[0].correct.device).argsort()
    found = Readout.cat(readouts, dim=1)
    return Readout(found.correct[:, back], found.incorrect[:, back], found.log_normalizer[:, back])
