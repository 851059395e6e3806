"""Circuits go through files whole, other programs read them, and foreign files give one sentence."""

import json

import networkx as nx
import numpy as np
import pytest

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError


@pytest.fixture(params=["json", "graphml"])
def kind(request):
    return request.param


@pytest.fixture
def circuit(random_blip, drawn_scores):
    found = vt.choose_circuit(random_blip, drawn_scores, 120)
    found.loc[3, "score"] = np.nan
    return found


def test_a_circuit_comes_back_as_it_was(random_blip, circuit, tmp_path, kind):
    path = vt.save_circuit(circuit, tmp_path / f"it.{kind}", random_blip)
    for model in (None, random_blip):
        back = vt.load_circuit(path, model)
        assert back[["sender", "receiver"]].equals(circuit[["sender", "receiver"]])
        np.testing.assert_array_equal(back["score"], circuit["score"])
    without = vt.save_circuit(circuit[["sender", "receiver"]][:0], tmp_path / f"none.{kind}", random_blip)
    assert vt.load_circuit(without, random_blip).empty


def test_other_programs_read_it(random_blip, circuit, tmp_path):
    path = vt.save_circuit(circuit, tmp_path / "it.json", random_blip)
    content = json.loads(path.read_text())
    assert {"nodes", "links", "directed", "graph"} <= set(content), "not what D3 reads"
    graphs = [
        nx.node_link_graph(content, edges="links"),
        nx.read_graphml(vt.save_circuit(circuit, tmp_path / "it.graphml", random_blip)),
    ]
    for graph in graphs:
        assert graph.is_directed() and graph.number_of_edges() == len(circuit)
        head = next(name for name in circuit["sender"] if "attention" in name)
        node = graph.nodes[head]
        assert ".".join(str(node[name]) for name in ("block", "module", "layer", "head")) == head
        weights = nx.get_edge_attributes(graph, "score").values()
        assert sorted(weights) == pytest.approx(sorted(circuit["score"].dropna()))


def test_a_model_of_another_shape_is_refused(random_blip, model_store, circuit, tmp_path, kind):
    path = vt.save_circuit(circuit, tmp_path / f"it.{kind}", random_blip)
    other = model_store.shared("llava")
    with pytest.raises(VlmtraceError, match=r"that has text_encoder of 3 layers with 4 heads .* has language_model of"):
        vt.load_circuit(path, other)
    with pytest.raises(VlmtraceError, match="has no edge from"):
        vt.run_edge_circuits(other, _pairs(), {"it": circuit})


def _pairs():
    return vt.load_pairs("rendered_states", n=1)


def test_wrong_paths_are_refused(random_blip, circuit, tmp_path):
    with pytest.raises(VlmtraceError, match="ends in neither"):
        vt.save_circuit(circuit, tmp_path / "it.csv", random_blip)
    with pytest.raises(VlmtraceError, match="ends in neither"):
        vt.load_circuit(tmp_path / "it.gml")
    with pytest.raises(VlmtraceError, match="There is no file"):
        vt.load_circuit(tmp_path / "it.json")


def test_scores_that_are_no_numbers_are_refused(random_blip, circuit, tmp_path):
    with pytest.raises(VlmtraceError, match="score of the circuit is no number"):
        vt.save_circuit(circuit.assign(score="high"), tmp_path / "it.json", random_blip)
    assert not list(tmp_path.iterdir())
    missing = circuit.assign(score=[None] * len(circuit))
    assert vt.load_circuit(vt.save_circuit(missing, tmp_path / "it.json", random_blip))["score"].isna().all()


GRAPH = (
    '{"directed": true, "multigraph": true, "graph": %s, "nodes": [{"id": "image"}, {"id": "output"}], "links": [%s]}'
)
FINE = '{"format": "vlmtrace edge circuit", "shape": {"stacks": []}}'

#: File name and content of what is no circuit.
FOREIGN = {
    "no JSON": ("json", "{"),
    "a number": ("json", "3"),
    "a list": ("json", "[]"),
    "another graph": ("json", GRAPH % ("{}", "")),
    "attributes that are a list": ("json", GRAPH % ("[1]", "")),
    "a shape that is text": ("json", GRAPH % ('{"format": "vlmtrace edge circuit", "shape": "x"}', "")),
    "a huge number": ("json", GRAPH % (FINE, '{"source": "image", "target": "output", "score": 1e999}')),
    "a huge rank": ("json", GRAPH % (FINE, '{"source": "image", "target": "output", "rank": 1%s}' % ("0" * 400))),
    "a score in words": ("json", GRAPH % (FINE, '{"source": "image", "target": "output", "score": "big"}')),
    "an input that is none": ("json", GRAPH % (FINE, '{"source": "image", "target": "output", "input": "soul"}')),
    "an input that is a list": ("json", GRAPH % (FINE, '{"source": "image", "target": "output", "input": []}')),
    "a node that is a list": ("json", GRAPH % (FINE, '{"source": ["image"], "target": "output"}')),
    "a node without end": ("json", GRAPH % (FINE, '{"source": "%s", "target": "output"}' % ("x" * 1000))),
    "no links": ("json", '{"nodes": []}'),
    "no XML": ("graphml", "<graphml"),
    "other XML": ("graphml", "<html></html>"),
    "entities": (
        "graphml",
        '<?xml version="1.0"?><!DOCTYPE g [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><graphml>&b;</graphml>',
    ),
    "no UTF-8": ("graphml", b"\xff\xfe<\x00"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_foreign_files_give_one_sentence(random_blip, tmp_path, what):
    kind, content = FOREIGN[what]
    path = tmp_path / f"foreign.{kind}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(VlmtraceError) as caught:
        vt.load_circuit(path, random_blip)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 600
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_an_edge_that_another_program_added_is_looked_up(random_blip, circuit, tmp_path):
    path = vt.save_circuit(circuit, tmp_path / "it.json", random_blip)
    content = json.loads(path.read_text())
    content["links"].append({"source": "image", "target": "output", "key": "mine"})
    path.write_text(json.dumps(content))
    assert ("image", "output") in set(vt.load_circuit(path)[["sender", "receiver"]].itertuples(index=False, name=None))
    with pytest.raises(VlmtraceError, match="has no edge from 'image' to 'output'"):
        vt.load_circuit(path, random_blip)
