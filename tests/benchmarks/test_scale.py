"""Made-up tables keep the contract, both ways of reading them give the same heads, and figures are put into tables."""

import os

import pandas as pd
import pytest

from vlmtrace.benchmarks import scale, scale_effects
from vlmtrace.benchmarks.scale_workers import cpu_seconds, sleep_part
from vlmtrace.core.schema import check_written


def test_made_up_tables_keep_the_contract():
    pairs = check_written("selected", scale_effects.made_up_pairs("rendered_states", 6))
    table = check_written("head_patching", scale_effects.made_up_effects(None, pairs, "text"))
    assert 2 * len(table) == len(pairs) * scale_effects.PER_PAIR
    assert table["patching_effect"].std() > 0.01 and set(table["sample_id"]) == set(pairs["sample_id"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*independent pairs")
def test_both_ways_of_reading_give_the_same_heads(tmp_path):
    rows = scale.bench_effects([40_000], scale.home_with_models(tmp_path / "home"))
    assert [(row["stage"], row["way"]) for row in rows] == [
        ("06", "pandas"), ("06", "stored"), ("report", "stored"), ("05", "pandas"), ("05", "stored")
    ]  # fmt: skip
    assert not [row for row in rows if "failed" in row], rows
    assert all(row["peak_bytes"] >= row["start_bytes"] > 2**26 for row in rows)
    text = scale.render_effects(rows)
    assert "Heads of both ways: the same to the last bit." in text and "notebook 06" in text
    rows[1]["digest"] = "another"
    assert "DIFFERENT" in scale.render_effects(rows)


def test_a_process_that_fails_is_said():
    row = {"effects": 10, "stage": "06", "way": "pandas", "failed": "killed", "code": -9}
    assert "failed: killed" in scale.render_effects([row])


def test_a_part_sleeps_and_says_when():
    table = sleep_part(None, pd.DataFrame({"sample_id": ["a", "b"]}), 0.02)
    assert list(table["sample_id"]) == ["a", "b"] and (table["ended"] - table["began"] >= 0.02).all()
    assert set(table["process"]) == {os.getpid()}


def test_processor_time_of_this_process_grows():
    before = cpu_seconds(os.getpid())
    sum(range(5_000_000))
    after = cpu_seconds(os.getpid())
    assert after > before or before != before, "it stands still"


def test_workers_table():
    row = {
        "workers": 64, "parts": 192, "part_seconds": 10.0, "start_seconds": 9.0, "seconds": 30.6, "efficiency": 0.98,
        "steady_efficiency": 0.99, "parts_per_second": 6.27, "client_cpu_per_part": 0.017,
        "scheduler_cpu_per_part": 0.02,
    }  # fmt: skip
    assert "64    10s    192" in scale.render_workers([row]) and "98.0%" in scale.render_workers([row])
