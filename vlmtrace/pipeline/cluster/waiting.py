"""What is said while no worker is there, and how many there should be."""

from __future__ import annotations

import time
from typing import Any

from vlmtrace.core.progress import say

#: States of dask's tasks that still need a worker.
UNFINISHED = ("waiting", "queued", "no-worker", "processing")

#: Seconds between two looks.
INTERVAL = 1.0


def parts_left(scheduler: Any) -> int:
    """How many parts have not been computed yet."""
    return sum(group.states[state] for group in scheduler.task_groups.values() for state in UNFINISHED)


class Waiting:
    """Says that parts wait and no worker is there, once each time that this lasts.

    Args:
        cluster: dask's
        seconds: after which it is said
        where: what becomes of the workers that were asked for, as the end of a sentence
    """

    def __init__(self, cluster: Any, seconds: int, where: str):
        self.cluster, self.seconds, self.where = cluster, seconds, where
        self.since: float | None = None
        self.said = False
        self.clock: Any = None

    def start(self) -> None:
        """Begin to look, on the cluster's own thread."""
        from tornado.ioloop import PeriodicCallback

        self.clock = PeriodicCallback(self.look, INTERVAL * 1000)
        self.cluster.loop.add_callback(self.clock.start)

    def stop(self) -> None:
        """Look no more."""
        if self.clock is not None:
            self.cluster.loop.add_callback(self.clock.stop)
            self.clock = None

    def look(self) -> None:
        """See whether parts wait for workers, and say so when it lasts."""
        scheduler = self.cluster.scheduler
        if scheduler.workers or not parts_left(scheduler):
            if self.said and scheduler.workers:
                say("A worker has come: it goes on.")
            self.since, self.said = None, False
            return
        now = time.monotonic()
        self.since = now if self.since is None else self.since
        if now - self.since >= self.seconds and not self.said:
            self.said = True
            pending = len(self.cluster.requested)
            say(
                f"{parts_left(scheduler)} parts wait, and no worker has come for {self.seconds} s: {pending} "
                f"{self.where}. It keeps waiting; Ctrl-C ends it, and what is finished is kept."
            )
