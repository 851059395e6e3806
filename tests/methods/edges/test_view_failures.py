"""The view of edges where something fails or is refused: what it says and keeps, and how one goes on from there."""

import json

import numpy as np
import pytest
from fixtures.views import click, shown

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display import Session
from vlmtrace.methods.edges import EdgeView, pair_edges
from vlmtrace.methods.edges.image_patches import PatchesOutcome
from vlmtrace.methods.edges.pair_edges import PairEdges


@pytest.fixture
def view(view_model, random_pairs):
    return shown(EdgeView(Session(view_model, random_pairs)))


def test_what_cannot_be_done_is_said(view):
    before = view.canvas.state
    view._receive(None, {"do": "toggle", "sender": "output", "receiver": "image"}, [])
    assert "has no edge from 'output' to 'image'" in view.frame.error and view.chosen == []
    with pytest.raises(VlmtraceError, match="has no node 'x'"):
        view.open("x")
    assert click(view, do="choose", corruption="text")["corruption"] == "text" != before["corruption"]


def test_what_fails_leaves_everything_as_it_was(view, monkeypatch):
    edge = view.canvas.state["edges"][0]
    click(view, do="toggle", sender=edge["sender"], receiver=edge["receiver"])
    state = click(view, do="patch image", patches=[1, 2])
    settings, outcome, opened = view.settings, view.outcome, view.opened

    def refused(**message):
        before = view.canvas.state
        view._receive(None, message, [])
        assert view.frame.error, f"{message} is not refused"
        assert view.canvas.state != before, "the page is not told to show again what is chosen"
        assert {key: view.canvas.state[key] for key in state} == state, "what is drawn is gone, or another"
        assert (view.settings, view.outcome, view.opened, view.query) == (settings, outcome, opened, None)

    refused(do="choose", corruption="sound", n=10)
    refused(do="toggle", sender="output", receiver="image")
    refused(do="patch image", patches=[9999])
    with monkeypatch.context() as broken:
        broken.setattr("vlmtrace.methods.edges.view.opened_node", lambda *_: 1 / 0)
        refused(do="open", node=edge["sender_node"], query=1)
    with pytest.raises(VlmtraceError, match="do nothing to the other question"):
        view.restore({"corruption": "text", "patches": "1", "n": "12"})
    assert view.settings == settings and view.canvas.state["edges"] == state["edges"]
    assert click(view, do="choose", n=12)["n"] == 12


@pytest.mark.parametrize("place", ["drawn_circuit", "every_edge"])
def test_what_is_drawn_of_another_pair_goes_where_this_one_cannot_be_shown(view, random_pairs, monkeypatch, place):
    monkeypatch.setattr(f"vlmtrace.methods.edges.view.{place}", lambda *_: 1 / 0)
    view.session.choose(random_pairs["sample_id"].iloc[1])
    assert view.frame.error and view.canvas.state == {} and view.outcome is None


@pytest.mark.parametrize(
    "settings",
    [{"edges": "output>image"}, {"edges": "x"}, {"edges": "a>b>c"}, {"edges": "prompt@9999>output"},
     {"edges": "prompt@0²>output"}, {"n": "-1"}, {"n": "0"}, {"n": "x"},
     {"patches": "9999"}, {"patches": "²"}, {"corruption": "text", "patches": "3"}, {"edges": "BLOCK.mlp>output"},
     {"edges": "image>BLOCK"}, {"scope": "all"}, {"corruption": "sound"}],
)  # fmt: skip
def test_an_address_that_means_nothing_changes_nothing(view, settings):
    settings = {name: text.replace("BLOCK", view.session.model.head_block.name) for name, text in settings.items()}
    unseen = EdgeView(view.session, hidden=True)
    for one in (view, unseen):
        with pytest.raises(VlmtraceError):
            one.restore({"scope": "run", **settings})
        assert one.settings == {}
    unseen.show()
    assert not unseen.frame.error and unseen.chosen == []


def test_a_link_to_patches_of_the_image_is_of_the_other_image(view):
    """The address names no corrupt run that is the first."""
    view.choose("text")
    view.restore({"patches": "1,2"})
    assert view.corruption == "image" and view.patches == [1, 2] and not view.frame.error


