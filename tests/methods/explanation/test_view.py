"""The view Causal graph without a browser: it waits until it is asked, and says how near the search came."""

import dataclasses

import pandas as pd
import pytest
from fixtures.views import shown

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display import Session
from vlmtrace.methods.explanation import view as view_module
from vlmtrace.methods.explanation.view import CausalView


@pytest.fixture
def view(view_model, random_pairs):
    return shown(CausalView(Session(view_model, random_pairs)))


def test_nothing_is_computed_before_it_is_asked(view, monkeypatch):
    assert view.found is None and view.canvas.state["waits"] and view.canvas.state["graphs"] is None
    with pytest.raises(VlmtraceError, match="has not been computed"):
        view.table  # noqa: B018 - what is tested is that it cannot be had
    view._receive(None, {"do": "compute"}, [])
    assert not view.frame.error and view.found is not None and not view.canvas.state["waits"]


def test_a_search_that_fails_waits_to_be_asked_again(view, monkeypatch):
    monkeypatch.setattr(view_module, "explain", lambda *_, **__: 1 / 0)
    view._receive(None, {"do": "compute", "layer": 0}, [])
    assert view.frame.error and view.canvas.state["layer"] == 0
    assert view.canvas.state["waits"], "the page says that the graphs are being computed"


@pytest.mark.medium
def test_what_was_computed_is_there_when_one_comes_back(view, random_pairs, monkeypatch):
    found = view.compute()
    view.session.choose(random_pairs["sample_id"].iloc[1])
    assert view.found is None and view.canvas.state["waits"]
    monkeypatch.setattr(view_module, "explain", lambda *_, **__: pytest.fail("computed twice"))
    view.session.choose(random_pairs["sample_id"].iloc[0])
    assert view.found is found and not view.canvas.state["waits"]


@pytest.mark.medium
def test_the_causal_graph_is_what_its_code_gives(view, view_model, monkeypatch):
    monkeypatch.setattr(vt, "load_model", lambda name: view_model)
    view.compute()
    names: dict = {}
    exec(view.code(), names)
    found = names["found"]
    assert str(found) == str(view.found)
    pd.testing.assert_frame_equal(found.tried, view.found.tried)
    state = view.canvas.state
    for head, graph in view.found.graphs.items():
        sent = state["graphs"][str(head)]
        assert len(sent["nodes"]) == len(graph.tokens) and len(sent["edges"]) == len(graph.edges)
    assert set(view.edges["head"]) <= set(view.found.graphs)
    assert view.compute(threshold=0.2).graphs.keys() <= found.graphs.keys(), "fewer tokens, no more graphs"


@pytest.mark.medium
def test_how_near_a_search_in_vain_came(view, monkeypatch):
    found = view.compute()
    tried = pd.DataFrame(
        [(0, 1, 1.0, "image a", "x", 0.9, False), (0, 2, 3.0, "image a, image b", "x", 0.6, False)],
        columns=["head", "size", "distance", "tokens", "answer", "probability", "changed"],
    )
    vain = dataclasses.replace(found, head=None, tried=tried, probability=0.95, becomes=None)
    assert vain.nearest["tokens"] == "image a, image b"
    assert "The nearest comes from 0.950 to 0.600, by masking image a, image b." in str(vain)
    assert view_module._nearest(vain) == {"tokens": "image a, image b", "probability": 0.6}
    assert "The nearest" not in str(dataclasses.replace(vain, tried=tried.iloc[:0]))
