"""The torture itself can fail: every fault is told from a sentence and from a right result."""

import os
import random
import time

import pytest
import torch
from torture.outcome import FAULTS, HANG, RIGHT, SENTENCE, TRACEBACK, WRONG, Case, Tally, outcome_of
from torture.stages import KilledStages

from vlmtrace.core.errors import VlmtraceError


def fails(error):
    def act():
        raise error

    return act


@pytest.mark.parametrize(
    ("act", "outcome"),
    [
        (lambda: 4, RIGHT),
        (lambda: 5, WRONG),
        (fails(VlmtraceError("The file a.csv is empty: give another.")), SENTENCE),
        (fails(VlmtraceError("Two\nlines.")), WRONG),
        (fails(VlmtraceError("")), WRONG),
        (fails(KeyError("sample_id")), TRACEBACK),
        (fails(SystemExit(1)), TRACEBACK),
        (lambda: time.sleep(5), HANG),
    ],
    ids=["right", "wrong", "sentence", "two lines", "no words", "traceback", "exit", "hang"],
)
def test_an_attempt_is_counted_as_what_it_is(act, outcome):
    case = Case("an input", act, lambda value: None if value == 4 else "it is not 4")
    found, words = outcome_of(case, seconds=0.1)
    assert found == outcome, words


def test_a_refusal_of_what_is_fine_is_a_fault():
    case = Case("an input", fails(VlmtraceError("The file is empty: give another.")), lambda _: None, is_fine=True)
    assert outcome_of(case)[0] == WRONG


def test_faults_are_kept_in_words_and_counted():
    tally = Tally()
    for outcome in (SENTENCE, RIGHT, *FAULTS):
        tally.note("table", outcome, "some words")
    assert len(tally.faults) == len(FAULTS) and tally.total() == 5
    assert tally.table().splitlines()[1].split() == ["table", "1", "1", "1", "1", "1", "5"]


@pytest.mark.medium
def test_killed_stages_that_lose_something_are_told(tmp_path, random_blip, random_pairs, monkeypatch):
    """A writer that writes in place leaves half a file behind when it is killed: the torture must see it."""
    if torch.get_num_threads() > 1:
        pytest.skip("processes are forked, which needs OMP_NUM_THREADS=1, as make sets it")
    pairs = random_pairs.iloc[:2]
    stages, tally = KilledStages(tmp_path / "whole", random.Random(0), random_blip, pairs), Tally()
    stages.kill(4, time.monotonic() + 60, tally)
    assert not tally.faults and tally.total(RIGHT) >= 4

    def in_place(content, path):
        with open(path, "w") as stream:
            stream.write('{"half": ')
            stream.flush()
            os.stat(path)
            (path.parent / "other").mkdir(exist_ok=True)  # an event at which a kill may come
            stream.write('"written"}')

    monkeypatch.setattr("vlmtrace.pipeline.runs.write_json", in_place)
    stages = KilledStages(tmp_path / "half", random.Random(0), random_blip, pairs)
    tally = Tally()
    stages.kill(4, time.monotonic() + 60, tally)
    assert tally.faults, "a run.json that was half written went unnoticed"
