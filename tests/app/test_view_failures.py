"""Every view where another example or place cannot be shown: nothing of the one before is taken for it."""

import pytest
from fixtures.views import shown

from vlmtrace import app
from vlmtrace.app.tabs import declared_views
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display import Session
from vlmtrace.methods.attention import Attention
from vlmtrace.methods.circuits.card import HeadCard
from vlmtrace.methods.relevancy import RelevancyView


def no_room(*_, **__):
    raise MemoryError("no room for it")


@pytest.fixture
def session(random_blip, random_pairs):
    return Session(random_blip, random_pairs)


def choose_another(session):
    session.choose(session.pairs["sample_id"].iloc[1])


@pytest.mark.parametrize("kind", declared_views()[1:], ids=lambda kind: kind.title)
def test_what_is_drawn_of_another_example_goes(session, kind, monkeypatch):
    view = shown(kind(session))
    assert view.canvas.state
    monkeypatch.setattr(view, "load", no_room)
    choose_another(session)
    assert "no room for it" in view.frame.error and view.canvas.state == {}


@pytest.mark.parametrize(
    ("kind", "place"),
    [(Attention, "attention.view.record_of"), (RelevancyView, "relevancy.view.relevancy")],
    ids=["attention", "relevancy"],
)
def test_numbers_of_another_example_are_not_exported_as_this_ones(session, kind, place, monkeypatch):
    view = shown(kind(session))
    assert len(view.table)
    monkeypatch.setattr(f"vlmtrace.methods.{place}", no_room)
    choose_another(session)
    with pytest.raises(VlmtraceError, match="has not been computed"):
        view.export("csv")


def test_where_another_pair_is_chosen_the_choice_stays_and_goes_back(session, monkeypatch):
    view = shown(app.Ask(session))
    before = view.canvas.state
    monkeypatch.setattr(view, "load", no_room)
    choose_another(session)
    assert view.canvas.state == {**before, "nRefused": 1}


def test_a_card_of_another_head_goes(session, monkeypatch):
    block = session.model.head_block
    card = HeadCard(session, hidden=True)
    session.select(f"{block.name}.{block.head_modules[-1]}.1.0")
    card.show()
    assert shown(card).canvas.state["label"].endswith(".1.0")
    monkeypatch.setattr(card, "_attention", no_room)
    session.select(f"{block.name}.{block.head_modules[-1]}.1.1")
    assert "no room for it" in card.frame.error and card.canvas.state == {}


def test_a_card_is_of_the_corrupt_run_that_can_be_patched(random_blip, random_pairs):
    session = Session(random_blip, random_pairs.head(1).assign(corrupt_image="gone.png"))
    block = session.model.head_block
    session.select(f"{block.name}.{block.head_modules[-1]}.1.0")
    card = shown(HeadCard(session))
    assert card.numbers["corruption"] == "text" and "hereRefused" not in card.numbers


def test_a_module_that_is_refused_is_not_chosen_in_the_page(session):
    view = shown(Attention(session))
    before = view.canvas.state
    view._receive(None, {"do": "place", "place": "text_encoder.mlp"}, [])
    assert view.frame.error and view.canvas.state == {**before, "nRefused": 1} and view.place is None
