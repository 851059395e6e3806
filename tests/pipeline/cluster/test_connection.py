"""`vt.connect` with real processes: kills, full disks, what listens where, and what is left afterwards."""

import os
import signal
import subprocess
import sys
import threading
import time

import pandas as pd
import psutil
import pytest
import torch
from fixtures import cluster_functions as functions
from fixtures.clusters import children, eventually, fake_model, is_alive, numbered

import vlmtrace as vt
from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.cluster.connection import _OPEN, check_cluster
from vlmtrace.pipeline.runs import open_run

pytestmark = pytest.mark.medium

#: Nobody's web page is needed, and the port 8787 may be taken.
PLAIN = {"dashboard": "127.0.0.1:0"}


@pytest.fixture(autouse=True)
def a_run_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")


@pytest.fixture(scope="module")
def tiny():
    return vt.load_model("tiny-blip", check=False)


@pytest.fixture
def pair_of_workers():
    with vt.connect("local:2", PLAIN) as connection:
        yield connection


def resume(function, model, n=12, run="r", **options):
    return open_run(run).stage("s", "t", model=model).resume(function, model, numbered(n), chunk=3, **options)


def workers():
    return [pid for pid, line in children().items() if "spawn_main" in line]


def test_what_a_closed_connection_leaves(tiny):
    """A thread of dask's own pools may stay for the next connection; nothing else."""
    before = {thread.name for thread in threading.enumerate()}
    environment = dict(os.environ)
    with vt.connect("local:2", PLAIN) as connection:
        folder = connection.cluster.credentials.folder
        assert eventually(lambda: len(workers()) == 2) and folder.is_dir()
        mine = workers()
    assert eventually(lambda: not any(map(is_alive, mine)), 10), "workers outlive their connection"
    assert not folder.exists() and not _OPEN
    left = {thread.name for thread in threading.enumerate()} - before
    assert all(name.startswith(("Dask-Offload", "asyncio_", "Profile", "TCP-Executor")) for name in left), left
    assert dict(os.environ) == environment
    assert not [one for one in psutil.Process().net_connections() if one.status == "LISTEN"], "a port is still open"
    connection.close()  # a second time


def test_a_connection_shows_its_page_as_a_link(pair_of_workers):
    assert pair_of_workers.dashboard.startswith("http://127.0.0.1:")
    assert f'href="{pair_of_workers.dashboard}"' in pair_of_workers._repr_html_()


def test_a_cell_that_runs_again_finds_its_connection(pair_of_workers):
    assert vt.connect("local:2", PLAIN) is pair_of_workers


def test_a_block_that_found_the_connection_open_leaves_it_open(pair_of_workers):
    with vt.connect("local:2", PLAIN) as inner, vt.connect("local:2", PLAIN) as innermost:
        assert inner is innermost is pair_of_workers
    assert pair_of_workers.is_open


def test_tables_are_those_of_one_machine_to_the_byte(tiny, random_pairs, monkeypatch, request):
    pairs = vt.evaluate(tiny, random_pairs)
    stages = {run: open_run(run).stage("s", "t", model=tiny) for run in ("here", "there")}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as make has it: other numbers of threads round differently
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    request.addfinalizer(lambda: torch.set_num_threads(before))
    with vt.connect("local:2", PLAIN):
        there = stages["there"].resume(vt.patch_heads, tiny, pairs, chunk=2, corruption="image")
    here = stages["here"].resume(vt.patch_heads, tiny, pairs, chunk=2, corruption="image")
    pd.testing.assert_frame_equal(there, here, check_exact=True)
    files = [
        {path.name: path.read_bytes() for path in stage.parts_folder.rglob("*.parquet")} for stage in stages.values()
    ]
    assert len(files[0]) == 4 and files[0] == files[1]


def test_a_worker_that_is_killed_in_the_middle_costs_nothing_but_time(tiny, pair_of_workers, tmp_path):
    result = []
    thread = threading.Thread(target=lambda: result.append(resume(functions.wait_for, tiny, folder=str(tmp_path))))
    thread.start()
    assert eventually(lambda: len(list(tmp_path.glob("pid-*"))) == 2, 120)
    os.kill(int(next(tmp_path.glob("pid-*")).name.removeprefix("pid-")), signal.SIGKILL)
    time.sleep(0.3)
    (tmp_path / "go").touch()
    thread.join(60)
    assert result[0]["effect"].tolist() == [2.0 * i for i in range(12)]


