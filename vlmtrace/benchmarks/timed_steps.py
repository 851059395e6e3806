"""Steps with a time budget each: one that takes too long is broken off with a sentence, and the next one begins."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import torch

from vlmtrace.benchmarks.measure import wait_for
from vlmtrace.core.errors import VlmtraceError

#: A step that has less time than this is not begun.
LEAST_SECONDS = 2.0


class _TooLong(Exception):
    """A step's seconds are over."""


class TimedSteps:
    """A run of several steps within so many seconds; works in the main thread, on systems with alarms.

    Attributes:
        records: one per step: name, status ("done", "skipped" or "failed"), seconds, sentence, and what it found
    """

    def __init__(self, device: torch.device, total: float):
        """Begin to count.

        Args:
            device: that is waited for at the end of a step
            total: seconds for all steps
        """
        self.device, self.total, self.started = device, total, time.monotonic()
        self.records: list[dict[str, Any]] = []

    @property
    def left(self) -> float:
        """Seconds that are left for all steps to come."""
        return self.total - (time.monotonic() - self.started)

    def run(self, name: str, limit: float, work: Callable[[float], dict[str, Any]]) -> bool:
        """Run one step.

        Args:
            name: for the table
            limit: its seconds; less if less is left of the whole
            work: from the seconds that it has to what it found

        Returns:
            whether it was done
        """
        allowed = min(limit, self.left)
        record: dict[str, Any] = {"name": name, "status": "done", "sentence": ""}
        self.records.append(record)
        if allowed < LEAST_SECONDS:
            record |= {"status": "skipped", "seconds": 0.0, "sentence": f"no time is left of {self.total:.0f} s"}
            return False

        def stop(*_: Any) -> None:
            raise _TooLong

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, allowed)
        began = time.monotonic()
        try:
            record |= work(allowed)
            wait_for(self.device)
        except _TooLong:
            record |= {"status": "skipped", "sentence": f"it took longer than its {allowed:.0f} s"}
        except (VlmtraceError, torch.OutOfMemoryError) as error:
            record |= {"status": "failed", "sentence": str(error).splitlines()[0]}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        record["seconds"] = time.monotonic() - began
        return record["status"] == "done"
