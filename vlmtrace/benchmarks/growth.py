"""Cost per patch as layers, positions and pairs grow: one size is changed at a time, in one process.

Models of random weights: BLIP, all positions of the cross-attention's heads; LLaVA, the self-attention's heads at the
correct option, and at positions spread over the whole sequence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vlmtrace.benchmarks.measure import seconds
from vlmtrace.benchmarks.random_models import blip, in_memory, llava, noise_pairs
from vlmtrace.core.progress import progress
from vlmtrace.inputs.batching import Positions
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.patching.sweeps import patch_heads
from vlmtrace.models import VLM

#: How often each size is timed; the best counts.
REPEATS = 2

#: Of LLaVA's sequence, this many positions are patched where they are spread over it.
SPREAD = 2


class Size(NamedTuple):
    """What grows.

    Attributes:
        layers: of each stack
        side: patches along a side of the image: its square are the image's positions
        pairs: how many are patched in one call
    """

    layers: int = 4
    side: int = 8
    pairs: int = 1


#: One size after the other, from the smallest.
LAYERS, SIDES, PAIRS = (4, 8, 16), (8, 16, 24), (1, 4, 16)

#: Sizes that are compared, by what grows.
GROWING = {
    "layers": [Size(layers=n) for n in LAYERS],
    "image positions": [Size(side=n) for n in SIDES],
    "pairs": [Size(pairs=n) for n in PAIRS],
}


def growth(folder: Path, growing: dict[str, list[Size]] | None = None, width: int = 256) -> list[dict[str, Any]]:
    """Seconds per patch of each size, and how many times those of the first.

    Args:
        folder: where images are drawn
        growing: by what grows, its sizes; None: `GROWING`
        width: of all stacks, 8 heads each

    Returns:
        one record per family, positions and size: family, positions, grows, layers, image_positions, pairs, patches,
        seconds_per_patch, times_the_first
    """
    growing = GROWING if growing is None else growing
    largest = max(size.pairs for sizes in growing.values() for size in sizes)
    pairs = noise_pairs(folder, largest, 96)
    found: list[dict[str, Any]] = []
    timed: dict[tuple[str, Size], list[dict[str, Any]]] = {}
    for family in ("BLIP", "LLaVA"):
        wanted = dict.fromkeys(size for sizes in growing.values() for size in sizes)
        for size in progress(wanted, f"{family} as it grows"):
            timed[family, size] = _time(family, size, pairs, width)
        for grows, sizes in growing.items():
            firsts = {record["positions"]: record["seconds_per_patch"] for record in timed[family, sizes[0]]}
            for size in sizes:
                for record in timed[family, size]:
                    times = record["seconds_per_patch"] / firsts[record["positions"]]
                    found.append({**record, "grows": grows, "times_the_first": times})
    return found


def _time(family: str, size: Size, pairs: pd.DataFrame, width: int) -> list[dict[str, Any]]:
    some = pairs.iloc[: size.pairs]
    model = _model(family, size, width)
    ways: dict[str, Positions] = {"all": "all"}
    if family == "LLaVA":
        length = run_inputs(model, some.iloc[[0]], "clean")["input_ids"].shape[1]
        ways = {
            "correct option": ["correct"],
            "spread": np.linspace(0, length - 1, SPREAD + 2)[1:-1].astype(int).tolist(),
        }
    records = []
    for name, positions in ways.items():

        def sweep(positions: Positions = positions) -> pd.DataFrame:
            return patch_heads(model, some, modules=[model.image_module], positions=positions)

        runs = [seconds(sweep) for _ in range(REPEATS)]
        best, n = min(took for took, _ in runs), len(runs[0][1])
        sizes = {"layers": size.layers, "image_positions": size.side**2, "pairs": size.pairs}
        records.append({"family": family, "positions": name, **sizes, "patches": n, "seconds_per_patch": best / n})
    return records


def _model(family: str, size: Size, width: int) -> VLM:
    if family == "BLIP":
        parts = blip(size.layers, width, 8, image_size=16 * size.side, vocabulary=1000)
    else:
        parts = llava(size.layers, width, 8, 4 * width, image_size=14 * size.side)
    return in_memory(f"{family} of {size.layers} layers", *parts)
