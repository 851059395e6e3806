"""The processes of a cluster: on this machine, or as jobs of Slurm."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from typing import Any

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.cluster.credentials import Credentials, new_credentials
from vlmtrace.pipeline.cluster.options import Options, Where
from vlmtrace.pipeline.cluster.slurm import slurm_cluster
from vlmtrace.pipeline.cluster.waiting import Waiting

#: A part whose worker dies goes to another; the third death sets it aside (dask counts those that it allows).
DEATHS = 3

#: What a worker must not do by itself: move results to disk, take no part because a model fills its memory,
#: or look a hundred times a second at what it computes.
NOT_BY_ITSELF = {
    f"DASK_DISTRIBUTED__WORKER__{name}": "False"
    for name in ("MEMORY__TARGET", "MEMORY__SPILL", "MEMORY__PAUSE", "PROFILE__ENABLED")
}

#: Under this name a worker is told how many threads torch may use.
THREADS = "VLMTRACE_WORKER_THREADS"


class Cluster:
    """A scheduler in this process, and its workers.

    Attributes:
        inner: dask's cluster
        credentials: of its members
        waiting: says so while no worker comes
        dashboard: the address of the web page; "": there is none
    """

    def __init__(self, inner: Any, credentials: Credentials, waiting: Waiting, dashboard: bool):
        self.inner, self.credentials, self.waiting = inner, credentials, waiting
        self.dashboard = str(inner.dashboard_link) if dashboard else ""

    @property
    def address(self) -> str:
        """Of the scheduler."""
        return self.inner.scheduler_address

    def close(self) -> None:
        """End the workers, or their jobs, and the scheduler."""
        self.waiting.stop()
        with contextlib.suppress(Exception):  # whatever else fails while it ends, the files are removed
            self.inner.close(timeout=30)
        self.credentials.remove()


def start_cluster(where: Where, options: Options, device: str = "") -> Cluster:
    """Start a cluster; its workers arrive later.

    Args:
        where: this machine or Slurm
        options: of the cluster
        device: that the model is on, where this is known: on CUDA a local worker needs a GPU of its own

    Raises:
        VlmtraceError: the cluster cannot be started
    """
    import dask

    before = dict(os.environ)
    settings = {
        "distributed.scheduler.allowed-failures": DEATHS - 1,
        "distributed.nanny.pre-spawn-environ": {},
        "distributed.comm.retry.count": 3,
        "distributed.scheduler.worker-saturation": 1.0,
    }
    credentials = new_credentials(shared=where.kind == "slurm")
    try:
        hush()
        with dask.config.set(settings), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dask says that the dashboard's port is taken, and takes the next
            if where.kind == "local":
                inner = _local(where.workers, options, credentials, options.device or device)
            else:
                scheduler = _scheduler(options, credentials.security(), None, options.interface)
                inner = slurm_cluster(options, credentials, scheduler, worker_environment(options.cores))
    except BaseException as error:
        credentials.remove()
        if isinstance(error, VlmtraceError) or not isinstance(error, Exception):
            raise
        line = " ".join(str(error).split())[:300] or type(error).__name__
        raise VlmtraceError(f"The cluster {where.kind} cannot be started ({line}): correct CLUSTER_CONFIG.") from error
    finally:
        for name in os.environ.keys() - before.keys():  # dask's own, for the processes that it starts
            del os.environ[name]
    waiting = Waiting(inner, options.wait, _queue_of(where))
    waiting.start()
    return Cluster(inner, credentials, waiting, options.dashboard != "no")


def hush() -> None:
    """Keep what dask says to its log out of the terminal: what matters is said in sentences."""
    for part in ("", ".client", ".nanny", ".worker", ".scheduler", ".comm", ".deploy.adaptive"):
        logging.getLogger(f"distributed{part}").setLevel(logging.CRITICAL)
    logging.getLogger("tornado.application").addFilter(_is_no_lost_connection)


def _is_no_lost_connection(record: logging.LogRecord) -> bool:
    """Whether a record is not of a task of dask's client that ended since the scheduler has gone away."""
    from distributed.comm import CommClosedError

    return not (record.exc_info and isinstance(record.exc_info[1], CommClosedError))


def _queue_of(where: Where) -> str:
    return "jobs are pending in Slurm's queue (squeue --me shows them)" if where.kind == "slurm" else "are starting"


def _scheduler(options: Options, security: Any, host: str | None, interface: str) -> dict[str, Any]:
    listens: dict[str, Any] = {"host": host} if host else {"interface": interface} if interface else {}
    return {
        "protocol": "tls://",
        "security": security,
        "dashboard": options.dashboard != "no",
        "dashboard_address": "127.0.0.1:0" if options.dashboard == "no" else options.dashboard,
        **listens,
    }


def _local(workers: int, options: Options, credentials: Credentials, device: str) -> Any:
    from distributed import Nanny, Scheduler
    from distributed.deploy.spec import SpecCluster

    security = credentials.security()
    share = threads_of_worker(workers)
    gpus = visible_gpus() if device in ("", "cuda") or device.startswith("cuda:") else []
    if device.startswith("cuda") and workers > len(gpus):
        raise VlmtraceError(
            f"CLUSTER=local:{workers} needs a GPU for each worker, and {len(gpus)} can be seen: ask for at most "
            f"local:{max(len(gpus), 1)}, or change CUDA_VISIBLE_DEVICES."
        )
    assert credentials.folder is not None
    common = {
        "nthreads": 1,
        "host": "127.0.0.1",
        "protocol": "tls://",
        "security": security,
        "dashboard_address": "127.0.0.1:0",
        "memory_limit": options.memory or None,
        "local_directory": options.scratch or str(credentials.folder),
        "silence_logs": logging.CRITICAL,
    }
    spec = {}
    for i in range(workers):
        environment = worker_environment(share)
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[i] if i < len(gpus) else ""
        spec[i] = {"cls": Nanny, "options": {**common, "env": environment}}
    return SpecCluster(
        workers=spec,
        scheduler={"cls": Scheduler, "options": _scheduler(options, security, "127.0.0.1", "")},
        security=security,
        silence_logs=logging.CRITICAL,
        shutdown_on_close=True,
    )


def worker_environment(threads: int) -> dict[str, str]:
    """What every worker's environment says, wherever it runs."""
    return {
        "VLMTRACE_HOME": str(paths.ROOT),
        THREADS: str(threads),
        "OMP_NUM_THREADS": str(threads),
        **NOT_BY_ITSELF,
    }


def threads_of_worker(workers: int) -> int:
    """Threads of each of so many workers on this machine: no more than the notebooks', which round as they do.

    Args:
        workers: their number
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    own = int(given) if given.isdecimal() and int(given) else _cores()
    return max(1, min(_cores() // workers, own))


def visible_gpus() -> list[str]:
    """The GPUs of this process as CUDA_VISIBLE_DEVICES names them; CUDA itself is not touched."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        names = [name.strip() for name in given.split(",")]
        return [name for name in names if name and name != "-1"]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
