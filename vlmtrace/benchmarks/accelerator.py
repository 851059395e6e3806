"""A 7B LLaVA on an accelerator, within eight minutes: `make bench DEVICE=cuda`.

Random weights of llava-1.5-7b's real size in bfloat16, made on the device. Measured: the rate of matrix products, all
heads of one pair at one position and at positions spread over the sequence, memory against its setting, halving after
the device has really run out of memory, and the differences from hooked passes in bfloat16 and, on a smaller model, in
float32. `--tiny` runs every line of it on a model that a CPU manages.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch

from vlmtrace.benchmarks import measure, rates
from vlmtrace.benchmarks.measure import count_operations, matmul_rate, seconds
from vlmtrace.benchmarks.random_models import in_memory, llava, noise_pairs
from vlmtrace.benchmarks.timed_steps import TimedSteps
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.patching.sweeps import patch_heads
from vlmtrace.models import VLM
from vlmtrace.models.sweep import reference
from vlmtrace.models.sweep.replay_check import tolerance
from vlmtrace.models.sweep.self_check import self_check

#: Seconds for everything.
TOTAL_SECONDS = 470.0

#: Where the heads of one position are: the option that the answer names.
ONE_POSITION = ["correct"]


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        large: sizes of the model in bfloat16
        small: sizes of the model in float32
        matmul_size: rows of the matrices of the product
        pairs: of noise; all of them are swept together once
        drawn: heads that are compared with hooked passes
        memory_gb: the setting that memory is held to
        image_size: pixels along a side
        patience: how many times as long as usual a step may take
        name: of the large model
    """

    large: dict[str, Any]
    small: dict[str, Any]
    matmul_size: int = 8192
    pairs: int = 8
    drawn: int = 8
    memory_gb: float = 4.0
    image_size: int = 336
    patience: float = 1.0
    name: str = "llava-1.5-7b's size, random weights"


#: llava-1.5-7b as its configuration has it: 24 layers of CLIP ViT-L/14 at 336 pixels, 32 of Llama 2.
VISION = dict(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, projection_dim=768
)
REAL = Plan(
    large=dict(
        layers=32,
        width=4096,
        heads=32,
        inner=11008,
        image_size=336,
        vocabulary=32064,
        longest=4096,
        vision=VISION,
    ),
    small=dict(layers=8, width=1024, heads=16, inner=2752, image_size=336, longest=4096, vision=VISION),
)

#: Every line of the benchmark in seconds on a CPU.
TINY = Plan(
    large=dict(layers=3, width=64, heads=4, inner=96, image_size=56),
    small=dict(layers=2, width=32, heads=2, inner=48, image_size=56),
    matmul_size=256,
    pairs=2,
    drawn=2,
    memory_gb=0.02,
    image_size=56,
    patience=20.0,
    name="a model for trying, random weights",
)


def bench_accelerator(device: torch.device, plan: Plan, folder: Path, total: float = TOTAL_SECONDS) -> dict[str, Any]:
    """Run all steps, each within its seconds.

    Args:
        device: of the model
        plan: what is run
        folder: where images are drawn
        total: seconds for everything

    Returns:
        machine, and steps: name, status, seconds, sentence, and what was found
    """
    steps = TimedSteps(device, total * plan.patience)

    def run(name: str, limit: float, work: Callable[[float], dict[str, Any]]) -> bool:
        return steps.run(name, limit * plan.patience, work)

    pairs = noise_pairs(folder, plan.pairs, plan.image_size)
    found = _Bench(device, plan, pairs)
    run("rate of matrix products", 20, found.products)
    if run("model made on the device, bfloat16", 60, found.make_large):
        # The most wanted first.
        run("all heads of one pair at one position", 60, found.one_position)
        run("memory held to its setting", 40, found.memory)
        run("halving after out of memory", 60, found.out_of_memory)
        run("differences from hooks, bfloat16", 60, found.parity_large)
        run(f"all heads of {plan.pairs} pairs at one position", 40, found.several_pairs)
        run("all heads of one pair at all positions", 90, found.all_positions)
    found.model = None
    if device.type == "cuda":
        torch.cuda.empty_cache()
    run("differences from hooks, float32, smaller model", 60, found.parity_small)
    return {"machine": measure.machine() | {"device": str(device)}, "steps": steps.records}


