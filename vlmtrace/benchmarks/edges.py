"""All edges of a pair at once: beside one hooked run for each, and beside all heads of the same pair."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.benchmarks.measure import seconds
from vlmtrace.core.progress import progress
from vlmtrace.inputs.batching import one_by_one
from vlmtrace.inputs.pair_runs import PairRuns
from vlmtrace.methods.edges import patch_edges
from vlmtrace.methods.patching import patch_heads
from vlmtrace.models import VLM
from vlmtrace.models.edges.nodes import Edge
from vlmtrace.models.edges.reference import hooked_edge
from vlmtrace.models.edges.wiring import edges_of

#: How often each way is timed, in turns.
TURNS = 5


def hooked_runs(model: VLM, runs: PairRuns, edges: Sequence[Edge]) -> np.ndarray:
    """LD (edge,) of edges of one pair, one after the other by hooked forward passes; see `hooked_edge`."""
    sides = runs.clean, runs.corrupt, runs.clean_inputs, runs.inputs
    return np.array([hooked_edge(model, *sides, *edge, runs.answer_ids).logit_diff.item() for edge in edges])


def all_edges(model: VLM, pair: pd.DataFrame, sampled: int) -> dict[str, Any]:
    """Seconds of all edges of a pair, of all of its heads, and of one edge by hooks; every time is a median.

    The corruption is that of the image.

    Args:
        model: any whose edges are known, with projections of their own for queries, keys and values
        pair: a pairs table of one row, with answers that differ in their first token
        sampled: how many of the edges are done by hooks; at least one in each turn are

    Returns:
        edges, heads (patches of `patch_heads`, a head at one position each), seconds, heads_seconds, times_the_heads,
        hooked_seconds (of one edge, clean and corrupt run not in it), times_faster_than_hooked, largest_difference and
        largest_effect in logits, of the edges that are done by hooks
    """
    (_, runs), edges = next(one_by_one(model, pair, "image")), edges_of(model)
    table = patch_edges(model, pair)
    heads = patch_heads(model, pair)
    effects = table["logit_diff"].to_numpy()
    rng = np.random.default_rng(0)
    sampled = max(sampled, TURNS)
    chosen = rng.permutation(len(edges))[:sampled].tolist()
    # Most edges do next to nothing. So that the comparison says something, half of them are the largest.
    chosen[: sampled // 2] = np.argsort(-np.abs(effects))[: sampled // 2].tolist()
    taken: dict[str, list[float]] = {"edges": [], "heads": [], "hooked": []}
    worst, corrupt = 0.0, runs.corrupt_readout.logit_diff.item()
    for turn in progress(range(TURNS), f"{model.name}: edges"):
        taken["heads"].append(seconds(partial(patch_heads, model, pair))[0])
        taken["edges"].append(seconds(partial(patch_edges, model, pair))[0])
        part = chosen[turn::TURNS]
        took, found = seconds(partial(hooked_runs, model, runs, [edges[number] for number in part]))
        taken["hooked"].append(took / len(part))
        worst = max(worst, float(np.abs(found - corrupt - effects[part]).max()))
    median = {name: float(np.median(values)) for name, values in taken.items()}
    return {
        "edges": len(edges),
        "heads": len(heads),
        "seconds": median["edges"],
        "heads_seconds": median["heads"],
        "times_the_heads": median["edges"] / median["heads"],
        "hooked_seconds": median["hooked"],
        "times_faster_than_hooked": median["hooked"] * len(edges) / median["edges"],
        "largest_difference": worst,
        "largest_effect": float(np.abs(effects[chosen]).max()),
    }
