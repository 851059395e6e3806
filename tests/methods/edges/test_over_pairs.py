"""Edges over pairs: read from a run's table where there is one, otherwise patched in a few pairs."""

import json

import pandas as pd
import pytest

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.edges import patch_edges
from vlmtrace.methods.edges.over_pairs import N_PAIRS, edges_of_pairs, edges_of_run


@pytest.fixture
def run(tmp_path):
    rows = [
        {"sample_id": f"p{i}", "task": task, "corruption": corruption, "direction": way, "sender": "image",
         "receiver": "output", "patching_effect": 0.1 * i}
        for i in range(3) for task in ("a", "b") for corruption in ("image", "text") for way in ("denoising", "noising")
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "edge_patching.parquet")
    return tmp_path


def test_a_runs_table_is_read_for_the_corruption_and_task(run):
    found = edges_of_run(run, "m", "image", "a")
    assert found.table["patching_effect"].tolist() == pytest.approx([0, 0.1, 0.2])
    assert set(found.table["direction"]) == {"denoising"} and set(found.table["task"]) == {"a"}
    assert found.source == f"mean over 3 pairs of run {run.name}"


def test_a_run_without_such_edges_gives_none(run, tmp_path):
    assert edges_of_run(None, "m", "image") is None
    assert edges_of_run(run, "m", "image", "another task") is None
    (run / "run.json").write_text(json.dumps({"made_from": {"x": {"parameters": {"model": "other"}}}}))
    assert edges_of_run(run, "m", "image", "a") is None, "edges of another model"


def test_a_few_pairs_are_patched_and_counted(random_blip, random_pairs):
    found = edges_of_pairs(random_blip, random_pairs, "image", receivers=["output"])
    exact = patch_edges(random_blip, random_pairs.head(N_PAIRS), "image", receivers=["output"])
    pd.testing.assert_frame_equal(found.table, exact)
    assert f"first {min(N_PAIRS, len(random_pairs))} pairs" in found.source
    with pytest.raises(VlmtraceError, match="have no correct_answer"):
        edges_of_pairs(random_blip, random_pairs.drop(columns="correct_answer"), "image")
