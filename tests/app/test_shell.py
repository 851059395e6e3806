"""The explorer's one screen without a browser: views, selection, the model that changes, and the address."""

import pytest

from vlmtrace import app
from vlmtrace.app.address import IN_APP, Address
from vlmtrace.app.tabs import declared_cards, declared_views
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display import Session, View


@pytest.fixture
def session(model_store, random_pairs):
    return Session(model_store.shared("random_blip"), random_pairs)


class Quick(View):
    """Shows nothing, at once."""

    title, name, order = "Quick", "quick", 15

    def build(self):
        self.loaded, self.chosen = [], {}
        return []

    def load(self):
        self.loaded.append((self.example.name, self.selected and self.selected.label))

    def selection_changed(self):
        self.load()

    @property
    def settings(self):
        return self.chosen

    def restore(self, settings):
        if settings and set(settings) != {"level"}:
            raise VlmtraceError(f"Quick has no setting {min(settings)!r}.")
        self.chosen = dict(settings)


class Other(Quick):
    title, name, home = "Other", "other", True


class Card(Quick):
    title, name, pane = "Card", "card", "card"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("vlmtrace.app.shell.declared_views", lambda: [Quick, Other])
    monkeypatch.setattr("vlmtrace.app.shell.declared_cards", lambda: [Card])


def head_of(session, layer=1, head=0):
    block = session.model.head_block
    return f"{block.name}.{block.head_modules[-1]}.{layer}.{head}"


def test_every_view_of_a_method_has_a_place():
    assert {view.pane for view in declared_views()} == {"middle"} and {view.pane for view in declared_cards()} <= {
        "card"
    }
    assert sum(view.home for view in declared_views()) <= 1, "one view is home"


def test_home_is_open_and_the_others_wait(session, quick):
    shown = app.explorer(session)
    assert shown.bar.chosen == "Other" and shown.bar.views[0] == ["Other", False]
    assert len(shown.views["Other"].loaded) == 1 and not shown.views["Quick"].loaded
    assert [view.box.layout.display for view in shown.views.values()] == ["none", None]
    with pytest.raises(VlmtraceError, match="view"):
        shown.open("x")
    assert shown.bar.chosen == "Other"


def test_where_home_cannot_show_the_example_another_view_is_open(session, quick, monkeypatch):
    def refuse(self):
        raise VlmtraceError("The edges of this model are not known.")

    monkeypatch.setattr(Other, "load", refuse)
    assert app.explorer(session).bar.chosen == "Quick"


def test_the_card_shows_what_is_selected(session, quick):
    shown = app.explorer(session)
    (card,) = shown.cards
    assert card.box.layout.display == "none" and shown.side.hint
    session.select(head_of(session))
    assert card.box.layout.display is None and shown.side.selected == head_of(session) and not shown.side.hint
    assert card.loaded == [(session.example.name, head_of(session))]
    session.select(head_of(session, head=1))
    session.choose(session.pairs["sample_id"].iloc[1])
    assert card.loaded[1:] == [(session.pairs["sample_id"].iloc[i], head_of(session, head=1)) for i in (0, 1)]
    session.select("image")
    session.choose(session.pairs["sample_id"].iloc[0])
    assert card.box.layout.display == "none" and len(card.loaded) == 3, "it shows heads only"


def test_a_view_opens_another_one(session, quick):
    shown = app.explorer(session)
    assert session.open("Quick", {"level": "3"}) and shown.bar.chosen == "Quick"
    assert shown.views["Quick"].chosen == {"level": "3"}
    assert not Session(session.model, session.pairs).open("Quick"), "nobody listens"


# The address -----------------------------------------------------------


def test_what_is_shown_is_sent_and_opened_again(session, quick):
    first = app.explorer(session)
    session.choose(session.pairs["sample_id"].iloc[1])
    session.select(head_of(session), [1, 2])
    first.open("Quick").restore({"level": "7"})
    first.views["Quick"].settings_changed()
    sent = first.bar.address
    second = app.explorer(Session(session.model, session.pairs))
    assert second.bar.address != sent
    assert second.follow_address(sent) == [] and second.bar.address == sent
    assert second.session.selected == session.selected and second.views["Quick"].chosen == {"level": "7"}


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("pair=x", "There is no pair 'x'"),
        ("view=x", "view"),
        ("select=x", "names no place"),
        ("select=image@x", "image"),
        ("model=../../etc/passwd", "model"),
        ("model=someone/else", "model"),
        ("view=quick&color=1", "no setting 'color'"),
        ("a=1&a=2", "cannot be read"),
    ],
)
def test_what_is_not_there_is_said_and_the_rest_is_shown(session, quick, asked, sentence, monkeypatch):
    monkeypatch.setattr("vlmtrace.app.shell.load_model", lambda name: pytest.fail(f"{name} would have been loaded"))
    shown = app.explorer(session)
    before = shown.address
    troubles = shown.follow_address(asked)
    if asked == "select=image@x":
        assert troubles[0].startswith("'x' are no positions")
    else:
        (trouble,) = troubles
        assert sentence in trouble
    assert shown.address._replace(view="", settings={}) == before._replace(view="", settings={})


