"""Workers as jobs of Slurm, by dask-jobqueue: one job is one worker."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import make_folder
from vlmtrace.core.progress import say
from vlmtrace.pipeline.cluster.credentials import Credentials
from vlmtrace.pipeline.cluster.lost_jobs import LostJobs
from vlmtrace.pipeline.cluster.options import Options
from vlmtrace.pipeline.cluster.waiting import parts_left

#: Seconds that a worker of Slurm may have nothing to do before its job is given back.
IDLE = 300


def slurm_cluster(
    options: Options, credentials: Credentials, scheduler: dict[str, Any], environment: dict[str, str]
) -> Any:
    """A scheduler in this process, and jobs that come and go by the parts left.

    Args:
        options: of the cluster
        credentials: of its members
        scheduler: options of dask's scheduler
        environment: of every worker

    Raises:
        VlmtraceError: there is no Slurm here, or it would not take such a job
    """
    from dask_jobqueue import SLURMCluster
    from dask_jobqueue.slurm import SLURMJob
    from distributed.deploy.adaptive import Adaptive

    if shutil.which("sbatch") is None:
        raise VlmtraceError("CLUSTER=slurm needs the command sbatch, which is not on this machine: log in where it is.")
    environment = {**environment, "PYTHONPATH": _python_path()}
    prologue = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    logs = make_folder(options.logs or paths.DATA / "cache" / "slurm")

    class PartsLeft(Adaptive):
        """As many workers as there are parts left, within the bounds."""

        async def target(self) -> int:
            await lost.look()
            return parts_left(inner.scheduler)

    class Job(SLURMJob):
        """A job whose refusal by Slurm is said."""

        async def start(self) -> None:
            try:
                await super().start()
            except RuntimeError as error:
                refused(reason_of(str(error)))
                raise

    class Jobs(SLURMCluster):
        """Jobs of this kind."""

        job_cls = Job

    inner = Jobs(
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
        scheduler_options=scheduler,
        security=credentials.security(),
        silence_logs=logging.CRITICAL,
    )
    try:
        check_job(inner.job_script())
    except BaseException:
        inner.close(timeout=30)
        raise
    lost = LostJobs(inner, logs)
    interval = 2
    inner.adapt(
        Adaptive=PartsLeft,
        minimum=options.fewest,
        maximum=options.most,
        interval=f"{interval}s",
        wait_count=IDLE // interval,
    )
    return inner


def check_job(script: str) -> None:
    """Ask Slurm whether it takes a job: one is submitted that is held, and cancelled at once.

    `sbatch --test-only` would not do, as it also refuses while all nodes are drained, which may be over soon.

    Raises:
        VlmtraceError: it does not, with its own words: no such partition, account, …
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        done = subprocess.run(
            ["sbatch", "--parsable", "--hold", file.name], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise VlmtraceError(f"Slurm takes no such job ({reason_of(done.stderr)}): correct CLUSTER_CONFIG.")
    subprocess.run(["scancel", done.stdout.strip().partition(";")[0]], capture_output=True, check=False)


def reason_of(output: str) -> str:
    """What Slurm says about a job that it refuses, in one line."""
    lines = [line.partition("error:")[2].strip() for line in output.splitlines() if "error:" in line]
    return "; ".join(dict.fromkeys(filter(None, lines))).rstrip(".")[:300] or " ".join(output.split())[:300]


_REFUSALS: set[str] = set()


def refused(reason: str) -> None:
    """Say once why Slurm refuses a job that it took before: a limit was reached, a partition closed."""
    if reason not in _REFUSALS:
        _REFUSALS.add(reason)
        say(f"Slurm refuses a job at present ({reason}); it is asked again.")


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


def _python_path() -> str:
    package = str(Path(__file__).resolve().parents[3])
    return os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
