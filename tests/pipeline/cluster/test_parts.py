"""Parts on workers: the files of one machine, and what becomes of those that fail. The workers are threads."""

import contextlib
import json

import pandas as pd
import pytest
from fixtures import cluster_functions as functions
from fixtures.clusters import fake_model, numbered, threads

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.checkpoints import Checkpoints
from vlmtrace.pipeline.cluster import parts, worker
from vlmtrace.pipeline.cluster.connection import _OPEN
from vlmtrace.pipeline.runs import open_run

pytestmark = pytest.mark.medium

PAIRS = numbered(10)


@pytest.fixture(autouse=True)
def a_run_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(worker, "load", lambda wanted: "a model")
    monkeypatch.setattr(worker, "use_threads", lambda: None)
    monkeypatch.setattr(worker, "PATIENCE", 0.3)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def two_workers():
    with threads(2) as connection:
        yield connection


def stage(run="r"):
    return open_run(run).stage("s", "t", model=fake_model())


def resume(function, run="r", pairs=PAIRS, **options):
    return stage(run).resume(function, fake_model(), pairs, chunk=3, **options)


def files(run="r"):
    return {path.name: path.read_bytes() for path in stage(run).parts_folder.rglob("*.parquet")}


def test_workers_write_the_files_of_one_machine(monkeypatch):
    there = resume(functions.double, "there", factor=3)
    monkeypatch.delitem(_OPEN, "connection")
    here = resume(functions.double, "here", factor=3)
    pd.testing.assert_frame_equal(there, here, check_exact=True)
    assert there["effect"].tolist() == [3.0 * i for i in range(10)]
    assert len(files("here")) == 4 and files("there") == files("here")


def test_only_what_is_missing_is_computed(tmp_path):
    tell = tmp_path / "told"
    tell.mkdir()
    first = resume(functions.double_and_tell, folder=str(tell))
    assert len(list(tell.iterdir())) == 4
    next(stage().parts_folder.rglob("*.parquet")).unlink()
    pd.testing.assert_frame_equal(resume(functions.double_and_tell, folder=str(tell)), first)
    assert len(list(tell.iterdir())) == 5


def test_a_worker_finds_a_part_that_is_there_already(tmp_path, monkeypatch):
    """Another run may have written it since the notebook looked."""
    tell = tmp_path / "told"
    tell.mkdir()
    resume(functions.double_and_tell, folder=str(tell))
    looked, get = [], Checkpoints.get

    def blind_at_first(self, rows):
        looked.append(1)
        return None if len(looked) <= 4 else get(self, rows)

    monkeypatch.setattr(Checkpoints, "get", blind_at_first)
    assert len(resume(functions.double_and_tell, folder=str(tell))) == 10
    assert len(list(tell.iterdir())) == 4


def test_no_marker_and_nothing_unfinished_is_left():
    resume(functions.double)
    left = [path.name for path in stage().parts_folder.rglob("*") if path.is_file() and path.suffix != ".parquet"]
    assert not left


def test_a_part_that_fails_once_goes_to_another_worker(tmp_path):
    assert len(resume(functions.raise_once, folder=str(tmp_path))) == 10


def test_a_part_that_always_fails_is_set_aside_and_the_others_finish():
    with pytest.raises(VlmtraceError) as error:
        resume(functions.raise_for, ids=["s4"])
    sentence = str(error.value)
    assert "1 of 4 parts of raise_for were set aside: s3 to s5 (3 pairs): RuntimeError: this pair is odd" in sentence
    assert "tried 3 times, at last by worker " in sentence
    assert len(files()) == 3, "the others were not computed"


def test_where_nothing_can_be_computed_it_stops_early():
    with pytest.raises(VlmtraceError, match="No part could be computed, so that the rest was not tried"):
        resume(functions.raise_for, pairs=numbered(60), ids=[f"s{i}" for i in range(60)])
    assert not files()


def test_a_full_disk_on_a_worker_stops_with_its_sentence(monkeypatch):
    def full(self, rows, part):
        raise VlmtraceError("x.parquet cannot be written, because no space is left on the device: free some")

    monkeypatch.setattr(Checkpoints, "put", full)
    with pytest.raises(VlmtraceError, match=r"^worker .*no space is left on the device.* same command continues"):
        resume(functions.double)


