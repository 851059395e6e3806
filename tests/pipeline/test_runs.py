"""Runs: their names, their tables, and one record of all stages."""

import json

import pandas as pd
import pytest
from fixtures.walked_stages import pairs, road

from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.runs import open_run


@pytest.fixture(autouse=True)
def runs_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


@pytest.mark.parametrize("name", ["", "a b", "../x", ".hidden", "a/b", "-n"])
def test_a_run_cannot_have_a_name_that_is_no_folder(name):
    with pytest.raises(VlmtraceError, match="run cannot be called"):
        open_run(name)


def test_run_json_says_how_every_stage_was_made(runs_folder):
    road()
    record = json.loads((runs_folder / "r" / "run.json").read_text())
    assert list(record["stages"]) == ["t/01_preprocess", "t/02_evaluate"]
    stage = record["stages"]["t/02_evaluate"]
    assert stage["parameters"] == {"seed": 0, "model": "tiny", "fingerprint": "f1"}
    assert stage["reads"].keys() == {"t/pairs"} and stage["writes"].keys() == {"t/evaluated"}
    assert stage["reads"]["t/pairs"] == record["stages"]["t/01_preprocess"]["writes"]["t/pairs"]
    assert 0 <= stage["seconds"] < 60
    assert record["parameters"] == {"seed": 0, "model": "tiny"} and record["model_fingerprint"] == "f1"
    assert record["versions"].keys() >= {"python", "torch", "transformers", "vlmtrace"}


def test_a_table_comes_back_as_it_was_written():
    road()
    pd.testing.assert_frame_equal(open_run("r").table("evaluated", "t"), pairs())


def test_a_missing_table_is_a_sentence():
    with pytest.raises(VlmtraceError, match=r"no table .*pairs\.parquet: run the notebook"):
        open_run("r").stage("02_evaluate", "t").read("pairs")


def test_a_damaged_run_json_is_a_sentence(runs_folder):
    road()
    (runs_folder / "r" / "run.json").write_text("{")
    with pytest.raises(VlmtraceError, match="not valid JSON"):
        open_run("r").stage("03_select_samples", "t").read("evaluated")


def test_stages_of_two_processes_end_up_in_one_record(runs_folder):
    run = open_run("r")
    entry = {"parameters": {}, "reads": {}, "writes": {}, "figures": [], "seconds": 1.0}
    for i in range(20):
        run.update(f"t{i}/01_preprocess", entry)
    assert len(run.record()["stages"]) == 20
