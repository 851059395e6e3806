"""The page shows what `make circuit-benchmark` wrote; the page on one's own methods has one that runs."""

import importlib
import re
import sys

import pandas as pd
import pytest

import vlmtrace as vt
from vlmtrace.benchmarks.circuits.registry import METHODS, chosen_methods
from vlmtrace.benchmarks.circuits.report import Found
from vlmtrace.benchmarks.circuits.runs import score_method
from vlmtrace.core.paths import ROOT
from vlmtrace.models.known import known_circuit
from vlmtrace.training.planted.known import PLANTED
from vlmtrace.training.planted.proof import color_pairs

DOCS = ROOT / "docs"
PAGE = (DOCS / "circuit_benchmark.md").read_text()
MEASURED = DOCS / "measured" / "circuit_benchmark.json"


@pytest.fixture(scope="module")
def found():
    return Found(MEASURED)


def test_every_table_of_the_page_is_made_from_what_was_measured():
    from generators.reference import GENERATED

    asked = re.findall(r"<!-- generated: (circuit_\w+) -->", PAGE)
    assert set(asked) == {name for name in GENERATED if name.startswith("circuit_")}
    for name in asked:
        text = GENERATED[name]()
        assert len(text) > 40 and "nan" not in text, f"{name}\n{text}"


def test_what_was_measured_is_all_methods_on_all_planted_models(found):
    assert set(found.rows["model"]) == set(PLANTED), "run make circuit-benchmark again, and copy what it wrote"
    assert {name: method.what for name, method in METHODS.items()} == found.methods
    assert len(found.of("heads")) == len(PLANTED) * 2 * len(METHODS)
    assert (DOCS / "images" / "circuit_benchmark.png").is_file()


def test_a_random_ranking_is_at_chance(found):
    for of in ("edges", "nodes", "heads"):
        row = found.summary(of, "auc").loc["random"]
        assert row["low"] <= 0.5 <= row["high"], f"{of}: {row.to_dict()}"


def mean(found, of, figure, method, truth="carrying"):
    return found.summary(of, figure, truth).loc[method, "mean"]


def test_the_page_claims_what_its_tables_show(found):
    """The sentences of "Which method to trust for what", one by one."""
    exact = ("exact edges", "exact edges, noising", "exact nodes", "exact nodes, noising", "exact inputs", "ACDC")
    for name in (*exact, "EAP-IG-inputs", "EAP-IG-activations"):
        rows = found.rows[(found.rows["method"] == name) & (found.rows["truth"] == "carrying")]
        assert (rows[["auc", "precision"]] > 0.98).all(axis=None), f"{name}\n{rows[rows['precision'] <= 0.98]}"
    for name in ("EAP", "clean-corrupted"):
        assert mean(found, "edges", "auc", name) > 0.99 and 0.55 < mean(found, "edges", "precision", name) < 0.75
    assert mean(found, "edges", "precision", "EAP") < mean(found, "edges", "precision", "computed-receivers") < 1
    for name in ("AtP", "QK-fix", "AtP*"):
        assert mean(found, "nodes", "auc", name) > 0.94 and mean(found, "nodes", "precision", name) < 0.95
    heads = found.of("heads")
    heads = heads.assign(blip=heads["model"].str.endswith("blip"))
    by_family = heads.groupby(["method", "blip"], observed=True)[["auc", "covered"]].mean()
    assert by_family.loc[("attribution", False), "auc"] > 0.95 > 0.6 > by_family.loc[("attribution", True), "auc"]
    assert by_family.loc[("attribution", True), "covered"] < 1 == by_family.loc[("attribution", False), "covered"]
    joint = heads.dropna(subset=["joint"]).groupby("method", observed=True)[["joint", "joint_size"]].agg(["min", "max"])
    for name in ("exact edges", "exact nodes", "exact nodes, noising", "exact inputs"):
        low, high = joint.loc[name, "joint_size"]
        assert 0.45 < low <= high < 0.55 and joint.loc[name, ("joint", "min")] == 1, name
    assert (
        joint.loc["ablation by 0", ("joint", "min")] > 0.9 and joint.loc["ablation by 0", ("joint_size", "max")] < 0.05
    )
    for name in ("attention weight", "relevancy", "CLEANN"):
        assert mean(found, "heads", "precision", name) < 0.15, name
    assert by_family.loc[("relevancy", False), "auc"] < 0.3
    assert found.summary("edges", "auc", "whole")["mean"].max() < 0.8
    seconds = heads.groupby("method", observed=True)["seconds"].mean()
    assert seconds["exact nodes"] < seconds[["EAP", "computed-receivers", "attribution", "AtP", "QK-fix"]].min()


def code_of(page):
    return re.findall(r"^```python\n(.*?)^```", (DOCS / "extending" / page).read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.medium
def test_a_method_of_ones_own_as_the_page_writes_it_gets_a_row(tmp_path, monkeypatch):
    own, registered = code_of("scoring.md")
    (tmp_path / "my_methods.py").write_text(own)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        (method,) = chosen_methods(["random", "my_methods:difference"])[1:]
        module = importlib.import_module("my_methods")
        exec(compile(registered, str(tmp_path / "my_methods.py"), "exec"), vars(module))
        assert METHODS["how much differs"].most_pairs == 2
    finally:
        METHODS.pop("how much differs", None)
        sys.modules.pop("my_methods", None)
    name = "planted-chain-llava"
    rows = score_method(method, vt.load_model(name, check=False), known_circuit(name), color_pairs(1), "image")
    table = pd.DataFrame(rows).set_index(["of", "truth"])
    assert list(table.index) == [("heads", "carrying"), ("heads", "whole")]
    assert table.loc[("heads", "carrying"), "covered"] == 1 and table["auc"].between(0, 1).all()
