"""What calls cost on a loaded model: measured, under the names by which `patching_costs` counts them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import torch

from vlmtrace.benchmarks.measure import peak_memory, seconds, wait_for
from vlmtrace.core.arguments import Positive, checked
from vlmtrace.core.progress import progress
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.attribution import attribute_heads
from vlmtrace.methods.patching import patch_heads, patch_modules, patch_whole_heads
from vlmtrace.models import VLM

BLOCKS = ["language_model"]


def calls_of(model: VLM, pair: pd.DataFrame, memory_gb: float | None = None) -> dict[str, Callable[[], Any]]:
    """The calls that `patching_costs` counts, but for those at every position, which only a small model manages.

    Args:
        model: decoder-only
        pair: a pairs table of one row
        memory_gb: of the sweeps
    """
    inputs = run_inputs(model, pair, "clean")
    options: dict[str, Any] = {"memory_gb": memory_gb}
    return {
        "one forward pass": torch.no_grad()(partial(model.answer_logits, inputs)),
        'patch_modules, "last"': partial(patch_modules, model, pair, positions=["last"], blocks=BLOCKS, **options),
        "attribute_heads": partial(attribute_heads, model, pair),
        'patch_heads, "correct"': partial(patch_heads, model, pair, positions=["correct"], **options),
        "patch_whole_heads": partial(patch_whole_heads, model, pair, blocks=BLOCKS),
    }


@checked
def measure_calls(model: VLM, pair: pd.DataFrame, memory_gb: Positive | None = None) -> pd.DataFrame:
    """Measure what calls cost for one pair under image corruption.

    Each call is made once before it is timed, so that nothing is loaded on demand meanwhile.

    Args:
        model: decoder-only
        pair: a pairs table; its first row is used
        memory_gb: gigabytes (2³⁰ bytes) that a sweep may take; None: as it chooses

    Returns:
        one row per call: call (as in `patching_costs`), effects, seconds (of the clock), peak_gb: gigabytes (10⁹ bytes)
        of tensors at the call's peak, beside what was there before
    """
    rows = []
    for call, work in progress(calls_of(model, pair.iloc[[0]], memory_gb).items(), f"{model.name}: measuring"):
        found = work()
        rows.append(
            {
                "call": call,
                "effects": len(found),
                "seconds": seconds(work, model.device)[0],
                "peak_gb": peak_bytes(work, model.device) / 1e9,
            }
        )
    return pd.DataFrame(rows)


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """The most bytes that tensors occupy at once while some work runs, beside those that were there before.

    Args:
        work: what is measured
        device: where its tensors lie; an accelerator counts them itself, on a CPU torch's profiler does
    """
    if device.type != "cuda":
        return peak_memory(work)
    wait_for(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    wait_for(device)
    return torch.cuda.max_memory_allocated(device) - before
