"""The tables of `docs/circuit_benchmark.md`, from what `make circuit-benchmark` has written into docs/measured."""

from __future__ import annotations

from pathlib import Path

MEASURED = Path(__file__).resolve().parents[1] / "measured" / "circuit_benchmark.json"


def part(name: str) -> str:
    """One of the tables, or the sentence of how much was measured."""
    from vlmtrace.benchmarks.circuits import report

    return getattr(report, name)(report.Found(MEASURED))
