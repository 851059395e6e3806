"""The tables of `docs/speed.md`, from what `make bench` has written.

The figures lie in `docs/measured`, as the command wrote them: bench.json, versions.json (with --against) and
accelerator.json (with DEVICE=cuda).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).resolve().parents[1] / "measured"


def figures(name: str) -> dict[str, Any] | None:
    """What a file of figures holds; None: it has not been measured."""
    path = MEASURED / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def machine() -> str:
    """On what the figures of the CPU were measured."""
    found = figures("bench")
    if found is None:
        return "Not measured yet."
    what = found["machine"]
    return f"Measured with {what['threads']} threads, torch {what['torch']}, in float32."


def part(name: str) -> str:
    """The table of one part of `make bench`."""
    from vlmtrace.benchmarks.tables import PARTS

    found = figures("bench")
    if found is None or name not in found:
        return "Not measured yet."
    return PARTS[name][1](found[name])  # type: ignore[operator]


def versions() -> str:
    """The table of two versions."""
    from vlmtrace.benchmarks.tables import versions_table

    found = figures("versions")
    return "Not measured yet." if found is None else versions_table(found["versions"])


def accelerator() -> str:
    """The table of an accelerator."""
    from vlmtrace.benchmarks.tables import accelerator_table

    found = figures("accelerator")
    if found is None:
        return "No such figures are claimed here: the command is ready, and has been run on a CPU only (`--tiny`)."
    card = found["machine"].get("card", found["machine"]["device"])
    return f"On one {card}:\n\n{accelerator_table(found)}"
