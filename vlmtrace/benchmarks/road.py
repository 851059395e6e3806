"""The whole road: from the image files of a pairs table to the table of its heads' effects.

It has in it: opening the images, preparing them, tokenizing, both runs of each pair, every patched run, and the table.
It has not: loading the model, making the pairs, and evaluating the model on them. A library that would take hours does
patches that are drawn, within a number of seconds; then its road is what it spent before the first patch, for all
pairs, and the seconds of one patch times all of them. The record says how many were done.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import torch

from vlmtrace.benchmarks.libraries import Library, known_libraries, libraries_at_work
from vlmtrace.benchmarks.measure import seconds
from vlmtrace.core.progress import progress
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.patching.sweeps import patch_heads
from vlmtrace.models import VLM

#: Pairs that the road is meant for.
PAIRS = 20


def whole_road(model: VLM, pairs: pd.DataFrame, measured_pairs: int, budget: float, seed: int = 0) -> dict[str, Any]:
    """Seconds from images to head table, with vlmtrace and with each installed library that knows the model.

    Args:
        model: loaded
        pairs: a pairs table with image files, of one length
        measured_pairs: how many of the pairs are really gone through; the seconds are for all
        budget: seconds that the patches of a library may take
        seed: of the drawing of its patches

    Returns:
        pairs, measured_pairs, patches (of all pairs); by way ("vlmtrace", a library): seconds, done (patches that were
        run), of_all (patches that the seconds stand for), fixed_seconds (before the first patch),
        largest_difference in logits to vlmtrace
    """
    chosen = pairs.iloc[:measured_pairs]
    share = len(pairs) / len(chosen)
    took, table = seconds(lambda: patch_heads(model, chosen, modules=[model.image_module]))
    n = round(len(table) * share)
    ways: dict[str, Any] = {"vlmtrace": {"seconds": took * share, "done": len(table), "of_all": n}}
    for name, kind in progress(known_libraries(model).items(), f"{model.name}: the whole road"):
        with libraries_at_work():
            found = _with_library(model, kind(model), chosen, table, budget, seed)
        per_patch = found["patch_seconds"] / found["done"]
        ways[name] = {
            "seconds": found["fixed_seconds"] * share + per_patch * n,
            "fixed_seconds": found["fixed_seconds"] * share,
            "done": found["done"],
            "of_all": n,
            "largest_difference": found["largest_difference"],
        }
    return {"pairs": len(pairs), "measured_pairs": len(chosen), "patches": n, "ways": ways}


def _with_library(
    model: VLM, library: Library, pairs: pd.DataFrame, table: pd.DataFrame, budget: float, seed: int
) -> dict[str, Any]:
    """One library's seconds for both parts of the road; all positions of a head in a layer are one draw."""

    def start() -> tuple[list[Any], list[tuple[torch.Tensor, float]]]:
        started, bases = [], []
        for row in range(len(pairs)):
            one = pairs.iloc[[row]]
            clean, corrupt = (run_inputs(model, one, run) for run in ("clean", "image"))
            ids = model.answer_ids(one["correct_answer"], one["incorrect_answer"])[0]
            logits = model.answer_logits(corrupt)[0]
            started.append(library.start(clean, corrupt))
            bases.append((ids, float(logits[ids[0]] - logits[ids[1]])))
        return started, bases

    fixed, (started, bases) = seconds(start)
    rows = {name: row for row, name in enumerate(pairs["sample_id"])}
    keyed = table.assign(row=table["sample_id"].map(rows)).sort_values(["row", "layer", "head", "position"])
    records = keyed[["row", "layer", "head", "position", "logit_diff"]].itertuples(index=False)
    draws = [list(group) for _, group in groupby(records, key=lambda record: (record.row, record.layer, record.head))]
    order = np.random.default_rng(seed).permutation(len(draws))
    spent, done, worst = 0.0, 0, 0.0
    for draw in order:
        group = draws[draw]
        row, layer = group[0].row, group[0].layer
        sites = [(int(record.head), int(record.position)) for record in group]
        took, logits = seconds(lambda: library.patch(started[row], layer, sites))  # noqa: B023 - called at once
        ids, base = bases[row]
        values = (logits[:, ids[0]] - logits[:, ids[1]]).float() - base
        expected = torch.tensor([record.logit_diff for record in group], dtype=values.dtype, device=values.device)
        worst = max(worst, float((values - expected).abs().max()))
        spent, done = spent + took, done + len(group)
        if spent > budget:
            break
    return {"fixed_seconds": fixed, "patch_seconds": spent, "done": done, "largest_difference": worst}
