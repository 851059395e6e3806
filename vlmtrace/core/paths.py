"""Where things are. The only place that knows the layout of the data folder."""

import os
from pathlib import Path

ROOT = Path(os.environ.get("VLMTRACE_HOME") or Path(__file__).resolve().parents[2])
DATA = ROOT / "data"
MODELS = DATA / "models"
RAW = DATA / "raw"
RUNS = DATA / "runs"


def relative(path: str | Path) -> str:
    """Write a path for a table: relative to the repository (posix) where it lies inside, absolute otherwise."""
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()


def resolve(path: str | Path) -> Path:
    """Read a path of a table: relative paths start at the repository."""
    return Path(path) if Path(path).is_absolute() else ROOT / path
