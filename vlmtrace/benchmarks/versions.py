"""Two versions of the package on one machine in one go: `python -m vlmtrace.benchmarks.bench --against PATH`.

Each version runs in a child process of its own, which holds one model at a time; both take turns, so that what slows
the machine down slows both. What is timed is the code of this folder, whichever package is below it (`version_child`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vlmtrace.benchmarks import measure
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.progress import progress

CHILD = Path(__file__).with_name("version_child.py")
HERE = CHILD.parents[2]

#: How often each version is timed.
TURNS = 3


class Child:
    """A process that runs the benchmark's rows on the package of one checkout."""

    def __init__(self, checkout: Path):
        """Start it.

        Args:
            checkout: a folder that holds the package

        Raises:
            VlmtraceError: it holds none, or its package cannot be imported
        """
        if not (checkout / "vlmtrace" / "__init__.py").is_file():
            raise VlmtraceError(f"There is no package vlmtrace in {checkout}: give the folder of another checkout.")
        self.checkout = checkout
        # The package that lies in the checkout comes before one that is installed; its own data are used.
        env = {name: value for name, value in os.environ.items() if name != "VLMTRACE_HOME"}
        env |= {"PYTHONPATH": str(checkout), "TQDM_DISABLE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(CHILD), str(checkout)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """Send a question and wait for its answer.

        Raises:
            VlmtraceError: the process has ended
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (OSError, ValueError) as error:
            raise VlmtraceError(f"The process that measures {self.checkout} has ended: see what it wrote.") from error

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def compare(before: Path, rows: list[str], folder: Path, after: Path = HERE, turns: int = TURNS) -> dict[str, Any]:
    """Time rows of the benchmark with two versions, in turns.

    Args:
        before: the other checkout
        rows: names of `version_child.ROWS`
        folder: where both find models and images, made once
        after: this checkout
        turns: how often

    Returns:
        by row: before_seconds, after_seconds, times_faster, largest_difference in logits between both (None: they have
        not the same patches), patches; of sweeps also before_share and after_share of the rate of a large matrix
        product, before_published and after_published (times faster than the published procedure); or, for a row that
        one version does not know, left_out: why

    Raises:
        VlmtraceError: a checkout holds no package, or a process ends
    """
    children: list[Child] = []
    try:
        for checkout in (before, after):
            children.append(Child(checkout.resolve()))
        return {row: _compare_row(row, children, folder, turns) for row in progress(rows, "two versions")}
    finally:
        for child in children:
            child.close()


def _compare_row(row: str, children: list[Child], folder: Path, turns: int) -> dict[str, Any]:
    sides = []
    for child in children:
        prepared = child.ask(do="prepare", row=row, folder=str(folder))
        if "unknown" in prepared:
            return {"left_out": f"{child.checkout.name}: {prepared['unknown']}"}
        sides.append(prepared)
    taken: list[list[dict[str, float]]] = [[], []]
    for _ in range(turns):
        for side, child in enumerate(children):
            taken[side].append(child.ask(do="turn"))
    numbers = [dict(_medians(turns_of_side, side)) for turns_of_side, side in zip(taken, sides, strict=True)]
    values = [np.array(side["values"]) for side in sides]
    found: dict[str, Any] = {"patches": sides[0]["patches"]}
    for name, one in zip(("before", "after"), numbers, strict=True):
        found |= {f"{name}_{key}": value for key, value in one.items()}
    found["times_faster"] = found["before_seconds"] / found["after_seconds"]
    same = values[0].shape == values[1].shape
    found["largest_difference"] = float(np.abs(values[0] - values[1]).max()) if same else None
    return found


def _medians(taken: list[dict[str, float]], prepared: dict[str, Any]) -> Iterator[tuple[str, float]]:
    median = {name: float(np.median([turn[name] for turn in taken])) for name in taken[0]}
    took = median["seconds"]
    yield "seconds", took
    if "operations" in prepared:
        rate = 2 * measure.MATMUL_SIZE**3 / median["matmul_seconds"]
        yield "share", prepared["operations"] / took / rate
        yield "published", median["published_seconds"] * prepared["patches"] / took
