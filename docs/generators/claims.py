"""The table of `docs/claims.md`, from what `make claims` has written into docs/measured."""

from __future__ import annotations

from pathlib import Path

MEASURED = Path(__file__).resolve().parents[1] / "measured" / "claims.json"


def part(name: str) -> str:
    """The table, or the sentence of how much was measured."""
    from vlmtrace.benchmarks.claims import report

    return getattr(report, name)(report.Found(MEASURED))
