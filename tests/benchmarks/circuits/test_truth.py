"""What a table of scores says of a planted model, whatever it holds."""

import numpy as np
import pandas as pd
import pytest

import vlmtrace as vt
from vlmtrace.benchmarks.circuits.edge_methods import edges
from vlmtrace.benchmarks.circuits.node_methods import DRAWS, random, scored_nodes
from vlmtrace.benchmarks.circuits.registry import Method
from vlmtrace.benchmarks.circuits.runs import score_method, score_rows
from vlmtrace.benchmarks.circuits.truth import Target, ranked, targets_of
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.known import known_circuit

NAME = "planted-backup-llava"


@pytest.fixture(scope="module")
def model():
    return vt.load_model(NAME, check=False)


@pytest.fixture(scope="module")
def known():
    return known_circuit(NAME)


def knows_edges(known):
    def method(model, pairs, corruption):
        table = edges(model)[["sender", "receiver"]].astype(str)
        true = known.true_edges(corruption)
        return table.assign(score=[float(edge in true) for edge in zip(table.sender, table.receiver, strict=True)])

    return Method("truth", method, "Knows the truth.")


def scored(method, model, known, corruption="image"):
    pairs = pd.DataFrame({"sample_id": ["a"], "clean_prompt": ["Is it?"]})
    return pd.DataFrame(score_method(method, model, known, pairs, corruption)).set_index(["of", "truth"])


@pytest.mark.medium
@pytest.mark.parametrize("corruption", ["image", "text"])
def test_the_truth_has_area_and_precision_1(model, known, corruption):
    found = scored(knows_edges(known), model, known, corruption)
    assert {of for of, _ in found.index} == {"edges", "nodes", "heads"}
    for of in ("edges", "nodes", "heads"):
        row = found.loc[(of, "carrying")]
        assert (row["auc"], row["precision"], row["covered"]) == (1, 1, 1), f"{of}\n{found}"
    # What is the same in both runs belongs to the circuit, but no patch shows it.
    whole, carrying = found.loc[("edges", "whole")], found.loc[("edges", "carrying")]
    assert whole["n_true"] == len(known.edges) and carrying["n_true"] == len(known.true_edges(corruption))
    assert whole["n"] == len(edges(model)) and carrying["n"] == whole["n"] - whole["n_true"] + carrying["n_true"]
    assert 0.5 < whole["auc"] < 1
    if corruption == "image":
        assert found.loc[("heads", "carrying"), "joint"] == 1
    else:
        assert pd.isna(found.loc[("heads", "carrying"), "joint"]), "both movers move the same under another question"


@pytest.mark.medium
def test_one_of_two_that_back_each_other_up_is_half_of_them(model, known):
    first, second = known.joint

    def method(model, pairs, corruption):
        nodes = [node.label for node in scored_nodes(model)]
        true = known.true_nodes(corruption) - {second}
        return pd.DataFrame({"node": nodes, "score": [2.0 if n in true else 1.0 - (n == second) for n in nodes]})

    found = scored(Method("half", method, "Finds one."), model, known).loc[("heads", "carrying")]
    assert found["joint"] == 0.5 and found["joint_size"] == 0.5 and first in known.true_nodes("image")
    assert found["precision"] == pytest.approx(2 / 3, abs=1e-3)


@pytest.mark.medium
def test_a_random_ranking_has_about_one_half(model, known):
    found = scored(Method("random", random, "Draws."), model, known)
    # The standard error of a mean over draws is at most this (Hanley and McNeil 1982, of two like distributions).
    for (of, truth), row in found.iterrows():
        n_true, n = row["n_true"], row["n"]
        error = np.sqrt((n + 1) / (12 * n_true * (n - n_true)) / DRAWS)
        assert abs(row["auc"] - 0.5) < 4 * error, (of, truth)
        assert abs(row["precision"] - n_true / n) < 4 * np.sqrt(0.25 / n_true / DRAWS), (of, truth)


def tables(model):
    nodes = [node.label for node in scored_nodes(model)]
    return pd.DataFrame({"node": nodes, "score": np.arange(len(nodes), dtype=float)})


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda t: t.assign(node="language_model.mlp.9"), "'language_model.mlp.9', which m does not have"),
        (lambda t: t.assign(node="language_model.self_attention.0.0"), "scores something twice"),
        (lambda t: t.drop(columns="score"), "has to return a table with the column score"),
        (lambda t: t.drop(columns="node"), "has to return a table with the column score"),
        (lambda t: None, "has to return a table with the column score"),
        (lambda t: t.assign(score=np.nan), "no finite numbers"),
        (lambda t: t.assign(score="much"), "no finite numbers"),
        (
            lambda t: t.assign(sender="image", receiver="output")[["sender", "receiver", "score"]],
            "'image → output', which m does not have|scores something twice",
        ),
    ],
)
def test_what_a_method_must_not_return_is_a_sentence(model, known, spoil, sentence):
    with pytest.raises(VlmtraceError, match=sentence):
        ranked(spoil(tables(model)), targets_of(model, known, "image"), "bad", "m")


def test_what_a_table_leaves_out_comes_last(model, known):
    targets = targets_of(model, known, "image")
    heads = tables(model)[lambda t: ~t["node"].str.contains("mlp")]
    found = ranked(heads.tail(3), targets, "some", NAME)
    assert set(found) == {"heads"}, "a table without an mlp is scored over heads alone"
    assert np.isfinite(found["heads"]).sum() == 3 and found["heads"].shape == (1, 32)
    # Names of the image, the prompt and the output are no mistake, but they are not ranked.
    more = pd.concat([tables(model), pd.DataFrame({"node": ["image", "prompt"], "score": 99.0})])
    assert ranked(more, targets, "more", NAME)["nodes"].max() < 99


def test_a_node_is_as_good_as_the_best_edge_that_it_sends(model, known):
    targets = targets_of(model, known, "image")
    table = edges(model)[["sender", "receiver"]].astype(str)
    table["score"] = np.random.default_rng(0).random(len(table))
    found = ranked(table, targets, "edges", NAME)
    best = table.groupby("sender")["score"].max()
    assert found["nodes"][0] == pytest.approx(best[targets["nodes"].labels].to_numpy())
    given = pd.concat([table, tables(model)], ignore_index=True)
    assert ranked(given, targets, "both", NAME)["nodes"][0].tolist() == list(range(36)), "scores of its own come first"


def test_several_draws_are_averaged(model, known):
    targets = targets_of(model, known, "image")
    up, down = tables(model), tables(model)
    down["score"] *= -1
    both = pd.concat([up.assign(draw=0), down.assign(draw=1)], ignore_index=True)
    found = ranked(both, targets, "both", NAME)["nodes"]
    assert found.shape == (2, 36)
    assert score_rows(found, targets["nodes"], "carrying")["auc"] == pytest.approx(0.5)


def test_where_nothing_is_true_nothing_is_scored():
    none, some = np.zeros(3, dtype=bool), np.array([True, False, False])
    target = Target(pd.Index(list("abc")), none, some, none)
    assert score_rows(np.ones((1, 3)), target, "carrying") is None
    row = score_rows(np.ones((1, 3)), target, "whole")
    assert row["auc"] == 0.5 and row["precision"] == pytest.approx(1 / 3) and row["joint"] is row["joint_size"] is None
