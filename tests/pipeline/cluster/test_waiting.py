"""What is said while no worker is there."""

from types import SimpleNamespace

import pytest

from vlmtrace.pipeline.cluster import waiting
from vlmtrace.pipeline.cluster.waiting import Waiting, parts_left


def cluster(queued=0, processing=0, workers=0, pending=0):
    states = dict.fromkeys(waiting.UNFINISHED, 0) | {"queued": queued, "processing": processing, "memory": 7}
    scheduler = SimpleNamespace(workers=list(range(workers)), task_groups={"double": SimpleNamespace(states=states)})
    return SimpleNamespace(scheduler=scheduler, requested=set(range(pending)))


@pytest.fixture
def said(monkeypatch):
    sentences, clock = [], [0.0]
    monkeypatch.setattr(waiting, "say", sentences.append)
    monkeypatch.setattr(waiting.time, "monotonic", lambda: clock[0])
    sentences_and_clock = SimpleNamespace(sentences=sentences, clock=clock)
    return sentences_and_clock


def test_what_is_finished_is_not_left():
    assert parts_left(cluster(queued=3, processing=2).scheduler) == 5


def test_it_is_said_once_that_no_worker_comes_with_the_number_of_jobs(said):
    look = Waiting(cluster(queued=9, pending=4), 60, "jobs are pending in Slurm's queue")
    for said.clock[0] in (0, 30, 61, 90, 500):
        look.look()
    (sentence,) = said.sentences
    assert sentence.startswith("9 parts wait, and no worker has come for 60 s: 4 jobs are pending in Slurm's queue.")
    look.cluster.scheduler.workers.append("one")
    look.look()
    assert said.sentences[1:] == ["A worker has come: it goes on."]


def test_nothing_is_said_where_workers_are_there_or_nothing_waits(said):
    for one in (cluster(queued=9, workers=1), cluster()):
        look = Waiting(one, 60, "")
        for said.clock[0] in (0, 100, 200):
            look.look()
    assert not said.sentences
