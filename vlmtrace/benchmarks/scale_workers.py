"""Many workers on one machine, and a part that sleeps as a GPU would compute: what a cluster's overhead is.

    python -m vlmtrace.benchmarks.scale_workers run 64 10 3

starts a scheduler of dask.distributed and 64 workers, which talk over TLS (`farm`, in a process of its own), has each
compute three parts of ten seconds, and prints figures as JSON. The workers are forked from one process that has
imported everything and loaded the model, so that 64 of them fit into a machine's memory; in all else they are the
workers of a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pandas as pd

from vlmtrace.benchmarks.scale_effects import made_up_pairs
from vlmtrace.core import paths
from vlmtrace.models import VLM
from vlmtrace.models.loading import load_model
from vlmtrace.pipeline import connect, open_run
from vlmtrace.pipeline.cluster import worker
from vlmtrace.pipeline.cluster.credentials import new_credentials
from vlmtrace.pipeline.cluster.job import name_model

MODEL = "tiny-blip"

#: Pairs of a part.
PAIRS = 16


def sleep_part(model: VLM, pairs: pd.DataFrame, seconds: float) -> pd.DataFrame:
    """Sleep as long as a GPU would compute, and say when that was.

    Args:
        model: is not used
        pairs: the part's pairs
        seconds: how long a part takes

    Returns:
        one row per pair: sample_id, began and ended (seconds of this machine's clock), process
    """
    began = time.time()
    time.sleep(seconds)
    return pd.DataFrame({"sample_id": pairs["sample_id"], "began": began, "ended": time.time(), "process": os.getpid()})


def efficiency(workers: int, seconds: float, per_worker: int) -> dict[str, Any]:
    """Run parts through `Stage.resume` on so many workers.

    Args:
        workers: their number
        seconds: how long a part takes
        per_worker: parts for each of them

    Returns:
        workers, parts, part_seconds; start_seconds (from nothing until every worker has computed short parts), seconds
        (of `resume`), efficiency (parts × part_seconds / workers over these seconds), parts_per_second, first_seconds
        (until every worker has begun), steady_efficiency (the same share from the first part's begin to the last one's
        end), and the processor time that this process and the scheduler spent per part
    """
    pairs = made_up_pairs("rendered_states", workers * per_worker * PAIRS)
    model = load_model(MODEL)
    start = time.perf_counter()
    with farm(workers) as (address, tls, scheduler), connect(address, {"tls": tls}) as connection:
        connection.client.wait_for_workers(workers, timeout=300)
        stage = open_run(f"workers-{workers}-{seconds:g}").stage("05_head_patching", "rendered_states", model=model)
        # What the first part of a worker pays for: it imports, and compares its model and code with the notebook's.
        stage.resume(sleep_part, model, pairs[: 2 * workers * PAIRS], chunk=PAIRS, seconds=0.5)
        started = time.perf_counter() - start
        of_scheduler, of_client, clock = cpu_seconds(scheduler), time.process_time(), time.time()
        start = time.perf_counter()
        table = stage.resume(sleep_part, model, pairs, chunk=PAIRS, seconds=seconds)
        took = time.perf_counter() - start
        of_scheduler, of_client = cpu_seconds(scheduler) - of_scheduler, time.process_time() - of_client
    parts = workers * per_worker
    assert len(table) == len(pairs) and table["process"].nunique() <= workers
    by_worker = table.groupby("process")["began"].min()
    return {
        "workers": workers,
        "parts": parts,
        "part_seconds": seconds,
        "start_seconds": started,
        "seconds": took,
        "efficiency": per_worker * seconds / took,
        "parts_per_second": parts / took,
        "first_seconds": float(by_worker.max()) - clock,
        "steady_efficiency": per_worker * seconds / float(table["ended"].max() - table["began"].min()),
        "workers_used": int(table["process"].nunique()),
        "client_cpu_per_part": of_client / parts,
        "scheduler_cpu_per_part": of_scheduler / parts,
    }


@contextlib.contextmanager
def farm(workers: int) -> Iterator[tuple[str, dict[str, str], int]]:
    """A scheduler and its workers, while the block lasts: address, files of the certificate, process of the scheduler.

    Raises:
        RuntimeError: it did not start
    """
    credentials = new_credentials(shared=False)
    files = credentials.files
    command = [sys.executable, "-m", "vlmtrace.benchmarks.scale_workers", "farm", str(workers)]
    command += [files["ca"], files["cert"], files["key"]]
    quiet = {"DASK_LOGGING__DISTRIBUTED": "critical", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **quiet, "VLMTRACE_HOME": str(paths.ROOT)}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(command[:3])} ended with {process.wait()} before it had an address.")
        said = json.loads(line)
        yield said["address"], files, said["scheduler"]
    finally:
        process.stdin.close()
        process.wait(60)
        credentials.remove()


def cpu_seconds(process: int) -> float:
    """Processor time that another process has spent, on Linux; elsewhere not a number."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def forked(work: Callable[[], None]) -> int:
    """The process that does some work, forked from this one."""
    process = os.fork()
    if process:
        return process
    try:
        work()
    finally:
        os._exit(0)


@click.group()
def main() -> None:
    """Measure workers, or be them."""


@main.command("run")
@click.argument("workers", type=int)
@click.argument("seconds", type=float)
@click.argument("per_worker", type=int)
def run_workers(workers: int, seconds: float, per_worker: int) -> None:
    """Print the figures of so many workers as JSON."""
    print(json.dumps(efficiency(workers, seconds, per_worker)))


@main.command("farm")
@click.argument("workers", type=int)
@click.argument("ca")
@click.argument("cert")
@click.argument("key")
def be_farm(workers: int, ca: str, cert: str, key: str) -> None:
    """Start a scheduler and workers; they end when the input does."""
    import dask
    import distributed

    from vlmtrace.pipeline.cluster.credentials import Credentials

    security = Credentials({"ca": ca, "cert": cert, "key": key}).security()
    worker.load(name_model(load_model(MODEL), "cpu"))
    worker.package_code()
    dask.config.set({"distributed.scheduler.worker-saturation": 1.0, "distributed.comm.retry.count": 3})
    # Each worker would look at its own stack a hundred times a second: nothing on a machine of its own, much on one
    # that 64 of them share.
    dask.config.set({"distributed.worker.profile.enabled": False, "distributed.admin.system-monitor.interval": "10s"})
    hears, says = os.pipe()

    def schedule() -> None:
        async def serve() -> None:
            options = {"host": "127.0.0.1", "protocol": "tls://", "security": security, "dashboard": False}
            async with distributed.Scheduler(**options) as scheduler:
                os.write(says, scheduler.address.encode())
                await scheduler.finished()

        asyncio.run(serve())

    children = [forked(schedule)]
    address = os.read(hears, 1000).decode()

    def serve_parts() -> None:
        async def serve() -> None:
            options = {"nthreads": 1, "host": "127.0.0.1", "security": security, "dashboard": False}
            async with distributed.Worker(address, memory_limit=0, **options) as one:
                await one.finished()

        asyncio.run(serve())

    children += [forked(serve_parts) for _ in range(workers)]
    print(json.dumps({"address": address, "scheduler": children[0]}), flush=True)
    sys.stdin.read()
    for child in reversed(children):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, 15)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    # Under its own name, by which workers and parts know the functions of this module.
    from vlmtrace.benchmarks.scale_workers import main as of_module

    of_module()