class _Bench:
    """The steps, and what later ones need of earlier ones."""

    def __init__(self, device: torch.device, plan: Plan, pairs: pd.DataFrame):
        self.device, self.plan, self.pairs, self.pair = device, plan, pairs, pairs.iloc[[0]]
        self.model: VLM | None = None
        self.rate: float | None = None
        self.table: pd.DataFrame | None = None

    @property
    def large(self) -> VLM:
        assert self.model is not None, "the model is made before"
        return self.model

    def sweep(self, positions: Any = ONE_POSITION, memory_gb: float | None = None, pairs: Any = None) -> pd.DataFrame:
        pairs = self.pair if pairs is None else pairs
        return patch_heads(
            self.large, pairs, modules=["self_attention"], positions=positions, memory_gb=memory_gb
        )  # fmt: skip

    def products(self, _seconds: float) -> dict[str, Any]:
        rates_found = {
            str(dtype).removeprefix("torch."): matmul_rate(self.device, dtype, self.plan.matmul_size)
            for dtype in (torch.bfloat16, torch.float32)
        }
        self.rate = rates_found["bfloat16"]
        return {"operations_per_second": rates_found}

    def make_large(self, _seconds: float) -> dict[str, Any]:
        self.model = in_memory(self.plan.name, *_made(self.plan.large, self.device, torch.bfloat16))
        parameters = sum(parameter.numel() for parameter in self.model.hf.parameters())
        return {"model": self.plan.name, "parameters": parameters, "positions": self._length()}

    def _length(self) -> int:
        return int(run_inputs(self.large, self.pair, "clean")["input_ids"].shape[1])

    def one_position(self, _seconds: float) -> dict[str, Any]:
        self.table = self.sweep()
        took = float(np.median([seconds(self.sweep, self.device)[0] for _ in range(3)]))
        operations = count_operations(self.sweep)
        found: dict[str, Any] = {
            "patches": len(self.table),
            "seconds_a_pair": took,
            "operations": operations,
            "operations_per_second": operations / took,
            "largest_effect": float(self.table["logit_diff"].abs().max()),
        }
        if self.rate is not None:
            found["share_of_matmul_rate"] = operations / took / self.rate
        return found

    def several_pairs(self, _seconds: float) -> dict[str, Any]:
        self.sweep(pairs=self.pairs)
        took, table = seconds(lambda: self.sweep(pairs=self.pairs), self.device)
        return {"patches": len(table), "seconds_a_pair": took / len(self.pairs)}

    def all_positions(self, allowed: float) -> dict[str, Any]:
        """As many positions as there is time for, spread evenly; the rest is reckoned from them."""
        length = self._length()
        positions = np.linspace(0, length - 1, 2).astype(int).tolist()
        took, table = seconds(lambda: self.sweep(positions), self.device)
        n = min(length, int(len(positions) * 0.7 * (allowed - took) / took))
        if n > len(positions):
            # The middles of n equal stretches: their mean is that of all.
            positions = ((np.arange(n) + 0.5) * length / n).astype(int).tolist()
            took, table = seconds(lambda: self.sweep(positions), self.device)
        return {
            "patches": len(table),
            "positions_done": len(positions),
            "positions": length,
            "seconds_spent": took,
            "seconds_a_pair": took * length / len(positions),
        }

    def memory(self, _seconds: float) -> dict[str, Any]:
        found = {}
        for memory_gb in (self.plan.memory_gb, self.plan.memory_gb / 4):
            peak = self._peak(lambda memory_gb=memory_gb: self.sweep(memory_gb=memory_gb))  # type: ignore[misc]
            found[f"{memory_gb:g}"] = peak / 2**30
        return {"peak_gb_by_memory_gb": found}

    def _peak(self, work: Callable[[], Any]) -> int:
        if self.device.type != "cuda":
            return measure.peak_memory(work)
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        work()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before

    def out_of_memory(self, _seconds: float) -> dict[str, Any]:
        """Allow half of what a sweep in one piece takes, and tell it that there is plenty."""
        plenty = 1024.0
        least = self._peak(lambda: self.sweep(memory_gb=1e-6))
        most = self._peak(lambda: self.sweep(memory_gb=plenty))
        expected = self.sweep(memory_gb=plenty)
        allowed = least + (most - least) // 2
        with limited_memory(self.large, allowed, len(expected)), _counted_halvings() as halvings:
            table = self.sweep(memory_gb=plenty)
        if not halvings:
            raise VlmtraceError(f"The sweep did not run out of memory with {allowed / 2**30:.2f} GB.")
        difference = float((table["logit_diff"] - expected["logit_diff"]).abs().max())
        return {
            "halvings": len(halvings),
            "allowed_gb": allowed / 2**30,
            "in_one_piece_gb": most / 2**30,
            "largest_difference": difference,
        }

    def parity_large(self, _seconds: float) -> dict[str, Any]:
        return self._parity(self.large)

    def parity_small(self, _seconds: float) -> dict[str, Any]:
        model = in_memory("smaller llava (random weights)", *_made(self.plan.small, self.device, torch.float32))
        return self._parity(model)

    def _parity(self, model: VLM) -> dict[str, Any]:
        """The check when a model loads; drawn heads at one position; one drawn site of every block and module."""
        self_check(model)
        table = patch_heads(model, self.pair, modules=["self_attention"], positions=ONE_POSITION)
        ids = model.answer_ids(self.pair["correct_answer"], self.pair["incorrect_answer"])
        inputs = run_inputs(model, self.pair, "image")
        clean, corrupt = model.trace(run_inputs(model, self.pair, "clean")), model.trace(inputs)
        base = float(corrupt.logits[0, ids[0, 0]] - corrupt.logits[0, ids[0, 1]])
        worst = 0.0
        for row in table.sample(min(self.plan.drawn, len(table)), random_state=0).to_dict("records"):
            slow = reference.sweep(model, clean, inputs, rates.one_patch(model, row), ids).logit_diff.item() - base
            worst = max(worst, abs(slow - row["logit_diff"]))
        return {
            "dtype": str(model.dtype).removeprefix("torch."),
            "largest_difference_of_heads": worst,
            "largest_difference_of_modules": rates.largest_difference(model, self.pair, drawn=1),
            "largest_effect": float(table["logit_diff"].abs().max()),
            "allowed_difference": tolerance(model, corrupt.logits),
        }


def _made(sizes: dict[str, Any], device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    return llava(**sizes, device=device, dtype=dtype)


@contextlib.contextmanager
def limited_memory(model: VLM, allowed: int, patches: int) -> Iterator[None]:
    """While this is entered, the process may take `allowed` bytes more on its device.

    A CPU has no such limit: there a readout of more than half of the patches counts as out of memory.
    """
    device = model.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        of_all = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + allowed) / of_all, device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return

    def refuse(_module: Any, args: tuple) -> None:
        # A sweep reads (pair, state, position, width) out, a run (pair, position, width).
        if args[0].ndim == 4 and args[0].shape[1] > max(1, patches // 2):
            raise torch.OutOfMemoryError("more than half of the patches at once")

    handle = model.final_norm.register_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _counted_halvings() -> Iterator[list[int]]:
    """While this is entered, a list grows with every time that a sweep frees memory to go on with half of it."""
    halvings: list[int] = []
    free = torch.cuda.empty_cache

    def counted() -> None:
        halvings.append(1)
        free()

    with mock.patch.object(torch.cuda, "empty_cache", counted):
        yield halvings
