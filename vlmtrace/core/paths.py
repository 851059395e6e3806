"""The layout of the data folder, which no other module knows. VLMTRACE_HOME, if set, is where it lies."""

from __future__ import annotations

import os
from pathlib import Path

# Absolute, as kernels work in another folder than the command that starts them.
ROOT = Path(os.environ.get("VLMTRACE_HOME") or Path(__file__).resolve().parents[2]).expanduser().resolve()
DATA = ROOT / "data"
MODELS = DATA / "models"
RAW = DATA / "raw"
RUNS = DATA / "runs"


def relative(path: str | Path) -> str:
    """A path as tables hold it.

    Args:
        path: any path

    Returns:
        relative to the repository, with slashes, if it lies inside; absolute otherwise
    """
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()


def resolve(path: str | Path) -> Path:
    """A path of a table as one that can be opened.

    Args:
        path: relative to the repository, or absolute

    Returns:
        an absolute path
    """
    return Path(path) if Path(path).is_absolute() else ROOT / path


def find(path: str | Path) -> Path:
    """A path that a person gave or a table holds, as one that can be opened.

    Args:
        path: absolute, from ~, relative to the repository as in tables, or, where nothing is there, relative to the
            working folder as in a shell

    Returns:
        an absolute path
    """
    given = from_home(path)
    inside = ROOT / given
    try:
        return inside if given.is_absolute() or inside.exists() or not given.exists() else Path.cwd() / given
    except (OSError, ValueError):  # longer than a path can be, or with what none can hold
        return inside


def from_home(path: str | Path) -> Path:
    """A path with ~ in place of the user's folder written out.

    Args:
        path: any path

    Returns:
        the path; as it is where it begins with ~ and names nobody's folder

    >>> from_home("~nobody of this name/images").as_posix()
    '~nobody of this name/images'
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user, or no folder of the user's
        return Path(path)
