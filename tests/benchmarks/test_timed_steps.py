"""A step that takes too long is broken off, and the next one begins."""

import time

import torch

from vlmtrace.benchmarks.timed_steps import TimedSteps
from vlmtrace.core.errors import VlmtraceError


def test_a_step_that_takes_too_long_is_skipped():
    steps = TimedSteps(torch.device("cpu"), total=60)
    began = time.monotonic()
    assert not steps.run("slow", 2.0, lambda _seconds: time.sleep(30) or {})
    assert time.monotonic() - began < 20
    assert steps.run("quick", 10.0, lambda seconds: {"seconds_it_had": seconds})
    slow, quick = steps.records
    assert slow["status"] == "skipped" and "longer than its 2 s" in slow["sentence"]
    assert quick["status"] == "done" and quick["seconds_it_had"] == 10.0


def test_a_step_that_fails_says_why_and_does_not_end_the_others():
    steps = TimedSteps(torch.device("cpu"), total=60)

    def fails(_seconds):
        raise VlmtraceError("it cannot be")

    assert not steps.run("failing", 10.0, fails)
    assert steps.records[0]["status"] == "failed" and steps.records[0]["sentence"] == "it cannot be"
    assert steps.run("next", 10.0, lambda _seconds: {})


def test_nothing_begins_when_no_time_is_left():
    steps = TimedSteps(torch.device("cpu"), total=1)
    assert not steps.run("late", 10.0, lambda _seconds: {"ran": True})
    assert steps.records[0]["status"] == "skipped" and "no time is left" in steps.records[0]["sentence"]
