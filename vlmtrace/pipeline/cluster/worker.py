"""What a worker does with a part: it computes it, writes its file, and answers with a few words."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.progress import silent
from vlmtrace.pipeline.checkpoints import Checkpoints, package_digest
from vlmtrace.pipeline.cluster.job import Job, ModelName, find_function
from vlmtrace.pipeline.records import versions

if TYPE_CHECKING:
    import pandas as pd

    from vlmtrace.models.vlm import VLM

#: One part at a time in a process: its threads are torch's.
LOCK = threading.Lock()

#: Models that this process has loaded, one at a time: a GPU holds no second one.
MODELS: dict[ModelName, Any] = {}

#: Seconds that a shared file system may take to show a file that another machine wrote.
PATIENCE = 30.0


@dataclass(frozen=True)
class Receipt:
    """A worker's answer about a part.

    Attributes:
        outcome: "written"; "found", where the file was there already; "failed", where the function raised; "unfit",
            where this worker cannot compute any part; "stopped", where no worker can write one
        worker: which worker it is, for sentences
        reason: what went wrong; "": nothing
        address: of the worker
    """

    outcome: str
    worker: str
    reason: str = ""
    address: str = ""


class Unfit(Exception):
    """This worker cannot compute parts of the job, and another may."""


def compute_part(job: Job, rows: pd.DataFrame) -> Receipt:
    """Compute `function(model, rows, **options)` and write it where `Checkpoints` finds it.

    Args:
        job: the computation
        rows: the part's rows

    Returns:
        what became of it; exceptions are told in it, since not every exception survives a journey
    """
    with LOCK, silent():
        try:
            check_worker(job)
            parts = Checkpoints(Path(job.folder), job.key)
            if parts.get(rows) is not None:
                return receipt("found")
            use_threads()
            model = load(job.model)
        except Unfit as error:
            return receipt("unfit", str(error))
        try:
            table = find_function(job.module, job.function)(model, rows, **job.options)
        except Exception as error:
            free_memory(error)
            return receipt("failed", told(error))
        try:
            parts.put(rows, table)
        except (VlmtraceError, OSError) as error:
            return receipt("stopped", told(error))
        except Exception as error:  # among others: what parquet cannot hold
            return receipt("failed", told(error))
    return receipt("written")


def receipt(outcome: str, reason: str = "") -> Receipt:
    """This worker's answer."""
    worker = _worker()
    return Receipt(outcome, worker_name(), reason, worker.address if worker is not None else "")


def carry(job: Job) -> Job:
    """Hand a job from one worker to the next, where its options are too large to travel with every part."""
    return job


def check_worker(job: Job) -> None:
    """See whether this worker is like the notebook that asks.

    Raises:
        Unfit: it has another version of something, another home, or does not see the folder of the parts
    """
    mine, theirs = versions(), dict(job.versions)
    for name in theirs.keys() | mine.keys():
        if mine.get(name) != theirs.get(name):
            raise Unfit(
                f"it has {name} {mine.get(name)} and the notebook has {theirs.get(name)}: use one environment for both"
            )
    if package_code() != job.code:
        raise Unfit("its code of vlmtrace differs from the notebook's: use one checkout for both")
    if str(paths.ROOT) != job.home:
        raise Unfit(f"its VLMTRACE_HOME is {paths.ROOT}, not {job.home}: start workers with the notebook's")
    if not seen(Path(job.folder) / job.marker):
        raise Unfit(f"it does not see {job.folder}, where parts are kept: put VLMTRACE_HOME on a shared file system")


def seen(path: Path, patience: float | None = None) -> bool:
    """Whether a file is there, or appears within the time that shared file systems need."""
    until = time.monotonic() + (PATIENCE if patience is None else patience)
    while not path.is_file():
        if time.monotonic() > until:
            return False
        with suppress(OSError):
            os.listdir(path.parent)  # asks the server again, where a client remembers what was there
        time.sleep(0.2)
    return True


_CODE: list[str] = []


def package_code() -> str:
    """The digest of this package, as it was when this process first asked: that is the code that it runs."""
    if not _CODE:
        _CODE.append(package_digest())
    return _CODE[0]


def load(wanted: ModelName) -> VLM:
    """The model, loaded once for this process.

    Raises:
        Unfit: it cannot be loaded here, or it is another than the notebook's
    """
    if wanted in MODELS:
        return MODELS[wanted]
    MODELS.clear()
    from transformers.utils.logging import disable_progress_bar

    from vlmtrace.models.loading import load_model

    disable_progress_bar()
    try:
        options = dict(wanted.options)
        model = load_model(wanted.source, wanted.device, wanted.dtype, check=not wanted.checked, **options)
    except Exception as error:
        free_memory(error)
        raise Unfit(f"it cannot load {wanted.name} ({told(error)})") from error
    found = model.fingerprint()
    if found != wanted.fingerprint:
        raise Unfit(
            f"{wanted.name} has the weights {found} there and {wanted.fingerprint} in the notebook: load it anew, or "
            "save it under a name of its own"
        )
    model.name = wanted.name
    MODELS[wanted] = model
    return model


def use_threads() -> None:
    """Give torch this worker's share of the machine's cores."""
    import torch

    from vlmtrace.pipeline.cluster.start import THREADS

    threads = os.environ.get(THREADS) or _threads_of_dask()
    if threads and torch.get_num_threads() != int(threads):
        torch.set_num_threads(int(threads))


def _threads_of_dask() -> str:
    """Of a worker that somebody else started: as many as its own threads; "": leave them as they are."""
    worker = _worker()
    return "" if worker is None or worker.nanny is None else str(worker.state.nthreads)


def _worker() -> Any:
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:  # called by hand
        return None


def worker_name() -> str:
    """Which worker this is, as sentences name it."""
    worker = _worker()
    label = f"worker {worker.name}" if worker is not None else "this process"
    return f"{label} on {platform.node()} (process {os.getpid()})"


def told(error: BaseException) -> str:
    """An exception in one line, without the stop of a sentence."""
    line = " ".join(str(error).split())[:500].rstrip(".")
    return line if isinstance(error, VlmtraceError) else f"{type(error).__name__}: {line}".rstrip(": ")


def free_memory(error: BaseException) -> None:
    """Let go of what a failed computation held, so that the next part finds the memory free."""
    import gc
    import sys

    error.__traceback__ = None
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def marked(folder: Path, name: str) -> Iterator[None]:
    """Keep a file in a folder while a computation lasts, by which workers see that they share it."""
    from vlmtrace.core.files import make_folder, refusals_as_sentences

    path = make_folder(folder) / name
    with refusals_as_sentences(path):
        path.touch()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
