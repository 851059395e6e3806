"""Regions, knock-outs, joint patches and sets of heads: the fast way beside one hooked forward pass for each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from vlmtrace.benchmarks.measure import seconds
from vlmtrace.core.progress import progress
from vlmtrace.methods import knockout, patching
from vlmtrace.models import VLM

#: How often each way is timed, in turns; the best counts.
TURNS = 3


def interventions(model: VLM, pairs: pd.DataFrame) -> dict[str, Callable[[], pd.DataFrame]]:
    """By name, calls that give a table with LD under each intervention.

    A version of the package that lacks one of the functions has the others all the same.
    """
    block, module = model.head_block, model.image_module
    heads = [(module, layer, head) for layer, head in block.every_head]
    sets = [heads[: n + 1] for n in range(0, len(heads), max(1, len(heads) // 16))]
    return {
        "regions": lambda: patching.patch_regions(model, pairs),
        "attention knock-outs": lambda: knockout.knock_out_attention(model, pairs),
        "joint patches": lambda: patching.patch_together(model, pairs, sets),
        "whole heads": lambda: patching.patch_whole_heads(model, pairs, blocks=[block.name]),
        "sets of heads": lambda: patching.patch_head_sets(model, pairs, sets),
    }


def fast_ways(model: VLM, pairs: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Seconds of each intervention, fast and by hooks, and the largest difference in logits.

    Args:
        model: any
        pairs: a pairs table with masks

    Returns:
        by intervention: rows, seconds, hooked_seconds, times_faster, largest_difference
    """
    found = {}
    for name, call in progress(interventions(model, pairs).items(), f"{model.name}: interventions"):
        fast = call()
        with by_hooks(model):
            slow = call()
        taken: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(TURNS):
            taken[True].append(seconds(call)[0])
            with by_hooks(model):
                taken[False].append(seconds(call)[0])
        best, hooked = min(taken[True]), min(taken[False])
        found[name] = {
            "rows": len(fast),
            "seconds": best,
            "hooked_seconds": hooked,
            "times_faster": hooked / best,
            "largest_difference": float((fast["logit_diff"] - slow["logit_diff"]).abs().max()),
        }
    return found


@contextlib.contextmanager
def by_hooks(model: VLM) -> Iterator[None]:
    """While this is entered, a model answers everything by hooked forward passes."""
    before = model.uses_fast_sweep
    model.uses_fast_sweep = False
    try:
        yield
    finally:
        model.uses_fast_sweep = before
