"""Memory that the C library keeps of what was freed, given back to the system."""

from __future__ import annotations

import ctypes
import functools
import math
import time
from collections.abc import Callable

#: Seconds: giving back takes some hundredths of one, and the pages are asked for again.
EVERY = 3.0

_last = -math.inf


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # only the GNU C library has it
        return None


def give_back_memory() -> None:
    """Give the system what lies free between the blocks of the heap, every `EVERY` seconds at most.

    Nothing is done where the C library is not GNU's. Tensors of some megabytes come and go in sizes that differ from
    chunk to chunk, and what is freed between blocks that stay is kept by the process: more than half a gigabyte in a
    sweep over heads of a model of 136 million parameters.

    >>> give_back_memory()
    """
    global _last
    trim, now = _malloc_trim(), time.monotonic()
    if trim is not None and now - _last >= EVERY:
        trim(0)
        _last = now
