"""Jobs of Slurm that have ended while dask still counts on them, and what becomes of them."""

from __future__ import annotations

import asyncio
import getpass
import time
from pathlib import Path
from typing import Any

from vlmtrace.core.progress import say

#: Seconds between two looks at the queue, and between two where jobs end before their worker comes.
INTERVAL, AFTER_FAILURES = 5.0, 60.0

#: So many jobs in a row that end before their worker comes are no accident.
FAILURES = 3


class LostJobs:
    """Forgets jobs that are over, so that others are asked for.

    dask-jobqueue submits a job and waits for its worker. A job that is cancelled while it is pending, or fails in its
    prologue, or whose node dies before the worker comes, would be waited for without end.

    Args:
        cluster: dask-jobqueue's
        logs: the folder of the jobs' output, for a sentence
    """

    def __init__(self, cluster: Any, logs: Path):
        self.cluster, self.logs = cluster, logs
        self.next = 0.0
        self.came: set[str] = set()
        self.failures = 0
        self.said = False

    async def look(self) -> None:
        """Compare what dask counts on with Slurm's queue, from time to time."""
        now = time.monotonic()
        there = {state.name for state in self.cluster.scheduler.workers.values()}
        if there - self.came:
            self.failures, self.said = 0, False
        self.came |= there
        if now < self.next:
            return
        self.next = now + INTERVAL
        # Before the queue is asked, so that a job that is submitted meanwhile is not missed in it.
        asked = {name: job.job_id for name, job in self.cluster.workers.items() if name not in there}
        queue = await jobs_in_queue() if asked else None
        if queue is None:
            return
        there = {state.name for state in self.cluster.scheduler.workers.values()}
        for name in [name for name, number in asked.items() if number not in queue and name not in there]:
            self.cluster.worker_spec.pop(name, None)
            self.cluster.workers.pop(name, None)
            self.failures += name not in self.came
        if self.failures >= FAILURES:
            self.next = now + AFTER_FAILURES
            if not self.said:
                self.said = True
                say(
                    f"{self.failures} jobs of Slurm ended before their worker came: the newest file in {self.logs} may "
                    "say why. Others are asked for; Ctrl-C ends it, and what is finished is kept."
                )


async def jobs_in_queue() -> set[str] | None:
    """The numbers of this user's jobs that wait, run or are ending; None: Slurm does not answer."""
    try:
        asked = await asyncio.create_subprocess_exec(
            "squeue", "--noheader", "--format=%A", f"--user={getpass.getuser()}",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        output, _ = await asked.communicate()
    except (OSError, KeyError):  # no such command any more, or a user without a name
        return None
    return set(output.decode().split()) if asked.returncode == 0 else None