def test_a_part_that_kills_its_workers_is_set_aside(tiny, pair_of_workers):
    with pytest.raises(VlmtraceError, match=r"1 of 4 parts .*s0 to s2 .3 pairs.: 3 workers that computed it died"):
        resume(functions.die_for, tiny, ids=["s1"])
    # The same command goes on there, with what is missing: here with an input that was corrected.
    kept = list((paths.RUNS / "r" / ".parts").rglob("*.parquet"))
    assert len(kept) == 3


def test_a_disk_that_is_full_for_a_worker_stops_with_a_sentence(tiny, pair_of_workers):
    with pytest.raises(VlmtraceError, match=r"worker .* cannot be written, because it is larger than a file may be"):
        resume(functions.fill_the_disk, tiny)


def test_a_model_of_other_weights_than_its_name_says_is_refused(pair_of_workers):
    with pytest.raises(VlmtraceError, match=r"tiny-blip has the weights \w+ there and f1 in the notebook"):
        resume(functions.double, fake_model())


def test_a_scheduler_that_runs_already(tiny, tmp_path):
    """Started by hand, killed in the middle: a sentence, and the rest is computed later."""
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    place = tmp_path / "scheduler.json"
    options = ["--scheduler-file", str(place), "--dashboard-address", "127.0.0.1:0"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(paths.ROOT), str(paths.ROOT / "tests"), *sys.path])}
    scheduler = subprocess.Popen([*command, *options], env=environment, **quiet)
    worker = None
    try:
        assert eventually(place.is_file)
        import json

        address = json.loads(place.read_text())["address"]
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
        worker = subprocess.Popen([*command, "--local-directory", str(tmp_path)], env=environment, **quiet)
        with vt.connect(address):
            assert len(resume(functions.double, tiny)) == 12
            threading.Timer(2, scheduler.kill).start()
            with pytest.raises(VlmtraceError, match=rf"scheduler of {address} .*the same command continues there"):
                resume(functions.wait_for, tiny, run="r2", folder=str(tmp_path))
    finally:
        (tmp_path / "go").touch()
        for process in filter(None, (scheduler, worker)):
            process.kill()
            process.wait()


def test_a_scheduler_that_is_not_there_is_a_sentence(monkeypatch):
    from vlmtrace.pipeline.cluster import connection

    monkeypatch.setattr(connection, "ANSWER", 1)
    with pytest.raises(VlmtraceError, match=r"No scheduler answers at tcp://127\.0\.0\.1:1 "):
        vt.connect("tcp://127.0.0.1:1")


def test_a_scheduler_that_is_not_there_leaves_the_connection_that_was_open(pair_of_workers, monkeypatch):
    from vlmtrace.pipeline.cluster import connection

    monkeypatch.setattr(connection, "ANSWER", 1)
    with pytest.raises(VlmtraceError, match="No scheduler answers"):
        vt.connect("tcp://127.0.0.1:1")
    assert connection.current() is pair_of_workers and pair_of_workers.is_open


@pytest.mark.parametrize(("own", "workers", "threads"), [("1", 1, 1), ("", 1, 2), ("4", 1, 2), ("2", 2, 1), ("", 5, 1)])
def test_workers_have_no_more_threads_than_the_notebooks(monkeypatch, own, workers, threads):
    """Another number of threads rounds differently: a run that goes on in a cluster would mix both."""
    from vlmtrace.pipeline.cluster import start

    monkeypatch.setattr(start, "_cores", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", own)
    assert start.threads_of_worker(workers) == threads


def test_a_config_without_a_cluster_is_refused():
    with pytest.raises(VlmtraceError, match="CLUSTER is empty"):
        check_cluster("", "some.yaml")


def test_slurm_that_is_not_there_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VlmtraceError, match="needs the command sbatch"):
        vt.connect("slurm", {"memory": "1GB"})


def test_gpus_are_shared_out_one_each(monkeypatch):
    from vlmtrace.pipeline.cluster.options import Options, Where
    from vlmtrace.pipeline.cluster.start import start_cluster, visible_gpus

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus() == ["3", "5"]
    with pytest.raises(VlmtraceError, match="local:3 needs a GPU for each worker, and 2 can be seen"):
        start_cluster(Where("local", 3), Options(), device="cuda")
    with vt.connect("local:2", PLAIN) as connection:
        connection.client.wait_for_workers(2)
        seen = connection.client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
        assert sorted(seen.values()) == ["3", "5"]
