"""What every part of the benchmark measures with: seconds, floating-point operations, matrix products, memory."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

#: Rows and columns of the matrices whose product tells what the machine can do.
MATMUL_SIZE = 4096


def wait_for(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], Any], device: torch.device | None = None) -> tuple[float, Any]:
    """Seconds that some work takes, and its result.

    Args:
        work: what is timed
        device: which it runs on; None: the CPU
    """
    device = device or torch.device("cpu")
    gc.collect()
    wait_for(device)
    start = time.perf_counter()
    result = work()
    wait_for(device)
    return time.perf_counter() - start, result


def matmul_seconds(size: int | None = None) -> float:
    """Seconds of a large float32 matrix product on the CPU, by the fastest way that torch has there.

    torch's own product goes to MKL, which on many AMD processors takes twice as long as the oneDNN that comes with
    torch; a share of a rate that can be doubled would say little.
    """
    size = size or MATMUL_SIZE
    a, b = torch.randn(size, size), torch.randn(size, size)
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
    ways: list[Callable[[], Tensor]] = [lambda: a @ b]
    if onednn is not None:
        ways.append(lambda: onednn(a, b, None, "none", [], ""))
    with torch.no_grad():
        return min(seconds(way)[0] for way in ways)


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int, repeats: int = 20) -> float:
    """Operations per second of products of large square matrices on a device, the best of three rounds."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = a @ b

    def round_of_products() -> None:
        for _ in range(repeats):
            torch.mm(a, b, out=out)

    round_of_products()
    best = min(seconds(round_of_products, device)[0] for _ in range(3))
    return 2 * size**3 * repeats / best


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


def peak_memory(work: Callable[[], Any]) -> int:
    """The most bytes of tensors on the CPU that live at once while `work` runs, beside those that lived before."""
    with _quiet_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    found = recorded.profiler
    assert found is not None and found.kineto_results is not None
    changes = [event for event in found.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())]
    return int(max(np.cumsum(sizes), default=0))


@contextlib.contextmanager
def _quiet_profiler() -> Iterator[None]:
    """While this is entered, nothing is written to the process's standard error by what is no Python.

    torch's profiler tells there that it starts and stops, and a notebook would show it.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    found = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        found["card"] = torch.cuda.get_device_name()
    return found