def test_a_table_that_no_file_can_hold_is_a_failure_of_the_part():
    with pytest.raises(VlmtraceError, match=r"No part could be computed"):
        resume(functions.not_parquet)


def test_large_options_travel_once_and_not_with_each_part(monkeypatch, two_workers):
    carried, submit = [], two_workers.client.submit
    monkeypatch.setattr(two_workers.client, "submit", lambda *a, **k: carried.append(k["key"]) or submit(*a, **k))
    resume(functions.double, factor=2)
    assert not carried
    monkeypatch.setattr(parts, "LARGE", 10)
    assert len(resume(functions.double, factor=3)) == 10
    assert len(carried) == 1 and carried[0].startswith("options-")


@pytest.mark.parametrize("name", ["a name of nothing", "", "/no/such/folder"])
def test_a_model_without_a_name_to_load_it_by_is_refused(name):
    with pytest.raises(VlmtraceError, match=r"load a model by its name.*vt\.load_model gave"):
        stage().resume(functions.double, fake_model(name), PAIRS)


def test_the_counter_counts_pairs_and_knows_what_was_found(monkeypatch):
    from vlmtrace.core import progress
    from vlmtrace.pipeline import stage as stage_module

    seen, counter = [], progress.counter

    @contextlib.contextmanager
    def spy(total, description, unit, steady):
        counts = {True: 0, False: 0}
        seen.append((total, unit, counts))
        with counter(total, description, unit, steady) as advance:

            def counted(n, found=False):
                counts[found] += n
                advance(n, found)

            yield counted

    monkeypatch.setattr(stage_module, "counter", spy)
    resume(functions.double)
    next(stage().parts_folder.rglob("*.parquet")).unlink()
    resume(functions.double)
    assert seen[0] == (10, "pairs", {True: 0, False: 10})
    assert seen[1][:2] == (10, "pairs") and seen[1][2] in ({True: 7, False: 3}, {True: 9, False: 1})


# Workers that cannot


def test_a_worker_that_cannot_load_the_model_leaves_and_the_others_go_on(monkeypatch):
    with threads(2) as connection:
        bad = next(iter(connection.client.nthreads()))

        def load(wanted):
            from distributed import get_worker

            if get_worker().address == bad:
                raise worker.Unfit("it cannot load tiny-blip (OutOfMemoryError: 7 GB)")
            return "a model"

        monkeypatch.setattr(worker, "load", load)
        assert len(resume(functions.double, "one", numbered(60))) == 60
        assert bad not in connection.client.nthreads()


@pytest.mark.parametrize("fault", ["model", "version", "code", "home", "folder"])
def test_where_no_worker_can_compute_the_reason_is_said(fault, monkeypatch):
    def cannot(wanted):
        raise worker.Unfit("it cannot load tiny-blip (no memory)")

    words = {
        "model": (worker, "load", cannot, "cannot load tiny-blip .no memory."),
        "version": (worker, "versions", lambda: {"torch": "0.1"}, "it has .* and the notebook has .*one environment"),
        "code": (worker, "package_code", lambda: "other", "code of vlmtrace differs"),
        "home": (worker, "paths", json, "its VLMTRACE_HOME is"),
        "folder": (worker, "seen", lambda path: False, "does not see .*shared file system"),
    }
    module, name, value, sentence = words[fault]
    if fault == "home":

        class Elsewhere:
            ROOT = "/elsewhere"

        value = Elsewhere
    with threads(1):
        monkeypatch.setattr(module, name, value)
        with pytest.raises(VlmtraceError, match=f"No worker of threads can compute double; .*{sentence}"):
            resume(functions.double, fault)


def test_a_scheduler_that_goes_away_is_a_sentence(tmp_path):
    import threading

    with threads(1) as connection:

        def end():
            connection.inner.close()
            (tmp_path / "go").touch()

        timer = threading.Timer(0.5, end)
        timer.start()
        with pytest.raises(VlmtraceError, match=r"scheduler of threads .*the same command continues there"):
            resume(functions.wait_for, folder=str(tmp_path))
        timer.join()
    (tmp_path / "go").touch()
    with threads(1):
        assert len(resume(functions.wait_for, folder=str(tmp_path))) == 10
