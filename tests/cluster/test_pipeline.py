"""`make all CLUSTER=slurm`: interrupted, killed and short of workers, it leaves the tables of an undisturbed run."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.cluster_runs import ended, said, started, wait_until
from fixtures.slurm import NODES, listening
from fixtures.slurm_kills import Killer

#: As few pairs as leave something to discover, something to verify, and several parts of each computation.
RUN = ["-m", "vlmtrace", "all", "--tasks", "rendered_states", "--samples", "40", "--run", "small"]

#: Seconds that a start may take before it counts as a hang.
PATIENCE = 600

#: What draws the kills, and how many there are at least.
SEED, LEAST_KILLS = 1, 5


@pytest.fixture(scope="module")
def undisturbed(new_home, environment_of):
    """The tables of a run on this machine alone."""
    home = new_home("alone")
    with started(home, environment_of(home), *RUN) as run:
        assert ended(run, home, PATIENCE) == 0, said(home)
    return tables(home)


@pytest.fixture(scope="module")
def home(new_home):
    return new_home("cluster")


def tables(home):
    """The bytes of every table of the run, by its path."""
    run = home / "data" / "runs" / "small"
    found = sorted(path for path in run.rglob("*.parquet") if ".parts" not in path.parts)
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in found}


def parts(home):
    """The files of parts that are there."""
    return set((home / "data" / "runs" / "small" / ".parts").rglob("*.parquet"))


def submitted(slurm):
    """The numbers of all jobs that there ever were."""
    return sorted(slurm.command("squeue", "-h", "-t", "all", "-o", "%i").split())


def nothing_is_left(slurm):
    # A job on a node that was lost is COMPLETING for minutes, without a process.
    jobs = [job for job in slurm.jobs() if job["state"] != "COMPLETING"]
    return not jobs and not slurm.processes_of_jobs()


def test_ctrl_c_leaves_no_job_and_what_is_finished(slurm, home, environment_of, config):
    options = ["--cluster", "slurm", "--cluster-config", str(config())]
    with started(home, environment_of(home), *RUN, *options) as run:
        wait_until(lambda: parts(home) or run.poll() is not None, PATIENCE, lambda: said(home))
        assert run.poll() is None, said(home)
        workers = {n: line for n, line in slurm.processes_of_jobs().items() if "spawn_main" in line or "dask" in line}
        assert workers, f"parts are there and no worker is: {slurm.jobs()}"
        heard = listening([run.pid, *workers])
        assert heard and all(address == "127.0.0.1" for address, _ in heard), f"it listens beyond this machine: {heard}"
        nannies = [line for line in workers.values() if "distributed.cli.dask_worker" in line]
        assert nannies and all(" tls://127.0.0.1:" in line and "--tls-key" in line for line in nannies), nannies
        run.send_signal(signal.SIGINT)
        assert ended(run, home, 60) == 130, said(home)
        assert "Traceback" not in said(home) and "the same command continues there" in said(home), said(home)
    wait_until(lambda: nothing_is_left(slurm), 30, slurm.processes_of_jobs)
    assert parts(home), "what was finished is gone"


def test_when_the_command_is_killed_its_jobs_end_by_themselves(slurm, home, environment_of, config):
    options = ["--cluster", "slurm", "--cluster-config", str(config())]

    def registered():
        """The logs of workers that the scheduler knows, by the numbers of their jobs."""
        logs = (home / "data" / "cache" / "slurm").glob("*.err")
        return {log.name for log in logs if "Registered to" in log.read_text()}

    before = registered()
    with started(home, environment_of(home), *RUN, *options) as run:
        wait_until(lambda: registered() - before or run.poll() is not None, PATIENCE, lambda: said(home))
        assert run.poll() is None, said(home)
        run.kill()
        run.wait()
        wait_until(lambda: nothing_is_left(slurm), 180, lambda: f"{slurm.jobs()} {slurm.processes_of_jobs()}")


def test_kills_change_no_byte(slurm, home, undisturbed, environment_of, config, capsys):
    options = ["--cluster", "slurm", "--cluster-config", str(config())]
    starts = 0
    with Killer(slurm, SEED, most=8, progress=lambda: parts(home)) as killer:
        while True:
            starts += 1
            with started(home, environment_of(home), *RUN, *options) as run:
                code = ended(run, home, PATIENCE)
            assert "Traceback" not in said(home), said(home)
            if code == 0:
                break
            # Three kills of one part set it aside: then the same command computes it.
            assert "set aside" in said(home) and starts < 5, said(home)
    with capsys.disabled():
        words = ", ".join(f"{number} of a {kind}" for kind, number in sorted(killer.kills.items()))
        print(f"\n{sum(killer.kills.values())} kills ({words}) in {starts} starts, on {sorted(killer.nodes)}")
    assert sum(killer.kills.values()) >= LEAST_KILLS, f"too few kills to tell: {killer.kills}"
    assert killer.nodes == set(NODES), f"jobs ran on {killer.nodes} only"
    found = tables(home)
    other = sorted(name for name in undisturbed.keys() | found.keys() if undisturbed.get(name) != found.get(name))
    assert undisturbed and not other, f"these differ from an undisturbed run on one machine: {other}"
    assert not parts(home)
    wait_until(lambda: nothing_is_left(slurm), 30, lambda: f"{slurm.jobs()} {slurm.processes_of_jobs()}")


def test_a_finished_run_starts_no_job(slurm, home, environment_of, config):
    before = submitted(slurm)
    with started(home, environment_of(home), *RUN, "--cluster", "slurm", "--cluster-config", str(config())) as run:
        assert ended(run, home, PATIENCE) == 0, said(home)
    assert "Nothing to do" in said(home)
    assert submitted(slurm) == before, "a job was submitted"


def test_nothing_secret_is_written(slurm, home, secret):
    """What jobs, scripts and logs say names no token and no private key."""
    logs = [path for path in home.rglob("*") if path.suffix in (".out", ".err") and path.is_file()]
    assert logs, "the jobs' output lies in the data folder"
    kept = [path for path in slurm.folder.rglob("script") if path.is_file()]
    for path in [*logs, *kept]:
        text = path.read_bytes()
        assert secret.encode() not in text and b"PRIVATE KEY" not in text, f"{path} holds a secret"
    # What a command that was killed has left is removed when the next cluster starts.
    leave = "from vlmtrace.pipeline.cluster.credentials import remove_leftovers as remove; remove()"
    subprocess.run([sys.executable, "-c", leave], env=os.environ | {"VLMTRACE_HOME": str(home)}, check=True)
    assert not [path for path in home.rglob("*") if path.is_file() and re.search(r"\.pem$|\.key", path.name)]
    assert not list(Path(home).glob(".dask*")), "something was written into the folder in which the command ran"
