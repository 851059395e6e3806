"""Parts that sleep, as jobs of Slurm: at walltime, without a scheduler, without a node, with a wrong partition.

They cost no processor time, so that this file runs beside the one that computes.
"""

import signal
import subprocess
import sys
from collections import Counter

import pytest
from fixtures.cluster_runs import ended, said, started, wait_until
from fixtures.slurm import free_ports

#: A module that workers import: what it computes is written down, so that what is computed twice is seen.
MODULE = """
import os, time
from pathlib import Path

def sleep(model, pairs, seconds, forever=0):
    home, me = Path(os.environ["VLMTRACE_HOME"]), pairs["sample_id"][0]
    begun = home / "begun"
    first = not begun.exists() or me not in begun.read_text().split()
    with open(begun, "a") as log:
        log.write(f"{me}\\n")
    # The first parts are too long for a job, until they are tried again.
    time.sleep(1000 if first and pairs["number"][0] < forever else seconds)
    with open(home / "computed", "a") as log:
        log.write(f"{me} {os.environ.get('SLURM_JOB_ID', 'nowhere')}\\n")
    return pairs[["sample_id"]].assign(twice=2 * pairs["number"])
"""

SCRIPT = """
import sys
import pandas as pd
import slow_parts
import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.runs import open_run

where, config, count = sys.argv[1], sys.argv[2] or None, int(sys.argv[3])
options = {"seconds": float(sys.argv[4]), "forever": int(sys.argv[5]) if sys.argv[5:] else 0}
vlm = vt.load_model("tiny-blip")
pairs = pd.DataFrame({"sample_id": [f"pair-{i}" for i in range(count)], "number": range(count)})
try:
    with vt.connect(where, config):
        stage = open_run("sleeping").stage("sleep", model=vlm)
        found = stage.resume(slow_parts.sleep, vlm, pairs, chunk=1, **options)
except VlmtraceError as error:
    sys.exit(f"Error: {error}")
assert found["sample_id"].to_list() == pairs["sample_id"].to_list()
assert found["twice"].to_list() == [2 * i for i in range(count)]
print("all are there")
"""

#: Seconds after which a start counts as a hang.
PATIENCE = 300


@pytest.fixture
def home(new_home):
    home = new_home("sleeping")
    (home / "slow_parts.py").write_text(MODULE)
    (home / "script.py").write_text(SCRIPT)
    return home


def lines(home, name):
    path = home / name
    return path.read_text().splitlines() if path.exists() else []


def computed(home):
    """How often each part was computed to its end."""
    return Counter(line.split()[0] for line in lines(home, "computed"))


def test_at_walltime_other_jobs_go_on(slurm, home, environment_of, config):
    count, hang = 8, 2
    yaml = config(walltime="00:01:00")
    with started(home, environment_of(home), "script.py", "slurm", yaml, count, 0.5, hang) as run:
        assert ended(run, home, PATIENCE) == 0, said(home)
    assert "all are there" in said(home)
    over = {job for job, state in slurm.ended().items() if state == "TIMEOUT"}
    assert over, f"no job reached its walltime: {slurm.ended()}"
    jobs = {line.split()[1] for line in lines(home, "computed")}
    assert jobs - over, f"no job came after those that reached their walltime: {jobs}"
    assert computed(home) == {f"pair-{i}": 1 for i in range(count)}
    assert len(lines(home, "begun")) == count + hang, "only what a job could not finish is begun again"
    wait_until(lambda: not slurm.jobs(), 30, slurm.jobs)