def test_the_other_question_has_no_patches(view):
    click(view, do="patch image", patches=[1, 2])
    state = click(view, do="choose", corruption="text")
    assert state["image"] == {"effects": [], "chosen": [], "outcome": None} and view.patches == []
    view._receive(None, {"do": "patch image", "patches": [1]}, [])
    assert "do nothing to the other question" in view.frame.error and view.patches == []
    assert click(view, do="choose", corruption="image")["corruption"] == "image"


def test_what_is_chosen_and_fails_is_not_tried_in_every_other_pair(view, view_model, random_pairs, monkeypatch):
    edge = view.canvas.state["edges"][0]
    other = EdgeView(Session(view_model, random_pairs), hidden=True)
    other.restore({"edges": f"{edge['sender']}>{edge['receiver']}", "patches": "1"})
    outcome = view.outcome

    def together(numbers, edges):
        if edges:
            raise MemoryError("too much of it")
        return outcome

    monkeypatch.setattr("vlmtrace.methods.edges.view.together", together)
    other.show()
    assert "too much of it" in other.frame.error and other.canvas.state == {}
    other.session.choose(random_pairs["sample_id"].iloc[1])
    assert not other.frame.error and other.canvas.state["chosen"] == [] and other.patches == []


def test_a_pair_that_has_nothing_to_patch_takes_no_edge_away(view, random_pairs):
    edge = view.canvas.state["edges"][0]
    click(view, do="toggle", sender=edge["sender"], receiver=edge["receiver"])
    view.session.ask(clean_image=random_pairs["clean_image"].iloc[0], clean_prompt="is this circle red?")
    assert "has no corrupt run to patch" in view.frame.error and view.canvas.state == {}
    view.session.choose(random_pairs["sample_id"].iloc[0])
    assert not view.frame.error and view.canvas.state["chosen"] == [[edge["sender"], edge["receiver"]]]


def test_where_one_corrupt_run_cannot_be_patched_the_other_is(view_model, random_pairs):
    pairs = random_pairs.head(1).assign(corrupt_image="gone.png")
    view = EdgeView(Session(view_model, pairs), hidden=True)
    view.restore({"patches": "1"})
    view.show()
    state = shown(view).canvas.state
    assert state["corruption"] == "text" and list(state["corruptions"]) == ["image", "text"] and view.patches == []
    view._receive(None, {"do": "choose", "corruption": "image"}, [])
    assert "gone.png does not exist" in view.frame.error and view.corruption == "text"
    assert view.canvas.state != state and view.canvas.state["corruption"] == "text"


def test_a_node_that_could_not_be_opened_is_no_hindrance(view, monkeypatch):
    monkeypatch.setattr(pair_edges, "MOST_EDGES", 10)
    entering, block = PairEdges._entering, view.session.model.head_block.name
    nodes = [f"{block}.mlp.{layer}" for layer in (0, 1)]

    def fail(self, node):
        if node == nodes[0]:
            raise MemoryError("too many edges")
        return entering(self, node)

    monkeypatch.setattr(PairEdges, "_entering", fail)
    view.session.choose(view.session.pairs["sample_id"].iloc[1])
    view._receive(None, {"do": "open", "node": nodes[0]}, [])
    assert "too many edges" in view.frame.error and view.opened == ""
    assert click(view, do="open", node=nodes[1])["node"]["name"] == nodes[1]


def test_an_effect_that_is_missing_is_no_number_in_the_page(view, monkeypatch):
    """No number in JSON is NaN; the gauge says that there is no place between two answers that are the same."""
    nothing = PatchesOutcome(np.array([np.nan]), ["red"])
    monkeypatch.setattr(pair_edges, "image_patch_effects", lambda *_: nothing)
    state = click(view, do="patch image", patches=[1])
    assert state["image"]["outcome"] == {"effect": None, "answer": "red"}
    json.dumps(state, allow_nan=False)
    assert np.isnan(view.session.patched.effect) and view.session.patched.answer == "red"
