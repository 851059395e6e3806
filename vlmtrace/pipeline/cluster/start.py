"""The processes of a cluster: on this machine, or as jobs of Slurm."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import make_folder
from vlmtrace.pipeline.cluster.credentials import Credentials, new_credentials
from vlmtrace.pipeline.cluster.options import Options, Where
from vlmtrace.pipeline.cluster.waiting import Waiting, parts_left

#: A part whose worker dies goes to another; the third death sets it aside (dask counts those that it allows).
DEATHS = 3

#: Seconds that a worker of Slurm may have nothing to do before its job is given back.
IDLE = 300

#: What a worker must not do by itself: move results to disk, or take no part because a model fills its memory.
WORKER_MEMORY = {f"DASK_DISTRIBUTED__WORKER__MEMORY__{name}": "False" for name in ("TARGET", "SPILL", "PAUSE")}

#: Under this name a worker is told how many threads torch may use.
THREADS = "VLMTRACE_WORKER_THREADS"


class Cluster:
    """A scheduler in this process, and its workers.

    Attributes:
        inner: dask's cluster
        credentials: of its members
        grows: whether workers come and go by the parts left
    """

    def __init__(self, inner: Any, credentials: Credentials, waiting: Waiting, grows: bool):
        self.inner, self.credentials, self.waiting, self.grows = inner, credentials, waiting, grows

    @property
    def address(self) -> str:
        """Of the scheduler."""
        return self.inner.scheduler_address

    @property
    def dashboard(self) -> str:
        """The address of the web page; "": there is none."""
        return self.inner.dashboard_link if "dashboard" in self.inner.scheduler.services else ""

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
        with dask.config.set(settings), quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dask says that the dashboard's port is taken, and takes the next
            if where.kind == "local":
                inner = _local(where.workers, options, credentials, options.device or device)
            else:
                inner = _slurm(options, credentials)
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
    return Cluster(inner, credentials, waiting, grows=where.kind == "slurm")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what dask says to its log out of the terminal: what matters is said in sentences."""
    for name in (
        "distributed",
        "distributed.nanny",
        "distributed.worker",
        "distributed.scheduler",
        "tornado.application",
    ):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    yield


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
    share = max(1, _cores() // workers)
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


def _slurm(options: Options, credentials: Credentials) -> Any:
    import shutil

    from dask_jobqueue import SLURMCluster
    from distributed.deploy.adaptive import Adaptive

    if shutil.which("sbatch") is None:
        raise VlmtraceError("CLUSTER=slurm needs the command sbatch, which is not on this machine: log in where it is.")
    security = credentials.security()
    environment = {**worker_environment(options.cores), "PYTHONPATH": _python_path()}
    prologue = [f"export {name}={_quoted(value)}" for name, value in environment.items()]
    logs = make_folder(options.logs or paths.DATA / "cache" / "slurm")

    class PartsLeft(Adaptive):
        """As many workers as there are parts left, within the bounds."""

        async def target(self) -> int:
            return parts_left(inner.scheduler)

    inner = SLURMCluster(
        queue=options.partition or None,
        account=options.account or None,
        walltime=options.walltime,
        memory=options.memory,
        cores=1,  # of dask, for which a core is a part at a time; torch's threads are told by THREADS
        processes=1,
        job_cpu=options.cores,
        job_name="vlmtrace",
        job_extra_directives=[*([f"--gres={options.gres}"] if options.gres else []), *options.directives],
        job_directives_skip=list(options.skip),
        job_script_prologue=[*options.prologue, *prologue],
        interface=options.interface or None,
        python=options.python or sys.executable,
        log_directory=str(logs),
        local_directory=options.scratch or None,
        death_timeout=120,
        worker_extra_args=["--dashboard-address", "127.0.0.1:0", *_lifetime(options.walltime)],
        scheduler_options=_scheduler(options, security, None, options.interface),
        security=security,
        silence_logs=logging.CRITICAL,
    )
    interval = 2
    inner.adapt(
        Adaptive=PartsLeft,
        minimum=options.fewest,
        maximum=options.most,
        interval=f"{interval}s",
        wait_count=IDLE // interval,
    )
    return inner


def worker_environment(threads: int) -> dict[str, str]:
    """What every worker's environment says, wherever it runs."""
    return {
        "VLMTRACE_HOME": str(paths.ROOT),
        THREADS: str(threads),
        "OMP_NUM_THREADS": str(threads),
        **WORKER_MEMORY,
    }


def visible_gpus() -> list[str]:
    """The GPUs of this process as CUDA_VISIBLE_DEVICES names them; CUDA itself is not touched."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        names = [name.strip() for name in given.split(",")]
        return [name for name in names if name and name != "-1"]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def seconds_of(walltime: str) -> int:
    """The seconds of a time as Slurm writes it.

    >>> seconds_of("1-02:00:00"), seconds_of("04:00:00"), seconds_of("30:00")
    (93600, 14400, 1800)
    """
    days, _, clock = walltime.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    while len(parts) < 3:
        parts = [*parts, 0] if days else [0, *parts]  # behind days stand hours first, elsewhere minutes
    return int(days or 0) * 86400 + parts[0] * 3600 + parts[1] * 60 + parts[2]


def _lifetime(walltime: str) -> list[str]:
    """Arguments by which a worker says goodbye shortly before Slurm would kill it, so that no part is blamed."""
    seconds = seconds_of(walltime)
    return ["--lifetime", f"{seconds - 120}s", "--lifetime-stagger", "60s"] if seconds >= 1200 else []


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _python_path() -> str:
    package = str(Path(__file__).resolve().parents[3])
    return os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)
