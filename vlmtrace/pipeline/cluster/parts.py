"""How the parts of a computation reach the workers, and what becomes of those that fail."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.progress import say
from vlmtrace.pipeline.checkpoints import Checkpoints
from vlmtrace.pipeline.cluster import worker
from vlmtrace.pipeline.cluster.job import Job, name_job
from vlmtrace.pipeline.cluster.worker import Receipt, compute_part, marked
from vlmtrace.pipeline.cluster.worker import carry as carry_job

if TYPE_CHECKING:
    import pandas as pd

    from vlmtrace.models.vlm import VLM
    from vlmtrace.pipeline.cluster.connection import Connection

#: A part whose function raises goes to another worker; the third time sets it aside.
TRIES = 3

#: So many parts set aside and none finished: the fault is of all, and the rest is not tried.
HOPELESS = 3

#: Parts that the scheduler knows of at a time: enough for thousands of workers, and little memory for millions.
WINDOW = 2048

#: Parts in one message to the scheduler: few, so that workers begin while the next ones are still looked for.
AT_ONCE = 32

#: Bytes of options above which they travel to a worker once, not with each part.
LARGE = 50_000

#: What stands behind every sentence about a run that stops.
KEPT = "What is finished is kept, and the same command continues there."


def compute_parts(
    connection: Connection,
    parts: Checkpoints,
    function: Callable[..., pd.DataFrame],
    model: VLM,
    options: Mapping[str, Any],
    code: str,
    pieces: Sequence[pd.DataFrame],
) -> Generator[tuple[int, pd.DataFrame, bool], None, None]:
    """Compute the parts that are missing on the workers of a cluster.

    Args:
        connection: to the cluster
        parts: where the workers put them
        function: from a model, rows and options to a table
        model: its first argument, which each worker loads by its name
        options: its further arguments
        code: the digest of this package
        pieces: the rows of every part; workers compute the first that are missing while it is seen which others are

    Yields:
        the number of each part as it is found or finished, its table, and whether it was found

    Raises:
        VlmtraceError: some parts failed (all others are finished), or nothing can go on
    """
    marker = f".workers-{secrets.token_hex(6)}"
    job = name_job(function, model, connection.device, options, parts, code, marker)
    with marked(parts.folder, marker):
        yield from _Run(connection, parts, job, pieces).results()


class _Run:
    """The state of one call of `compute_parts`."""

    def __init__(self, connection: Connection, parts: Checkpoints, job: Job, pieces: Sequence[pd.DataFrame]):
        self.connection, self.client = connection, connection.client
        self.parts, self.job, self.pieces = parts, job, pieces
        self.next = 0
        self.missing = 0
        self.flying: dict[Any, int] = {}
        self.failures: dict[int, list[Receipt]] = {}
        self.aside: dict[int, str] = {}
        self.refused: dict[str, str] = {}
        self.finished = 0
        self.token = secrets.token_hex(4)
        self.sent = 0

    def results(self) -> Iterator[tuple[int, pd.DataFrame, bool]]:
        from distributed import as_completed

        with self._scheduler_is_there():
            self.completed = as_completed(loop=self.client.loop, with_results=True, raise_errors=False)
            self.payload = self._payload()
        try:
            yield from self._fill()
            while self.flying:
                for future, result in self._batch():
                    index = self.flying.pop(future)
                    with self._scheduler_is_there():
                        done = self._take(index, future.status, result)
                    if done:
                        self.finished += 1
                        yield index, self._table(index), False
                yield from self._fill()
        finally:
            self._leave()
        if self.aside:
            raise VlmtraceError(self._sentence())

    # To the workers -----------------------------------------------------------

    def _payload(self) -> Any:
        """The job, or, where its options are large, the future of a task that carries it from worker to worker."""
        from dask.sizeof import sizeof

        if sizeof(dict(self.job.options)) <= LARGE:
            return self.job
        return self.client.submit(carry_job, self.job, key=f"options-{self.token}", pure=False)

    def _fill(self) -> Iterator[tuple[int, pd.DataFrame, bool]]:
        """Hand on as many missing parts as the scheduler is to know of, and yield those that are found on the way."""
        missing: list[int] = []
        while self.next < len(self.pieces) and len(self.flying) < WINDOW:
            index, self.next = self.next, self.next + 1
            if (table := self.parts.get(self.pieces[index])) is not None:
                yield index, table, True
                continue
            missing.append(index)
            if len(missing) == AT_ONCE:
                self._hand_on(missing)
                missing = []
        self._hand_on(missing)

    def _hand_on(self, indices: list[int]) -> None:
        if indices:
            self.missing += len(indices)
            with self._scheduler_is_there():
                self._submit(indices)

    def _submit(self, indices: list[int], **options: Any) -> None:
        keys = []
        for _ in indices:
            self.sent += 1
            keys.append(f"{self.job.function}-{self.token}{self.sent:08x}")
        rows = [self.pieces[index] for index in indices]
        futures = self.client.map(compute_part, [self.payload] * len(rows), rows, key=keys, pure=False, **options)
        self.flying.update(zip(futures, indices, strict=True))
        self.completed.update(futures)

    # From the workers ---------------------------------------------------------

    def _batch(self) -> list[tuple[Any, Any]]:
        """What has been finished since; waits until there is something."""
        since, said = time.monotonic(), not self.connection.wait
        while True:
            batch = self.completed.next_batch(block=False)
            if batch:
                return batch
            with self.completed.thread_condition:
                self.completed.thread_condition.wait(0.1)
            if not said and time.monotonic() - since > self.connection.wait:
                said = True
                self._say_whether_workers_are_there()

    def _say_whether_workers_are_there(self) -> None:
        with contextlib.suppress(Exception):  # a scheduler that is gone is said elsewhere
            if not self.client.nthreads():
                say(f"{self.connection.where} has no worker: {len(self.flying)} parts wait for one. It keeps waiting.")

    def _take(self, index: int, status: str, result: Any) -> bool:
        """See what became of a part; say whether it is finished."""
        if status == "error":
            self._raised(index, result[1])
            return False
        if status != "finished":
            raise VlmtraceError(f"The scheduler of {self.connection.where} has gone away. {KEPT}")
        receipt: Receipt = result
        if receipt.outcome in ("written", "found"):
            return True
        if receipt.outcome == "stopped":
            raise VlmtraceError(f"{receipt.worker}: {receipt.reason}. {KEPT}")
        if receipt.outcome == "unfit":
            self._refuse(receipt)
            self._submit([index])
            return False
        self._failed(index, receipt)
        return False

    def _raised(self, index: int, error: BaseException) -> None:
        """A part whose worker died, or could not even begin."""
        from distributed import KilledWorker

        if isinstance(error, KilledWorker):
            from vlmtrace.pipeline.cluster.start import DEATHS

            last = getattr(error.last_worker, "address", error.last_worker)
            many = "Several" if "://" in self.connection.where else DEATHS  # another's scheduler has its own limit
            self._set_aside(
                index,
                f"{many} workers that computed it died, the last at {last}: memory ran out, or their time was up",
            )
            return
        reason = worker.told(error)
        if isinstance(error, ImportError):
            raise VlmtraceError(
                f"The workers of {self.connection.where} lack something that the notebook has ({reason}): use one "
                f"environment for both. {KEPT}"
            ) from error
        self._failed(index, Receipt("failed", "a worker", reason))

    def _failed(self, index: int, receipt: Receipt) -> None:
        """A part whose function raised goes to another worker, or aside."""
        tries = self.failures.setdefault(index, [])
        tries.append(receipt)
        if len(tries) >= TRIES:
            self._set_aside(index, f"{receipt.reason} (tried {TRIES} times, at last by {receipt.worker})")
            return
        been = {receipt.address for receipt in tries}
        others = [address for address in self.client.nthreads() if address not in been]
        self._submit([index], **({"workers": others, "allow_other_workers": True} if others else {}))

    def _set_aside(self, index: int, reason: str) -> None:
        self.aside[index] = reason
        if len(self.aside) >= HOPELESS and not self.finished:
            raise VlmtraceError(self._sentence("No part could be computed, so that the rest was not tried. "))

    def _refuse(self, receipt: Receipt) -> None:
        """A worker that cannot compute any part leaves; where none is left, its reason is everybody's."""
        self.refused[receipt.address] = receipt.reason
        with contextlib.suppress(Exception):  # gone already
            self.client.retire_workers([receipt.address], close_workers=True)
        left = [address for address in self.client.nthreads() if address not in self.refused]
        if not left and len(self.refused) >= self.connection.refusals:
            raise VlmtraceError(
                f"No worker of {self.connection.where} can compute {self.job.function}; {receipt.worker}: "
                f"{receipt.reason}. {KEPT}"
            )

    def _table(self, index: int) -> pd.DataFrame:
        """A part's table, once this machine sees the file that a worker wrote."""
        until = time.monotonic() + worker.PATIENCE
        while True:
            table = self.parts.get(self.pieces[index])
            if table is not None:
                return table
            if time.monotonic() > until:
                raise VlmtraceError(
                    f"A worker of {self.connection.where} has written a part into {self.parts.folder}, and it cannot "
                    "be seen here, or an image has changed meanwhile: put VLMTRACE_HOME on a file system that all "
                    "machines share."
                )
            worker.seen(Path(self.parts.folder) / "asked again", patience=0.2)

    # The end ------------------------------------------------------------------

    def _leave(self) -> None:
        """Let the scheduler forget what is not finished."""
        with contextlib.suppress(Exception):
            if self.flying:
                self.client.cancel(list(self.flying), reason="vlmtrace", msg="the notebook asks no more")
        self.completed.clear()
        self.flying.clear()
        self.payload = None

    @contextlib.contextmanager
    def _scheduler_is_there(self) -> Iterator[None]:
        """Turn what dask raises when its scheduler is gone into a sentence."""
        try:
            yield
        except VlmtraceError:
            raise
        except Exception as error:
            raise VlmtraceError(
                f"The scheduler of {self.connection.where} cannot be reached ({worker.told(error)}). {KEPT}"
            ) from error

    def _sentence(self, beginning: str = "") -> str:
        shown = [f"{name_rows(self.pieces[index])}: {reason}" for index, reason in list(self.aside.items())[:3]]
        more = f"; and {len(self.aside) - 3} more" if len(self.aside) > 3 else ""
        return (
            f"{beginning}{len(self.aside)} of {self.missing} parts of {self.job.function} were set aside: "
            f"{'; '.join(shown)}{more}. The others are kept; correct what is wrong, and the same command computes what "
            "is missing."
        )


def name_rows(rows: pd.DataFrame) -> str:
    """Which pairs a part is of, for sentences."""
    if "sample_id" not in rows or not len(rows):
        return f"{len(rows)} pairs"
    first, last = str(rows["sample_id"].iloc[0])[:60], str(rows["sample_id"].iloc[-1])[:60]
    return first if len(rows) == 1 else f"{first} to {last} ({len(rows)} pairs)"