def test_the_app_waits_for_its_address(session, quick, monkeypatch):
    monkeypatch.setenv(IN_APP, "1")
    shown = app.explorer(session)
    assert not shown.bar.chosen and not any(view.loaded for view in shown.views.values())
    shown._receive(shown.bar, {"do": "follow", "address": "view=quick"}, [])
    assert shown.bar.chosen == "Quick" and not shown.views["Other"].loaded
    shown._receive(shown.bar, {"do": "follow", "address": "pair=x"}, [])
    assert shown.bar.said.startswith("There is no pair 'x'")


# The model -----------------------------------------------------------


def test_another_model_is_asked_the_same(session, quick, model_store):
    other = Session(model_store.shared("llava"), session.pairs)
    shown = app.explorer(session, open_session=lambda name: other)
    shown.models = [session.model.name, other.model.name]
    session.choose(session.pairs["sample_id"].iloc[1])
    session.select(head_of(session))
    shown.open("Quick")
    shown.open_model(other.model.name)
    assert not shown.rail.error and shown.session is other and shown.rail.model == other.model.name
    assert other.example.name == session.example.name and shown.bar.chosen == "Quick"
    assert shown.views["Quick"].loaded == [(other.example.name, None)]
    assert Address(model=other.model.name).model == shown.address.model


def test_a_model_that_cannot_be_opened_leaves_the_one_before(session, quick):
    def refuse(name):
        raise VlmtraceError(f"There is no usable model {name!r}.")

    shown = app.explorer(session, open_session=refuse)
    before = shown.views
    shown.models = [*shown.models, "broken"]
    shown.open_model("broken")
    assert shown.rail.error == "There is no usable model 'broken'." and not shown.rail.doing
    assert shown.session is session and shown.views is before and shown.rail.model == session.model.name
    shown.rail.models = ["no/such"]  # as a visitor could
    shown.open_model("no/such")
    assert "no/such" in shown.rail.error and "usable" not in shown.rail.error, "it is not even tried"


def test_a_link_to_a_model_that_one_command_makes_names_the_command(session, quick, monkeypatch, tmp_path):
    shown = app.explorer(session)
    shown.models = [session.model.name]
    monkeypatch.setattr("vlmtrace.core.paths.MODELS", tmp_path)
    (trouble,) = shown.follow_address("model=smol-llava")
    assert "is not on this machine yet: run make smol-llava" in trouble and shown.session is session


def test_what_one_has_asked_goes_along_to_another_model(session, quick, model_store):
    other = Session(model_store.shared("llava"), session.pairs)
    shown = app.explorer(session, open_session=lambda name: other)
    shown.models = [session.model.name, other.model.name]
    session.ask(clean_image=session.example.pair["clean_image"], clean_prompt="is this circle red?")
    shown.open_model(other.model.name)
    assert other.example.name == "own" and other.example.question == "is this circle red?"


def test_a_pair_of_ones_own_is_in_no_link_and_is_shown_only_where_it_was_opened(session, quick, random_pairs):
    shown = app.explorer(session)
    assert not shown.bar.left_out and not shown.address.own
    pair = random_pairs.iloc[1][["clean_image", "corrupt_image", "clean_prompt"]].to_dict()
    session.ask(**pair)
    shown.open("Quick")
    shown.views["Quick"].chosen = {"level": "3"}
    session.select(head_of(session))
    assert "no images" in shown.bar.left_out
    sent = str(shown.address)
    session.choose(random_pairs["sample_id"].iloc[0])
    assert not shown.bar.left_out
    assert shown.follow_address(sent) == [] and session.example.name == "own", "it was opened here"
    there = app.explorer(Session(session.model, random_pairs))
    for other in ({}, {**pair, "clean_image": pair["corrupt_image"]}):
        if other:
            there.session.ask(**other)
        (said,) = there.follow_address(sent)
        assert "pair of somebody's own" in said
        assert there.session.example.name == random_pairs["sample_id"].iloc[0], "another pair of somebody's own"
        assert there.bar.chosen == "Quick" and there.views["Quick"].chosen == {} and there.session.selected is None


def test_what_is_selected_is_named_before_its_card_has_computed_anything(session, quick):
    shown, named = app.explorer(session), []
    shown.cards[0].selection_changed = lambda: named.append(shown.side.selected)
    session.select(head_of(session))
    session.select(head_of(session, head=1))
    assert named == [head_of(session, head=1)], "the name of the head before stands above the card of this one"
