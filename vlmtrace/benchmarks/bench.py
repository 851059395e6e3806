"""How fast the exact sweep is: `make bench`.

Five parts, in one process on the CPU (`--part`): the **sweeps** of one pair beside hooks, the published procedure and
libraries that one would use instead (`rates`); the **whole road** from images to the head table for twenty pairs
(`road`); the cost per patch as models and pairs **grow** (`growth`); regions, knock-outs and sets of heads beside
hooked passes (`ways`); all **edges** of a pair beside its heads and beside one hooked run for each (`edges`).
`--against PATH` compares two versions of the package in turns (`versions`). On an accelerator (`make bench
DEVICE=cuda`) a model of 7B is measured instead (`accelerator`). Absolute times on a shared machine mean little; ratios
do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from vlmtrace.benchmarks import tables
from vlmtrace.benchmarks.accelerator import REAL, TINY, bench_accelerator
from vlmtrace.benchmarks.edges import all_edges
from vlmtrace.benchmarks.growth import growth
from vlmtrace.benchmarks.measure import machine
from vlmtrace.benchmarks.random_models import blip_vqa_base, deep_llava, long_llava, noise_pairs
from vlmtrace.benchmarks.rates import bench_model
from vlmtrace.benchmarks.road import PAIRS, whole_road
from vlmtrace.benchmarks.version_child import ROWS, make_inputs
from vlmtrace.benchmarks.versions import compare
from vlmtrace.benchmarks.ways import fast_ways
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import write_json
from vlmtrace.core.paths import DATA
from vlmtrace.models import VLM
from vlmtrace.models.loading import bundled_models, load_model
from vlmtrace.models.placement import find_device

LARGE = "BLIP of blip-vqa-base's size, random weights"
LONG = "LLaVA of 640 positions, random weights"

#: Of a real language model's depth, with keys that heads share and tied embeddings.
DEEP = "LLaVA with SmolLM2-135M's sizes, random weights"

SIZES = ("small", "large", "long", "deep")

#: Of the whole road with a bundled or a random model: pairs that are really gone through, and a library's seconds.
ROAD_SMALL, ROAD_LARGE = (PAIRS, 10.0), (1, 15.0)


def bench(sizes: list[str], parts: list[str], sampled: int, folder: Path) -> dict[str, Any]:
    """Measure on the CPU.

    Args:
        sizes: of `SIZES`
        parts: of `tables.PARTS`
        sampled: patches that are done by hooks
        folder: for random models and images

    Returns:
        by part, what was found
    """
    found: dict[str, Any] = {part: {} for part in parts if part != "growth"}
    pairs = noise_pairs(folder / "images", PAIRS)
    pair = pairs.iloc[[0]]
    crossing = "cross_attention"
    for name in (one for one in bundled_models() if "small" in sizes and one.startswith("tiny")):
        model = load_model(name)
        if "sweeps" in parts:
            found["sweeps"][name] = bench_model(model, pair, sampled * 4)
        if "road" in parts:
            found["road"][name] = whole_road(model, pairs, *ROAD_SMALL)
        if "ways" in parts:
            found["ways"][name] = fast_ways(model, pairs.iloc[:2])
        if "edges" in parts:
            found["edges"][name] = all_edges(model, pair, sampled * 4)
    random: dict[str, tuple[str, Callable[[Path], Path]]] = {
        "large": (LARGE, blip_vqa_base),
        "long": (LONG, long_llava),
        "deep": (DEEP, deep_llava),
    }
    for size, (name, make) in random.items():
        if size not in sizes or not {"sweeps", "road"} & set(parts):
            continue
        model = _random(name, make(folder / size))
        if "sweeps" in parts:
            at = "all" if model.image_module == crossing else ["correct"]
            found["sweeps"][name] = bench_model(model, pair, sampled, positions=at)
        if "road" in parts and size == "large":  # at all of its positions a long sequence takes an hour
            found["road"][name] = whole_road(model, pairs, *ROAD_LARGE)
    if "growth" in parts:
        found["growth"] = growth(folder / "growing")
    return found


def _random(name: str, folder: Path) -> VLM:
    model = load_model(folder)
    model.name = name
    return model


@click.command()
@click.option(
    "--size", type=click.Choice([*SIZES, "all"]), default="all", help="Bundled, base-size, long or deep models."
)
@click.option("--part", "parts", type=click.Choice(list(tables.PARTS)), multiple=True, help="Only this; repeatable.")
@click.option(
    "--sampled", type=click.IntRange(1), default=12, show_default=True, help="Patches timed for the hooked reference."
)
@click.option("--against", type=click.Path(path_type=Path), help="Another checkout, to compare two versions in turns.")
@click.option("--device", default="cpu", envvar="VLMTRACE_DEVICE", help="cuda: a model of 7B on that device.")
@click.option("--tiny", is_flag=True, help="What an accelerator is measured by, on a model that a CPU manages.")
@click.option("--out", type=click.Path(path_type=Path), help="The JSON file; in data/bench where none is given.")
def main(
    size: str, parts: tuple[str, ...], sampled: int, against: Path | None, device: str, tiny: bool, out: Path | None
) -> None:
    """Run the benchmark, print its tables and write them as JSON."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            name, found, shown = _measure(size, parts, sampled, against, device, tiny, Path(scratch))
    except VlmtraceError as error:
        raise click.ClickException(str(error)) from error
    print(shown)
    out = out or DATA / "bench" / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json({"machine": machine(), **found}, out)
    print(f"\nWritten: {out}")


def _measure(
    size: str, parts: tuple[str, ...], sampled: int, against: Path | None, device: str, tiny: bool, folder: Path
) -> tuple[str, dict[str, Any], str]:
    """The name of what was measured, the figures, and their tables."""
    sizes = list(SIZES) if size == "all" else [size]
    if against is not None:
        rows = [row for chosen in sizes for row in ROWS[chosen]]
        make_inputs(rows, folder)
        compared = compare(against, rows, folder)
        return "versions", {"versions": compared}, tables.versions_table(compared)
    found_device = find_device(device)
    if tiny or found_device.type != "cpu":
        if found_device.type not in ("cpu", "cuda"):
            raise VlmtraceError(f"The benchmark knows the devices cpu and cuda, not {device}: choose one of them.")
        plan = TINY if found_device.type == "cpu" else REAL
        found = bench_accelerator(torch.device(found_device), plan, folder)
        return "accelerator", found, tables.accelerator_table(found)
    found = bench(sizes, list(parts or tables.PARTS), sampled, folder)
    return "bench", found, tables.render(found)


if __name__ == "__main__":
    main()
