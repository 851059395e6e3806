"""Which of Slurm's jobs are given up: those that are over and whose worker is not there."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from vlmtrace.pipeline.cluster import lost_jobs
from vlmtrace.pipeline.cluster.lost_jobs import FAILURES, LostJobs


@pytest.fixture
def cluster():
    jobs = {f"job-{i}": SimpleNamespace(job_id=str(i)) for i in range(4)}
    workers = {"tls://1": SimpleNamespace(name="job-1")}
    return SimpleNamespace(workers=jobs, worker_spec=dict(jobs), scheduler=SimpleNamespace(workers=workers))


def look(cluster, monkeypatch, queue, lost=None):
    """Look once at a queue that holds these jobs."""

    async def jobs_in_queue():
        return queue

    monkeypatch.setattr(lost_jobs, "jobs_in_queue", jobs_in_queue)
    lost = lost or LostJobs(cluster, Path("logs"))
    lost.next = 0.0
    asyncio.run(lost.look())
    return lost


def test_only_jobs_that_are_over_and_have_no_worker_are_given_up(cluster, monkeypatch):
    look(cluster, monkeypatch, {"0"})
    # job-0 is pending, the worker of job-1 is there; job-2 and job-3 are over.
    assert set(cluster.workers) == set(cluster.worker_spec) == {"job-0", "job-1"}


def test_a_queue_that_does_not_answer_changes_nothing(cluster, monkeypatch):
    look(cluster, monkeypatch, None)
    assert len(cluster.workers) == len(cluster.worker_spec) == 4


def test_jobs_that_never_come_are_told_once_and_a_worker_ends_the_complaint(cluster, monkeypatch, capsys):
    lost = look(cluster, monkeypatch, set())
    assert lost.failures == FAILURES
    cluster.workers["job-4"] = SimpleNamespace(job_id="4")
    look(cluster, monkeypatch, set(), lost)
    said = capsys.readouterr()
    assert (said.out + said.err).count("ended before their worker came") == 1
    cluster.scheduler.workers["tls://5"] = SimpleNamespace(name="job-5")
    look(cluster, monkeypatch, set(), lost)
    assert lost.failures == 0 and not lost.said


def test_a_worker_that_came_and_went_with_its_job_is_no_failure(cluster, monkeypatch):
    lost = look(cluster, monkeypatch, {"0", "1", "2", "3"})
    cluster.scheduler.workers.clear()
    look(cluster, monkeypatch, {"0", "2", "3"}, lost)
    assert "job-1" not in cluster.worker_spec and lost.failures == 0
