"""How fast the exact sweep is: `make bench`.

For each model size, in one process and on one pair under image corruption: seconds per patch of the sweep, of the
hooked reference (one forward pass a patch), and of the published procedure (three forward passes a patch, images
prepared every time); the sweep's floating-point operations, counted by torch, the rate it reached, the rate of a large
matrix product on the same machine, and the quotient. Two libraries that one would use instead do the same patches.
Absolute times on a shared machine mean little; ratios do.
"""

from __future__ import annotations

import gc
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop
from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering, BlipProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from vlmtrace import bench_libraries
from vlmtrace.corruption import run_inputs
from vlmtrace.files import write_json
from vlmtrace.models import VLM, Patches, Readout, bundled_models, load_model, reference
from vlmtrace.patching import patch_heads
from vlmtrace.paths import DATA
from vlmtrace.progress import progress

QUESTION = "is this circle red or blue?"
LARGE = "blip-vqa-base (random weights)"


def blip_vqa_base(folder: Path, seed: int = 0) -> Path:
    """A BLIP of blip-vqa-base's size with random weights, saved in `folder` with a processor; nothing is downloaded.

    12 layers and 12 heads in each stack, 384 × 384 pixels in patches of 16, vocabulary 30,524 (the sizes of the
    published checkpoint's configuration). Weights are drawn wide enough that patches change the answer.
    """
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *"is this circle red or blue ? a b".split()]
    words += [f"[unused{i}]" for i in range(30524 - len(words))]
    vocabulary = folder / "words.txt"
    vocabulary.write_text("\n".join(words))
    text = dict(
        vocab_size=len(words),
        num_hidden_layers=12,
        num_attention_heads=12,
        bos_token_id=words.index("[DEC]"),
        sep_token_id=words.index("[SEP]"),
        eos_token_id=words.index("[SEP]"),
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    model = BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=dict(image_size=384, patch_size=16)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name.lower():
                parameter.normal_(0, 0.02 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    processor = BlipProcessor(
        BlipImageProcessorPil(size={"height": 384, "width": 384}), BertTokenizer(vocab=str(vocabulary))
    )
    processor.save_pretrained(folder)
    return folder


def noise_pair(folder: Path, size: int = 384, seed: int = 0) -> pd.DataFrame:
    """One pair of noise images with a question both models can read."""
    generator = np.random.default_rng(seed)
    for side in ("clean", "corrupt"):
        Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{side}.png")
    return pd.DataFrame(
        {
            "sample_id": ["noise"],
            "task": "bench",
            "category": "noise",
            "clean_image": str(folder / "clean.png"),
            "corrupt_image": str(folder / "corrupt.png"),
            "clean_prompt": QUESTION,
            "corrupt_prompt": QUESTION,
            "correct_answer": "red",
            "incorrect_answer": "blue",
            "correct_first": True,
        }
    )


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def matmul_rate(size: int = 4096, repeats: int = 3) -> float:
    """Operations per second of a large float32 matrix product, the best of several."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    a @ b
    return max(2 * size**3 / seconds(lambda: a @ b)[0] for _ in range(repeats))


def count_operations(work: Callable[[], Any]) -> int:
    """Floating-point operations of all products that torch runs, attention included."""
    fused = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused_attention_operations}
    with FlopCounterMode(display=False, custom_mapping=fused) as counter:
        work()
    return counter.get_total_flops()


def _fused_attention_operations(query: Any, key: Any, value: Any, *_args: Any, **_options: Any) -> int:
    return sdpa_flop(query, key, value)


def published_patch(model: VLM, pair: pd.DataFrame, patches: Patches, answer_ids: torch.Tensor) -> Readout:
    """One patch the published way: prepare both images, run clean, corrupt and patched."""
    clean = model.trace(run_inputs(model, pair, "clean"))
    inputs = run_inputs(model, pair, "image")
    with torch.no_grad():
        model.answer_logits(inputs)
    return reference.sweep(model, clean, inputs, patches, answer_ids)


def peak_memory() -> int:
    """The most bytes this process has ever held."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def bench_model(model: VLM, pair: pd.DataFrame, sampled: int, libraries: bool = True) -> dict[str, Any]:
    """All figures of one model on one pair."""
    modules = ["cross_attention"]

    def sweep() -> pd.DataFrame:
        return patch_heads(model, pair, modules=modules)

    patch_heads(model, pair, modules=modules, positions=[0])  # warm up
    before = peak_memory()
    rate = matmul_rate()
    sweep_seconds, table = seconds(sweep)
    operations = count_operations(sweep)
    rate = max(rate, matmul_rate())

    chosen = table.sample(min(sampled, len(table)), random_state=0).reset_index(drop=True)
    ids = model.answer_ids(pair["correct_answer"], pair["incorrect_answer"])
    clean = model.trace(run_inputs(model, pair, "clean"))
    inputs = run_inputs(model, pair, "image")
    ones = [
        Patches(
            "text_encoder", [row.module], [row.layer], [row.head], torch.tensor([[row.position]], device=model.device)
        )
        for row in chosen.itertuples()
    ]
    with torch.no_grad():
        corrupt = Readout.of(model.answer_logits(inputs), ids).logit_diff.item()
    hooked_seconds, hooked = seconds(
        lambda: [reference.sweep(model, clean, inputs, one, ids).logit_diff.item() for one in progress(ones, "hooked")]
    )
    published_seconds, _ = seconds(
        lambda: [published_patch(model, pair, one, ids) for one in progress(ones[: max(2, sampled // 4)], "published")]
    )
    difference = np.abs(np.array(hooked) - corrupt - chosen["logit_diff"].to_numpy())
    per_patch = {
        "sweep": sweep_seconds / len(table),
        "hooked": hooked_seconds / len(ones),
        "published": published_seconds / max(2, sampled // 4),
    }
    found: dict[str, Any] = {
        "patches": len(table),
        "seconds": sweep_seconds,
        "operations": operations,
        "operations_per_second": operations / sweep_seconds,
        "matmul_operations_per_second": rate,
        "share_of_matmul_rate": operations / sweep_seconds / rate,
        "largest_difference_to_hooked": float(difference.max()),
        "largest_effect": float(table["logit_diff"].abs().max()),
        "memory_growth_bytes": max(0, peak_memory() - before),
    }
    if libraries:
        for name, (time_per_patch, values) in bench_libraries.run(model, pair, table, seconds).items():
            per_patch[name] = time_per_patch
            joined = table.merge(values, on=["layer", "head", "position"])
            found[f"largest_difference_to_{name}"] = float((joined["logit_diff"] - joined["value"]).abs().max())
    found["seconds_per_patch"] = per_patch
    found["times_faster_than"] = {
        name: value / per_patch["sweep"] for name, value in per_patch.items() if name != "sweep"
    }
    return found


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
    return "\n".join(lines)


@click.command()
@click.option(
    "--size", type=click.Choice(["small", "large", "all"]), default="all", help="Bundled model, or base size."
)
@click.option("--sampled", default=12, show_default=True, help="Patches timed for the hooked reference.")
@click.option("--out", type=click.Path(path_type=Path), default=DATA / "bench" / "patching.json")
def main(size: str, sampled: int, out: Path) -> None:
    """Run the benchmark, print its table and write it as JSON."""
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pair = noise_pair(folder)
        if size != "large":
            for name in bundled_models():
                results[name] = bench_model(load_model(name), pair, sampled * 4)
        if size != "small":
            results[LARGE] = bench_model(load_model(blip_vqa_base(folder)), pair, sampled)
    print(render(results))
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    write_json({"machine": machine, "models": results}, out)


if __name__ == "__main__":
    main()
