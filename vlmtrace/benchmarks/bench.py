"""How fast the exact sweep is: `make bench`.

For each model size, in one process and on one pair under image corruption: seconds per patch of the sweep, of the
hooked reference (one forward pass a patch), and of the published procedure (three forward passes a patch, images
prepared every time); the sweep's floating-point operations, counted by torch, the rate it reached, the rate of a large
matrix product on the same machine, and the quotient. Two libraries that one would use instead do the same patches.
Absolute times on a shared machine mean little; ratios do.
"""

from __future__ import annotations

import gc
import math
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from vlmtrace.benchmarks.libraries import patch_with_libraries
from vlmtrace.benchmarks.random_models import blip_vqa_base, long_llava, noise_pair
from vlmtrace.core.files import write_json
from vlmtrace.core.paths import DATA
from vlmtrace.core.progress import progress
from vlmtrace.inputs.batching import Positions
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.patching.run_sweep import default_memory
from vlmtrace.methods.patching.sweeps import patch_heads
from vlmtrace.models import VLM, Patches, Readout
from vlmtrace.models.loading import bundled_models, load_model
from vlmtrace.models.sweep import reference

LARGE = "blip-vqa-base (random weights)"
LONG = "llava of 600 positions (random weights)"

#: Rows and columns of the matrices whose product tells what the machine can do.
MATMUL_SIZE = 4096

#: How often the sweep is timed, in turns with what it is compared to.
TURNS = 3


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that some work takes, and its result."""
    gc.collect()
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def matmul_seconds() -> float:
    """Seconds of a large float32 matrix product, the better of two."""
    a, b = torch.randn(MATMUL_SIZE, MATMUL_SIZE), torch.randn(MATMUL_SIZE, MATMUL_SIZE)
    return min(seconds(lambda: a @ b)[0] for _ in range(2))


def count_operations(work: Callable[[], Any]) -> int:
    """Floating-point operations of all products that torch runs, attention included."""
    fused: dict[Any, Any] = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused_attention_operations}
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        fused[torch.ops.mkldnn._linear_pointwise] = _onednn_operations
    with FlopCounterMode(display=False, custom_mapping=fused) as counter:
        work()
    return counter.get_total_flops()


def _fused_attention_operations(query: Any, key: Any, value: Any, *_args: Any, **_options: Any) -> int:
    return sdpa_flop(query, key, value)


def _onednn_operations(rows: Any, weight: Any, *_args: Any, **_options: Any) -> int:
    return 2 * math.prod(rows) * weight[0]


def published_patch(model: VLM, pair: pd.DataFrame, patches: Patches, answer_ids: torch.Tensor) -> Readout:
    """One patch the published way: prepare both images, run clean, corrupt and patched."""
    clean = model.trace(run_inputs(model, pair, "clean"))
    inputs = run_inputs(model, pair, "image")
    with torch.no_grad():
        model.answer_logits(inputs)
    return reference.sweep(model, clean, inputs, patches, answer_ids)


def peak_memory(work: Callable[[], Any]) -> int:
    """The most bytes of tensors that live at once while `work` runs, beside those that lived before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    found = recorded.profiler
    assert found is not None and found.kineto_results is not None
    changes = [event for event in found.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())]
    return int(max(np.cumsum(sizes), default=0))


def bench_model(
    model: VLM, pair: pd.DataFrame, sampled: int, positions: Positions = "all", libraries: bool = True
) -> dict[str, Any]:
    """All figures of one model on one pair; every time is the median of several, taken in turns.

    Args:
        model: the model
        pair: a pairs table of one row
        sampled: how many of the sweep's patches are done by hooks
        positions: where the heads that see the image are patched
        libraries: whether other libraries do the same patches (they know cross-attention models)
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
    matmul_rate = 2 * MATMUL_SIZE**3 / median["matmul"]
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
        "largest_difference_at_sites_of_every_module": largest_difference(model, pair, drawn=max(1, sampled // 4)),
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


def render(results: dict[str, dict[str, Any]]) -> str:
    """The figures as a table for the terminal."""
    lines = []
    for name, found in results.items():
        lines.append(f"{name}: {found['patches']} head patches of one pair in {found['seconds']:.2f} s")
        for way, value in found["seconds_per_patch"].items():
            ratio = found["times_faster_than"].get(way, 1.0)
            gap = found.get(f"largest_difference_to_{way}")
            exact = "" if gap is None else f"   largest difference in logits {gap:.1e}"
            lines.append(f"  {way:<10} {value * 1e3:10.3f} ms a patch   {ratio:8.1f} × the sweep{exact}")
        lines.append(
            f"  {found['operations'] / 1e9:.1f} G operations at {found['operations_per_second'] / 1e9:.1f} G/s; "
            f"matrix product {found['matmul_operations_per_second'] / 1e9:.1f} G/s: {found['share_of_matmul_rate']:.0%}"
        )
        lines.append(
            f"  {found['memory_peak_bytes'] / 1e6:.0f} MB at the peak of {found['memory_setting_bytes'] / 1e6:.0f} MB "
            f"allowed; with a quarter of it the largest difference in logits is "
            f"{found['largest_difference_at_quarter_memory']:.1e}; at drawn sites of every module, against hooks, "
            f"{found['largest_difference_at_sites_of_every_module']:.1e}"
        )
    return "\n".join(lines)


@click.command()
@click.option(
    "--size",
    type=click.Choice(["small", "large", "long", "all"]),
    default="all",
    help="Bundled models, BLIP of base size, or LLaVA with a long sequence.",
)
@click.option("--sampled", default=12, show_default=True, help="Patches timed for the hooked reference.")
@click.option("--out", type=click.Path(path_type=Path), default=DATA / "bench" / "patching.json")
def main(size: str, sampled: int, out: Path) -> None:
    """Run the benchmark, print its table and write it as JSON."""
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pair = noise_pair(folder)
        if size in ("small", "all"):
            for name in bundled_models():
                model = load_model(name)
                crosses = model.image_module == "cross_attention"
                results[name] = bench_model(model, pair, sampled * 4, libraries=crosses)
        if size in ("large", "all"):
            results[LARGE] = bench_model(load_model(blip_vqa_base(folder / "blip")), pair, sampled)
        if size in ("long", "all"):
            model = load_model(long_llava(folder / "llava"))
            results[LONG] = bench_model(model, pair, sampled, positions=["correct"], libraries=False)
    print(render(results))
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    write_json({"machine": machine, "models": results}, out)


if __name__ == "__main__":
    main()
