"""Every line of the accelerator's benchmark runs here on a small model, but what only an accelerator has."""

import json

import pytest
import torch

from vlmtrace.benchmarks import tables
from vlmtrace.benchmarks.accelerator import REAL, TINY, bench_accelerator


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return bench_accelerator(torch.device("cpu"), TINY, tmp_path_factory.mktemp("accelerator"))


def step_of(found, name):
    (step,) = (step for step in found["steps"] if step["name"].startswith(name))
    assert step["status"] == "done", step["sentence"]
    return step


@pytest.mark.medium
def test_all_steps_are_done_and_written(found):
    assert [step["sentence"] for step in found["steps"] if step["status"] != "done"] == []
    assert json.loads(json.dumps(found)) == found
    text = tables.accelerator_table(found)
    assert all(step["name"] in text for step in found["steps"])


@pytest.mark.medium
def test_heads_are_counted(found):
    layers, heads = TINY.large["layers"], TINY.large["heads"]
    one = step_of(found, "all heads of one pair at one position")
    assert one["patches"] == layers * heads and one["operations"] > 0 and 0 < one["share_of_matmul_rate"] < 1
    several = step_of(found, f"all heads of {TINY.pairs} pairs")
    assert several["patches"] == one["patches"] * TINY.pairs
    every = step_of(found, "all heads of one pair at all positions")
    assert every["patches"] == one["patches"] * every["positions_done"]


@pytest.mark.medium
def test_a_sweep_that_runs_out_of_memory_gives_the_same_numbers(found):
    step = step_of(found, "halving")
    assert step["halvings"] >= 1 and step["largest_difference"] <= 1e-2


@pytest.mark.medium
@pytest.mark.parametrize("name", ["differences from hooks, bfloat16", "differences from hooks, float32"])
def test_differences_are_within_what_is_allowed(found, name):
    step = step_of(found, name)
    assert step["dtype"] in name
    assert max(step["largest_difference_of_heads"], step["largest_difference_of_modules"]) <= step["allowed_difference"]


def test_the_plan_is_of_the_published_size():
    assert (REAL.large["layers"], REAL.large["heads"], REAL.large["width"]) == (32, 32, 4096)
    assert (REAL.large["image_size"] // 14) ** 2 == 576
