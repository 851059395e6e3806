"""Python's collector of garbage, paused while much is imported."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def paused_collection() -> Iterator[None]:
    """Within it, no garbage is looked for.

    torch and transformers make half a million objects as they are imported, and none of them is garbage; the collector
    looks at all of them again and again, a quarter of the time that importing takes.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
