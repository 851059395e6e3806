"""What patching by whole passes costs: the same patches by hooks one by one, by batches of them, and by the sweep.

    .venv/bin/python -m vlmtrace.benchmarks.whole_passes --device cuda

Patches are drawn over all layers, modules and positions of a LLaVA with random weights. Times are those of the process,
all of its threads together, on a CPU, and of the clock on an accelerator.

Runs, batches and the sweep take their products by `FastProducts`, hooked passes from torch. So hooked passes are done a
second time by `FastProducts`: what differs from these comes from batches or the sweep, and not from the products.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch

from vlmtrace.benchmarks import random_models
from vlmtrace.benchmarks.measure import wait_for
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.patching.run_sweep import default_memory
from vlmtrace.models import VLM, Patches, Readout
from vlmtrace.models.products import FastProducts, by_fast_products
from vlmtrace.models.sweep import reference
from vlmtrace.models.universal import UniversalDecoder

#: How often each way is timed, in turns; the best counts.
TURNS = 3

#: The way that the others are compared with.
EXPECTED = "hooked passes, fast products"


def ways_of(model: VLM, pair: pd.DataFrame, n_patches: int, seed: int = 0) -> pd.DataFrame:
    """Time the same patches done in several ways.

    Args:
        model: decoder-only, whose fast sweep is exact
        pair: a pairs table of one row
        n_patches: how many, drawn
        seed: of the draw

    Returns:
        one row per way: way, seconds_per_patch, times_the_sweep, largest_difference (in logits, to `EXPECTED`)
    """
    batched = UniversalDecoder(model.name, model.hf, model.processor, model.family)
    clean_inputs, inputs = (run_inputs(model, pair, run) for run in ("clean", "image"))
    ids = model.answer_ids(pair["correct_answer"], pair["incorrect_answer"])
    with FastProducts():  # as in every stage
        clean, corrupt = model.trace(clean_inputs), model.trace(inputs)
    patches = drawn_patches(model, clean["language_model", "residual", 0].shape[1], n_patches, seed)
    memory = default_memory(model)

    def hooked() -> Readout:
        return reference.sweep(model, clean, inputs, patches, ids)

    ways: dict[str, Callable[[], Readout]] = {
        "hooked passes one by one": hooked,
        EXPECTED: by_fast_products(hooked),
        "whole passes in batches": lambda: batched.sweep(clean, corrupt, inputs, patches, ids, memory),
        "fast sweep": lambda: model.sweep(clean, corrupt, inputs, patches, ids, memory),
    }
    answers = {way: answer() for way, answer in ways.items()}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(TURNS):
        for way, answer in ways.items():
            taken[way].append(_seconds(answer, model.device))
    best = {way: min(times) / n_patches for way, times in taken.items()}
    expected = answers[EXPECTED].correct
    return pd.DataFrame(
        {
            "way": way,
            "seconds_per_patch": best[way],
            "times_the_sweep": best[way] / best["fast sweep"],
            "largest_difference": float((answers[way].correct - expected).abs().max()),
        }
        for way in ways
    )


def drawn_patches(model: VLM, length: int, n: int, seed: int = 0) -> Patches:
    """Patches of drawn modules, layers and positions of the language model."""
    generator, block = np.random.default_rng(seed), model.blocks["language_model"]
    modules = generator.choice(block.modules, n).tolist()
    layers = generator.integers(0, block.n_layers, n).tolist()
    positions = torch.as_tensor(generator.integers(1, length, (1, n)), device=model.device)
    return Patches(block.name, modules, layers, [None] * n, positions)


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    wait_for(device)
    start = clock()
    work()
    wait_for(device)
    return clock() - start


@click.command()
@click.option("--device", default="cpu", show_default=True)
@click.option("--layers", default=12, show_default=True, help="Of the language model.")
@click.option("--width", default=512, show_default=True, help="Of the language model.")
@click.option("--patches", "n_patches", default=24, show_default=True, help="How many are drawn.")
def main(device: str, layers: int, width: int, n_patches: int) -> None:
    """Print a table of the ways."""
    heads, inner = max(1, width // 32), 11 * width // 4
    hf, processor = random_models.llava(layers=layers, width=width, heads=heads, inner=inner, device=device)
    model = random_models.in_memory(f"a LLaVA of {layers} layers of width {width}", hf, processor)
    with tempfile.TemporaryDirectory() as folder:
        pair = random_models.noise_pair(Path(folder))
        click.echo(f"{model.name}, {n_patches} patches on {device}:")
        click.echo(ways_of(model, pair, n_patches).to_string(index=False))


if __name__ == "__main__":
    main()
