"""Models that do not come with the project, but that one command makes where there is a connection."""

from __future__ import annotations

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError

#: Names of such models, and what makes each.
MADE_HERE = {"smol-llava": "make smol-llava, which fetches a package of 93 MB and takes a few minutes"} | {
    f"{world}-{name}": f"python -m vlmtrace.training.prior {world}-{name}, which trains a copy of {original}"
    for name, original in (
        ("blip", "tiny-blip for a few minutes"),
        ("llava", "tiny-llava for a few minutes"),
        ("smol-llava", "smol-llava (make smol-llava) for a quarter of an hour"),
    )
    for world in ("skewed", "even")
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
