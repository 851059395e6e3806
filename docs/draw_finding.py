"""Draw the README's figure from a run: python docs/draw_finding.py [RUN], after `make all`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402

from vlmtrace import plots  # noqa: E402
from vlmtrace.methods.circuits import circuit_verdicts, faithfulness_summary  # noqa: E402
from vlmtrace.pipeline import open_run  # noqa: E402

TASK, CORRUPTION = "rendered_states", "image"


def chosen(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the task and corruption that the README tells about."""
    return table[(table["task"] == TASK) & (table["corruption"] == CORRUPTION)]


def main() -> None:
    """Draw the curves, and print the numbers that the README quotes."""
    run = open_run(sys.argv[1] if len(sys.argv) > 1 else "default")
    heads, curves = chosen(run.table("heads")), chosen(run.table("faithfulness"))
    plots.faithfulness_curves(curves, run="frozen").savefig(ROOT / "docs" / "images" / "finding.png", dpi=200)
    print(heads[heads["is_important"]].groupby("module").size().to_string())
    print(circuit_verdicts(heads, curves, chosen(run.table("circuit_subsets"))).round(2).T.to_string())
    print(faithfulness_summary(curves).round(2).T.to_string())


if __name__ == "__main__":
    main()
