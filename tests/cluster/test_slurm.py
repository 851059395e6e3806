"""The private Slurm itself: two nodes take jobs, nothing is heard beyond this machine, and nothing stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fixtures.slurm import NODES, Slurm, listening

from vlmtrace.core import paths


def until(what, seconds=30):
    """Wait until something is true, and return it."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"after {seconds} s still not: {what}"
        time.sleep(0.1)
    return found


def alive(number):
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_jobs_run_on_both_nodes_and_nothing_is_left():
    with Slurm() as slurm:
        for _ in NODES:
            slurm.command("sbatch", "-o", "/dev/null", "--wrap", "sleep 600")
        until(lambda: [job["node"] for job in slurm.jobs() if job["state"] == "RUNNING"] == list(NODES))
        jobs = until(lambda: sorted(slurm.processes_of_jobs()))
        daemons = [process.pid for process in slurm.processes.values()]
        heard = listening([*daemons, *jobs])
        folder = slurm.folder
    assert heard and all(address == "127.0.0.1" for address, _ in heard), f"it listens at {heard}"
    assert not any(map(alive, [*daemons, *jobs])) and not folder.exists()


def test_a_node_that_dies_takes_its_job_with_it_and_comes_back():
    with Slurm() as slurm:
        slurm.command("sbatch", "-o", "/dev/null", "-w", "n1", "--wrap", "sleep 600")
        until(lambda: [job["node"] for job in slurm.jobs() if job["state"] == "RUNNING"] == ["n1"])
        jobs = until(slurm.processes_of_jobs)
        slurm.kill_node("n1")
        until(lambda: not any(map(alive, jobs)))
        slurm.command("sbatch", "-o", "/dev/null", "--wrap", "true")
        until(lambda: "COMPLETED" in slurm.ended().values())  # by the other node
        slurm.start_node("n1")


def test_it_ends_with_the_process_that_started_it():
    """Even SIGKILL leaves no daemon."""
    program = "\n".join(
        [
            "import time",
            "from fixtures.slurm import Slurm",
            "with Slurm() as slurm:",
            "    print(*[process.pid for process in slurm.processes.values()], slurm.folder, flush=True)",
            "    time.sleep(600)",
        ]
    )
    path = os.pathsep.join([str(paths.ROOT / "tests"), str(paths.ROOT)])
    for number in (signal.SIGKILL, signal.SIGINT):
        with subprocess.Popen(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as owner:  # fmt: skip
            *daemons, folder = owner.stdout.readline().split()
            assert daemons and all(map(alive, daemons))
            owner.send_signal(number)
        until(lambda daemons=daemons: not any(map(alive, daemons)))
        if number == signal.SIGINT:
            assert not Path(folder).exists(), "after Ctrl-C, the folder is removed, too"