def test_a_scheduler_that_dies_is_one_sentence_and_nothing_is_computed_again(slurm, home, environment_of):
    environment = environment_of(home)
    [port] = free_ports(1)
    where = f"tcp://127.0.0.1:{port}"
    dask = f"{sys.executable} -m distributed.cli"
    scheduler = f"{dask}.dask_scheduler --host 127.0.0.1 --port {port} --dashboard-address 127.0.0.1:0"
    worker = (
        f"{dask}.dask_worker {where} --interface lo --nthreads 1 --death-timeout 20 --dashboard-address 127.0.0.1:0"
    )

    def start_both():
        out = open(home / "scheduler", "ab")  # noqa: SIM115 - the process holds it
        process = subprocess.Popen(scheduler.split(), env=environment, stdout=out, stderr=out, start_new_session=True)
        out.close()
        for _ in range(2):
            subprocess.run(
                ["sbatch", "-p", "main", "-o", str(home / "worker-%j.out"), "--wrap", worker],
                env=environment, check=True, capture_output=True,
            )  # fmt: skip
        return process

    process = start_both()
    try:
        with started(home, environment, "script.py", where, "", 16, 1.5) as run:
            wait_until(lambda: len(computed(home)) >= 4 or run.poll() is not None, PATIENCE, lambda: said(home))
            assert run.poll() is None, said(home)
            process.kill()
            process.wait()
            assert ended(run, home, 90) not in (0, -signal.SIGKILL), said(home)
        assert said(home).count("Error: ") == 1 and "Traceback" not in said(home), said(home)
        wait_until(lambda: not slurm.jobs(), 120, slurm.jobs)  # workers without a scheduler end by themselves
        kept = computed(home)
        process = start_both()
        with started(home, environment, "script.py", where, "", 16, 1.5) as run:
            assert ended(run, home, PATIENCE) == 0, said(home)
        assert "all are there" in said(home)
    finally:
        process.kill()
        process.wait()
        slurm.command("scancel", "--user", "root")
    assert len(computed(home)) == 16 and 4 <= len(kept) < 16
    again = {part: number for part, number in computed(home).items() if number > 1}
    # What a worker finished in the very moment may not have been written.
    assert len(again) <= 2, f"these were computed twice: {again}"
    wait_until(lambda: not slurm.jobs(), 60, slurm.jobs)


def test_without_a_node_it_says_so_and_waits(slurm, home, environment_of, config):
    slurm.command("scontrol", "update", "nodename=n[1-2]", "state=drain", "reason=test")
    try:
        with started(home, environment_of(home), "script.py", "slurm", config(wait="3"), 2, 0.1) as run:
            wait_until(lambda: "no worker has come" in said(home) or run.poll() is not None, 90, lambda: said(home))
            assert run.poll() is None, said(home)
            slurm.command("scontrol", "update", "nodename=n[1-2]", "state=resume")
            assert ended(run, home, PATIENCE) == 0, said(home)
    finally:
        if "drain" in slurm.command("sinfo", "-h", "-o", "%T"):
            slurm.command("scontrol", "update", "nodename=n[1-2]", "state=resume")
    assert "all are there" in said(home)


def test_jobs_that_end_before_their_worker_comes_are_replaced_and_told(slurm, home, environment_of, config):
    (home / "fail").touch()
    yaml = config(prologue=f"['test ! -e {home}/fail || exit 1']")
    with started(home, environment_of(home), "script.py", "slurm", yaml, 2, 0.1) as run:
        wait_until(
            lambda: "ended before their worker came" in said(home) or run.poll() is not None, 120, lambda: said(home)
        )
        assert run.poll() is None, said(home)
        (home / "fail").unlink()
        assert ended(run, home, PATIENCE) == 0, said(home)
    assert "all are there" in said(home)


def test_what_slurm_refuses_is_one_sentence(slurm, home, environment_of, config):
    with started(home, environment_of(home), "script.py", "slurm", config(partition="nobodys"), 2, 0.1) as run:
        assert ended(run, home, 90) not in (0, -signal.SIGKILL), said(home)
    assert said(home).count("Error: ") == 1 and "Traceback" not in said(home), said(home)
    assert "nobodys" in said(home) or "partition" in said(home).lower(), said(home)
    assert not slurm.jobs()
