"""Tables and figure say what the file holds; the file in the documentation is one of the benchmark."""

import re

import numpy as np
import pandas as pd
import pytest

from vlmtrace.benchmarks.circuits.__main__ import METHODS
from vlmtrace.benchmarks.circuits.figures import benchmark_figure
from vlmtrace.benchmarks.circuits.report import (
    Found,
    backup_table,
    collected,
    edges_table,
    kinds_table,
    methods_table,
    nodes_table,
    sizes,
    write_collected,
)
from vlmtrace.core.errors import VlmtraceError

MODELS = {"planted-chain-llava": "chain", "planted-backup-blip": "backup", "planted-against-llava": "against"}


def measured():
    """Figures as `runs.measure` returns them: areas of .7, .8 and .9 by model, and .02 more in the second seed."""
    rows = []
    for seed in (0, 1):
        for i, (model, kind) in enumerate(MODELS.items()):
            for corruption in ("image", "text"):
                for method, kinds in (("EAP", ("edges", "nodes", "heads")), ("relevancy", ("heads",))):
                    for of in kinds:
                        for truth in ("carrying", "whole"):
                            joint = 0.5 if kind == "backup" and corruption == "image" and of != "edges" else None
                            rows.append(
                                {
                                    "model": model, "kind": kind, "seed": seed, "corruption": corruption,
                                    "method": method, "of": of, "truth": truth, "n": 40, "n_true": 4,
                                    "auc": 0.7 + 0.1 * i + 0.02 * seed, "precision": 0.5, "covered": 1.0,
                                    "joint": joint, "joint_size": joint, "seconds": 0.25,
                                }
                            )  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def found(tmp_path):
    methods = [METHODS["EAP"], METHODS["relevancy"]]
    write_collected(collected(measured(), methods, 4), tmp_path / "found.json")
    return Found(tmp_path / "found.json")


def test_models_are_what_intervals_are_over(found):
    summary = found.summary("edges", "auc")
    assert list(summary.index) == ["EAP"] and summary.loc["EAP", "mean"] == pytest.approx(0.81)
    # Three models that differ by .1: by Student's t with two degrees of freedom, no less.
    half = 4.303 * 0.1 / np.sqrt(3)
    assert summary.loc["EAP", "low"] <= 0.81 - half + 1e-3 and summary.loc["EAP", "high"] == 1, "no area is above 1"
    assert summary.loc["EAP", "low"] >= 0


def test_seeds_of_a_model_are_averaged(found):
    rows = found.of("heads").set_index(["method", "model", "corruption"])
    row = rows.loc[("relevancy", "planted-chain-llava", "text")]
    assert row["auc"] == pytest.approx(0.71) and row["auc_sd"] == pytest.approx(0.0141, abs=1e-4)
    assert found.seeds == 2 and found.pairs == 4
    assert sizes(found).startswith("3 models, 2 seeds of 4 pairs, both corruptions. Between seeds")
    assert "0.014 on average" in sizes(found)


def test_tables_hold_the_figures(found):
    assert re.search(
        r"\| EAP \| 0\.810 \(\d\.\d\d–1\.00\) \| 0\.500 \(0\.50–0\.50\) \| 0\.810 \| 0\.25 \|", edges_table(found)
    )
    nodes = nodes_table(found)
    assert re.search(r"\| relevancy \| – \| – \| 0\.810 .* \| 100% \| 0\.25 \|", nodes), nodes
    assert "| relevancy | 50% | 0.500 |" in backup_table(found)
    assert "| method | found in planted-backup-blip | score in planted-backup-blip |" in backup_table(found)
    kinds = kinds_table(found)
    assert "| AUC, heads | chain | backup | against | image | text | llava | blip |" in kinds
    assert "| EAP | 0.71 | 0.81 | 0.91 | 0.81 | 0.81 | 0.81 | 0.81 |" in kinds
    assert f"| EAP | {METHODS['EAP'].what} | 4 |" in methods_table(found)


def test_one_model_alone_has_no_interval(tmp_path):
    one = measured()[lambda t: t["model"] == "planted-chain-llava"]
    write_collected(collected(one, [METHODS["EAP"], METHODS["relevancy"]], 4), tmp_path / "one.json")
    found = Found(tmp_path / "one.json")
    assert "| EAP | 0.710 | 0.500 |" in edges_table(found)
    assert "| EAP | 0.710 | 0.500 | 0.710 | 0.500 | 100% |" in nodes_table(found)
    benchmark_figure(found)


def test_a_method_that_lacks_a_model_is_told_with_those_that_it_has(tmp_path):
    every = measured()
    lacks = (every["method"] == "EAP") & (every["model"] == "planted-backup-blip")
    write_collected(collected(every[~lacks], [METHODS["EAP"], METHODS["relevancy"]], 4), tmp_path / "some.json")
    found = Found(tmp_path / "some.json")
    summary = found.summary("heads", "auc")
    assert summary[["n", "of"]].to_numpy().tolist() == [[2, 3], [3, 3]]
    assert summary["mean"].tolist() == pytest.approx([0.81, 0.81])
    assert re.search(r"\| EAP \| 0\.810 \(\d\.\d\d–1\.00\) \|", edges_table(found)), "no method has edges of the third"
    assert re.search(r"\| EAP \| .* 0\.810 \(\d\.\d\d–1\.00, 2 of 3 models\)", nodes_table(found))
    assert re.search(r"\| relevancy \| – \| – \| 0\.810 \(\d\.\d\d–1\.00\) \|", nodes_table(found))
    assert "| EAP | 0.71 | – | 0.91 |" in kinds_table(found) and "nan" not in kinds_table(found) + backup_table(found)
    benchmark_figure(found)


def test_the_figure_shows_every_model_and_method(found):
    figure = benchmark_figure(found)
    assert [axes.get_title() for axes in figure.axes] == [
        "edges: area under ROC", "edges: precision at the true size",
        "heads: area under ROC", "heads: precision at the true size",
    ]  # fmt: skip
    heads = figure.axes[2]
    assert [text.get_text() for text in heads.get_yticklabels()] == ["EAP", "relevancy"]
    drawn = sorted(line.get_xdata()[0] for line in heads.lines if line.get_marker() in ("o", "s"))
    assert drawn == pytest.approx(sorted([0.71, 0.81, 0.91] * 2))
    assert {text.get_text() for text in figure.axes[0].get_legend().get_texts()} == set(MODELS)


def test_another_file_is_a_sentence(tmp_path):
    for text in ("{}", '{"pairs": 1, "seeds": 1, "methods": [], "columns": ["a"], "rows": [["b"]]}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(VlmtraceError, match="not what make circuit-benchmark writes"):
            Found(tmp_path / "other.json")
