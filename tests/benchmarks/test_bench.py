"""The command prints its tables, writes them as JSON, and says in a sentence what it cannot do."""

import json

import pytest
from click.testing import CliRunner

from vlmtrace.benchmarks import bench


def run(*arguments, **environment):
    return CliRunner().invoke(bench.main, list(arguments), env=environment)


@pytest.mark.medium
def test_the_accelerator_s_benchmark_can_be_tried_on_a_cpu(tmp_path):
    result = run("--tiny", "--out", str(tmp_path / "new" / "found.json"))
    assert result.exit_code == 0, result.output
    assert "halving after out of memory" in result.output
    written = json.loads((tmp_path / "new" / "found.json").read_text())
    assert {"machine", "steps"} <= set(written) and written["machine"]["device"] == "cpu"


@pytest.mark.parametrize("device", ["cuda:9", "meta", "nonsense"])
def test_a_device_that_is_not_there_is_one_sentence(device, tmp_path):
    result = run("--out", str(tmp_path / "found.json"), VLMTRACE_DEVICE=device)
    assert result.exit_code == 1 and "device" in result.output and len(result.output.splitlines()) == 1
    assert not (tmp_path / "found.json").exists()


def test_a_checkout_that_is_none_is_one_sentence(tmp_path):
    result = run("--against", str(tmp_path), "--size", "small", "--out", str(tmp_path / "found.json"))
    assert result.exit_code == 1 and "There is no package vlmtrace" in result.output


def test_no_patch_to_compare_with_is_refused():
    result = run("--sampled", "0")
    assert result.exit_code == 2 and "0 is not in the range" in result.output


def test_parts_that_are_asked_for_are_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "bundled_models", lambda: [])
    monkeypatch.setattr(bench, "growth", lambda _folder: [])
    found = bench.bench(["small"], ["growth", "road"], sampled=4, folder=tmp_path)
    assert found == {"growth": [], "road": {}}
