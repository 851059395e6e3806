"""A run of the benchmark on one model: it scores, keeps what is done, and goes on from there."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
from click.testing import CliRunner

import vlmtrace as vt
from vlmtrace.benchmarks.circuits import __main__ as command
from vlmtrace.benchmarks.circuits import runs
from vlmtrace.benchmarks.circuits.node_methods import exact_nodes, scored_nodes
from vlmtrace.benchmarks.circuits.registry import METHODS, Method, chosen_methods
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.known import known_circuit
from vlmtrace.training.planted.proof import color_pairs

NAME = "planted-chain-llava"


@pytest.mark.medium
def test_exact_methods_find_the_circuit_and_a_run_goes_on(tmp_path, monkeypatch):
    methods = chosen_methods(["exact edges", "exact nodes", "relevancy", "random"])
    found = runs.measure([NAME], 1, 1, methods, tmp_path)
    assert set(found["corruption"]) == {"image", "text"} and set(found["kind"]) == {"chain"}
    carrying = found[found["truth"] == "carrying"].set_index(["method", "of", "corruption"])
    for method, of in (("exact edges", "edges"), ("exact edges", "nodes"), ("exact nodes", "heads")):
        for corruption in ("image", "text"):
            row = carrying.loc[(method, of, corruption)]
            assert (row["auc"], row["precision"]) == (1, 1), f"{method}, {of}, {corruption}"
    assert ("relevancy", "heads", "image") in carrying.index and ("relevancy", "nodes", "image") not in carrying.index
    assert (found["seconds"] > 0).all() and found["joint"].isna().all()

    def again(*_):
        raise AssertionError("what was done is done again")

    monkeypatch.setattr(runs, "score_method", again)
    kept = runs.measure([NAME], 1, 1, methods, tmp_path)
    pd.testing.assert_frame_equal(kept, found, check_like=True)
    with pytest.raises(AssertionError, match="done again"):
        runs.measure([NAME], 1, 2, methods, tmp_path)  # other pairs


def test_what_was_scored_against_another_circuit_is_scored_again(tmp_path, monkeypatch):
    folder, scored = tmp_path / "models" / "mine", []

    def score(*_):
        scored.append(True)
        return [{"of": "heads", "truth": "whole", "auc": 1.0}]

    replaced = {
        "MODELS": tmp_path / "models",
        "load_model": lambda name: SimpleNamespace(fingerprint=lambda: "abc"),
        "known_circuit": lambda name: SimpleNamespace(kind="chain"),
        "pairs_of": lambda *_: pd.DataFrame(),
        "score_method": score,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(runs, name, value)
    folder.mkdir(parents=True)
    for number, told in enumerate(('{"kind": "chain"}', '{"kind": "backup"}'), start=1):
        (folder / "circuit.json").write_text(told)
        for _ in range(2):
            runs.measure(["mine"], 1, 1, chosen_methods(["random"]), tmp_path / "parts")
            assert len(scored) == 2 * number, "once for each corruption and circuit"


@pytest.mark.medium
def test_the_command_writes_whole_files_and_shows_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "FOLDER", tmp_path / "circuits")
    given = ["--models", NAME, "--methods", "exact nodes; EAP", "--seeds", "1", "--pairs", "2"]
    ran = CliRunner().invoke(command.main, given, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert "| exact nodes | 1.000" in ran.output and "| EAP | " in ran.output
    written = {path.name for path in (tmp_path / "circuits").iterdir() if path.name != ".lock"}
    assert written == {"parts", "scores.parquet", "circuit_benchmark.json", "circuit_benchmark.png"}
    content = json.loads((tmp_path / "circuits" / "circuit_benchmark.json").read_text())
    assert (content["pairs"], content["seeds"]) == (2, 1) and len(content["methods"]) == 2
    assert len(pd.read_parquet(tmp_path / "circuits" / "scores.parquet")) == len(content["rows"])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [(["--models", "tiny-blip"], "tiny-blip"), (["--methods", "EAPP"], "EAPP"), (["--seeds", "0"], "0 is not in")],
)
def test_a_wrong_value_is_a_sentence(given, sentence):
    ran = CliRunner().invoke(command.main, given)
    assert ran.exit_code != 0 and sentence in ran.output and "Traceback" not in ran.output


@pytest.mark.medium
def test_nodes_patched_are_those_that_patch_whole_heads_patches():
    model = vt.load_model(NAME, check=False)
    pairs = color_pairs(2, seed=3)
    found = exact_nodes(model, pairs, "image").set_index("node")["score"]
    assert list(found.index) == [node.label for node in scored_nodes(model)]
    heads = vt.patch_whole_heads(model, pairs, blocks=["language_model"])
    means = heads.groupby(["layer", "head"])["logit_diff"].mean().abs()
    for (layer, head), effect in means.items():
        assert found[f"language_model.self_attention.{layer}.{head}"] == pytest.approx(effect, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["planted-chain-llava", "planted-chain-blip"])
def test_every_cheap_method_returns_what_it_must(name):
    model, known = vt.load_model(name, check=False), known_circuit(name)
    pairs = color_pairs(1, seed=4)
    slow = ("ACDC", "CLEANN", "EAP-IG-activations")
    for method in [one for one in METHODS.values() if one.name not in slow]:
        rows = runs.score_method(method, model, known, pairs, "image")
        assert {"heads"} <= {row["of"] for row in rows}, method.name
        assert all(0 <= row["auc"] <= 1 and 0 <= row["precision"] <= 1 for row in rows), method.name
        # Attribution and attention reach the heads that read the question, and no other of BLIP's.
        partly = name.endswith("blip") and method.name in ("attribution", "integrated gradients", "attention weight")
        assert all((row["covered"] < 1) == partly for row in rows), method.name


@pytest.mark.medium
def test_a_method_is_given_as_many_pairs_as_it_can_take():
    model, given = vt.load_model(NAME, check=False), []

    def method(model, pairs, corruption):
        given.append((len(pairs), corruption))
        return pd.DataFrame({"node": [node.label for node in scored_nodes(model)], "score": 1.0})

    one = Method("counts", method, "Counts.", most_pairs=1)
    for method in (one, one._replace(most_pairs=None)):
        runs.score_method(method, model, known_circuit(NAME), color_pairs(3), "text")
    assert given == [(1, "text"), (3, "text")]


@pytest.mark.medium
def test_too_few_pairs_are_a_sentence(monkeypatch):
    model = vt.load_model(NAME, check=False)
    monkeypatch.setattr(runs, "eligible", lambda evaluated: evaluated["is_correct"] & (evaluated.index < 1))
    with pytest.raises(VlmtraceError, match="answers 1 of 6 pairs as a minimal pair asks, and 2 are needed"):
        runs.pairs_of(model, 2, 0)
