"""One pair, one sweep: seconds per patch beside hooks, the published procedure and other libraries.

Also the sweep's floating-point operations, counted by torch, the rate that it reaches, that of a large matrix product
on the same machine, and the quotient; and the largest differences in logits to every other way.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from vlmtrace.benchmarks import measure
from vlmtrace.benchmarks.libraries import patch_with_libraries
from vlmtrace.benchmarks.measure import count_operations, matmul_seconds, peak_memory, seconds
from vlmtrace.core.progress import progress
from vlmtrace.inputs.batching import Positions
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.patching.run_sweep import default_memory
from vlmtrace.methods.patching.sweeps import patch_heads
from vlmtrace.models import VLM, Patches, Readout
from vlmtrace.models.sweep import reference

#: How often the sweep is timed, in turns with what it is compared to.
TURNS = 3


def published_patch(model: VLM, pair: pd.DataFrame, patches: Patches, answer_ids: torch.Tensor) -> Readout:
    """One patch the published way: prepare both images, run clean, corrupt and patched."""
    clean = model.trace(run_inputs(model, pair, "clean"))
    inputs = run_inputs(model, pair, "image")
    with torch.no_grad():
        model.answer_logits(inputs)
    return reference.sweep(model, clean, inputs, patches, answer_ids)


def bench_model(
    model: VLM, pair: pd.DataFrame, sampled: int, positions: Positions = "all", libraries: bool = True
) -> dict[str, Any]:
    """All figures of one model on one pair; every time is the median of several, taken in turns.

    Args:
        model: the model
        pair: a pairs table of one row
        sampled: how many of the sweep's patches are done by hooks
        positions: where the heads that see the image are patched
        libraries: whether other libraries that know the model do the same patches
    """

    def sweep(memory_gb: float | None = None) -> pd.DataFrame:
        return patch_heads(model, pair, modules=[model.image_module], positions=positions, memory_gb=memory_gb)

    ids = model.answer_ids(pair["correct_answer"], pair["incorrect_answer"])
    clean = model.trace(run_inputs(model, pair, "clean"))
    inputs = run_inputs(model, pair, "image")
    with torch.no_grad():
        corrupt = Readout.of(model.answer_logits(inputs), ids).logit_diff.item()
    table = sweep()
    chosen = table.sample(min(sampled, len(table)), random_state=0)
    ones = [one_patch(model, row) for row in chosen.to_dict("records")]
    times: dict[str, list[float]] = {"sweep": [], "hooked": [], "published": [], "matmul": []}
    hooked = []
    for turn in progress(range(TURNS), f"{model.name}: timing"):
        times["matmul"].append(matmul_seconds())
        times["sweep"].append(seconds(sweep)[0])
        times["matmul"].append(matmul_seconds())
        for i, one in enumerate(ones[turn::TURNS]):
            took, found = seconds(partial(reference.sweep, model, clean, inputs, one, ids))
            times["hooked"].append(took)
            hooked.append((found.logit_diff.item() - corrupt, chosen["logit_diff"].iloc[turn + i * TURNS]))
            if i % 2 == 0:
                times["published"].append(seconds(partial(published_patch, model, pair, one, ids))[0])
    median = {name: float(np.median(values)) for name, values in times.items()}
    per_patch = {
        "sweep": median["sweep"] / len(table),
        "hooked": median["hooked"],
        "published": median["published"],
    }
    operations = count_operations(sweep)
    matmul_rate = 2 * measure.MATMUL_SIZE**3 / median["matmul"]
    memory = default_memory(model)
    quarter = sweep(memory / 4 / 2**30)
    figures: dict[str, Any] = {
        "patches": len(table),
        "length": int(inputs["input_ids"].shape[1]),
        "seconds": median["sweep"],
        "operations": operations,
        "operations_per_second": operations / median["sweep"],
        "matmul_operations_per_second": matmul_rate,
        "share_of_matmul_rate": operations / median["sweep"] / matmul_rate,
        "largest_difference_to_hooked": max(float(abs(slow - fast)) for slow, fast in hooked),
        "largest_difference_at_sites_of_every_module": largest_difference(model, pair, drawn=max(1, sampled // 12)),
        "largest_effect": float(table["logit_diff"].abs().max()),
        "memory_setting_bytes": memory,
        "memory_peak_bytes": peak_memory(sweep),
        "largest_difference_at_quarter_memory": float((quarter["logit_diff"] - table["logit_diff"]).abs().max()),
    }
    if libraries:
        for name, (time_per_patch, values) in patch_with_libraries(model, pair, table, seconds).items():
            per_patch[name] = time_per_patch
            joined = table.merge(values, on=["layer", "head", "position"])
            figures[f"largest_difference_to_{name}"] = float((joined["logit_diff"] - joined["value"]).abs().max())
    figures["seconds_per_patch"] = per_patch
    figures["times_faster_than"] = {
        name: value / per_patch["sweep"] for name, value in per_patch.items() if name != "sweep"
    }
    return figures


def largest_difference(model: VLM, pair: pd.DataFrame, drawn: int, seed: int = 0) -> float:
    """Largest difference in logits between sweep and hooks over `drawn` random sites of every module of every block."""
    rng = np.random.default_rng(seed)
    ids = model.answer_ids(pair["correct_answer"], pair["incorrect_answer"])
    inputs = run_inputs(model, pair, "image")
    clean, corrupt = model.trace(run_inputs(model, pair, "clean")), model.trace(inputs)
    worst = 0.0
    for block in progress(model.blocks.values(), f"{model.name}: sites of every module"):
        rows = [
            {
                "block": block.name,
                "module": module,
                "layer": int(rng.integers(block.n_layers)),
                "head": int(rng.integers(block.n_heads)) if by_head else None,
                "position": int(rng.integers(clean[block.name, module, 0].shape[1])),
            }
            for modules, by_head in ((block.modules, False), (block.head_modules, True))
            for module in modules
            for _ in range(drawn)
        ]
        for row in rows:
            one = one_patch(model, row)
            fast = model.sweep(clean, corrupt, inputs, one, ids, default_memory(model))
            slow = reference.sweep(model, clean, inputs, one, ids)
            worst = max(worst, float((fast.logit_diff - slow.logit_diff).abs()))
    return worst


def one_patch(model: VLM, row: dict[str, Any]) -> Patches:
    """The patch that a row of the sweep's table stands for."""
    position = torch.tensor([[row["position"]]], device=model.device)
    return Patches(row["block"], [row["module"]], [row["layer"]], [row["head"]], position)
