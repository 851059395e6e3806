"""What is freed between blocks that stay goes back to the system."""

import math
import platform

import psutil
import pytest

from vlmtrace.core import heap
from vlmtrace.core.progress import progress

SOME = 200 * 2**20


@pytest.fixture
def trimmed(monkeypatch):
    """The seconds at which memory was given back, by a clock that is set by hand."""
    times, clock = [], {"now": 0.0}
    monkeypatch.setattr(heap, "_malloc_trim", lambda: lambda _: times.append(clock["now"]))
    monkeypatch.setattr(heap.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(heap, "_last", -math.inf)
    return times, clock


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library can be told to")
def test_memory_between_blocks_that_stay_is_given_back(monkeypatch):
    held = psutil.Process().memory_info
    blocks = [bytearray(b"x") * 2**16 for _ in range(2 * SOME // 2**16)]
    full = held().rss
    del blocks[::2]
    monkeypatch.setattr(heap, "_last", -math.inf)
    heap.give_back_memory()
    assert full - held().rss > SOME / 2, "what was freed is still held"
    assert len(blocks) * 2**16 == SOME


def test_it_is_given_back_every_few_seconds_at_most(trimmed):
    times, clock = trimmed
    for clock["now"] in (0, 1, 2, 3, 5.5, 6.5):
        heap.give_back_memory()
    assert times == [0, 3, 6.5]


def test_long_loops_give_it_back(trimmed):
    times, clock = trimmed
    for clock["now"] in progress([0, 1, 10], "a loop"):
        pass
    assert times == [0, 10]


def test_without_the_gnu_c_library_nothing_is_done(monkeypatch):
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: object())
    heap._malloc_trim.cache_clear()
    heap.give_back_memory()
    assert heap._malloc_trim() is None
    heap._malloc_trim.cache_clear()
