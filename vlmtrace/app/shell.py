"""The explorer: one screen with the pair at the left, one view in the middle, and at the right what is selected."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
import pandas as pd

from vlmtrace.app.address import IN_APP, NOT_HERE, NOT_IN_LINK, Address, place_and_positions, read_address
from vlmtrace.app.own_pair import fingerprint, is_own
from vlmtrace.app.rail import Rail
from vlmtrace.app.tabs import Bar, Side, close, declared_cards, declared_views, names_of
from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.display.session import Session, session_of
from vlmtrace.display.view import View
from vlmtrace.models import VLM, bundled_models, load_model
from vlmtrace.models.made_here import check_made

#: What stands at the right while nothing is selected.
NOTHING_SELECTED = "Click a head or a module in any view: it opens here."
#: The same where something is selected that no card shows.
NO_CARD = "There is no card of this kind of place: the view in the middle shows it."


class Explorer:
    """One screen: the pair, one view at a time, and what is selected.

    A view computes when it is opened, and stays as it was left.

    Attributes:
        session: the model, the pairs, the example, and what is selected, which all views share
        views: the views by title, in their order
        cards: the views that show what is selected
        models: names of those that can be opened; no other is
        box: the widget
    """

    @checked
    def __init__(self, session: Session, open_session: Callable[[str], Session] | None = None):
        """Make all views and open the first, in the app as soon as the page has said what its address asks for.

        Args:
            session: the model, the pairs and the example
            open_session: makes the session of another model; None: it asks the same pairs
        """
        pairs = session.pairs
        self._open_session = open_session or (lambda name: Session(load_model(name), pairs))
        self.views: dict[str, View] = {}
        self.cards: list[View] = []
        self._is_open = ""
        self._is_following = False
        self.rail, self.bar, self.side = Rail(self.open_model), Bar(views=names_of(declared_views())), Side()
        self.stack = ipywidgets.VBox()
        self.pane = ipywidgets.VBox()
        for part, name in ((self.rail, "rail"), (self.stack, "stack"), (self.pane, "cards")):
            part.add_class(f"vt-{name}")
        middle = ipywidgets.VBox([self.bar, self.stack]).add_class("vt-middle")
        right = ipywidgets.VBox([self.side, self.pane]).add_class("vt-right")
        shell = ipywidgets.Box([self.rail, middle, right]).add_class("vt-shell")
        self.box = ipywidgets.Box([shell]).add_class("vt-explorer")
        # A copy is shown: what the page holds, a visitor can change.
        self.models = sorted(
            {session.model.name, *bundled_models()}, key=lambda name: (name != session.model.name, name)
        )
        self.rail.models = list(self.models)
        self.bar.on_msg(self._receive)
        self.side.on_msg(self._receive)
        self._follow(session)
        if os.environ.get(IN_APP) != "1":
            self._open_home()

    # Views --------------------------------------------------------

    def _follow(self, session: Session) -> None:
        """Make the views of a session in place of those before."""
        before = [*self.views.values(), *self.cards]
        # If one of them cannot be made, everything stays as it was.
        views = {kind.title: kind(session, hidden=True) for kind in declared_views()}
        cards = [kind(session, hidden=True) for kind in declared_cards()]
        self.session, self.views, self.cards, self._is_open = session, views, cards, ""
        self.rail.follow(session)
        for view in self.views.values():
            view.when_settings_change = self._write_address
        for view in (*self.views.values(), *self.cards):
            view.is_alone = False
            view.box.layout.display = "none"
        session.on_change(self._write_address)
        session.observe_selection(lambda _: self._name_selection(), first=True)
        session.observe_selection(lambda _: self._show_selection())
        session.observe_opening(lambda title, settings: self._open_for(title, settings))
        self.stack.children = [view.box for view in self.views.values()]
        self.pane.children = [view.box for view in self.cards]
        for view in before:
            close(view.box)
        self._show_selection()

    @checked
    def open(self, title: str) -> View:
        """Open a view and let the others wait.

        Args:
            title: of the view, as the row of names shows it
        Returns:
            the view, computed and drawn
        Raises:
            VlmtraceError: no view has this title
        """
        one_of(title, self.views, "view")
        self._is_open = self.bar.chosen = title
        for name, view in self.views.items():
            view.box.layout.display = None if name == title else "none"
            if name != title:
                view.hide()
        self._write_address()
        self.views[title].show()
        return self.views[title]

    def _open_for(self, title: str, settings: Mapping[str, str]) -> None:
        one_of(title, self.views, "view")
        if settings:
            self.views[title].restore(settings)
        self.open(title)

    def _open_home(self) -> None:
        """The view that says of itself that it is home; where it cannot show this example, the next that can patch."""
        home = next((title for title, view in self.views.items() if view.home), None)
        for title in (home, "Patch", next(iter(self.views))):
            if title in self.views and not self.open(title).frame.error:
                return

    def _name_selection(self) -> None:
        """Say what is selected before its card has computed anything."""
        selected = self.session.selected
        self.side.selected, self.side.short = (selected.label, selected.short) if selected else ("", "")

    def _show_selection(self) -> None:
        self._name_selection()
        selected = self.session.selected
        fitting = [card for card in self.cards if selected is not None and selected.kind in card.kinds]
        self.side.hint = "" if fitting else NO_CARD if selected else NOTHING_SELECTED
        for card in self.cards:
            card.box.layout.display = None if card in fitting else "none"
            if card not in fitting:
                card.hide()
        self._write_address()
        for card in fitting:
            card.show()

    # The model --------------------------------------------------------

    @checked
    def open_model(self, name: str) -> None:
        """Ask another model; where it cannot be opened, a sentence says why, and the one before stays.

        Args:
            name: one of those that the rail offers
        """
        self.rail.act(f"loading {name}", lambda: self._to_model(name))

    def _to_model(self, name: str) -> None:
        if name not in self.models:
            check_made(name)  # says how to get it
        one_of(name, self.models, "model")
        if name == self.session.model.name:
            return
        before, title = self.session, self._is_open
        session = self._open_session(name)
        for own in before.owns.values():
            session.ask(**own.pair)
        wanted = before.example.name
        known = {*session.pairs["sample_id"], *session.owns}
        session.choose(wanted if wanted in known else str(session.pairs["sample_id"].iloc[0]))
        self._follow(session)
        if title:
            self.open(title)

    # The address --------------------------------------------------------

    @property
    def address(self) -> Address:
        """What is shown, so that it can be sent."""
        selected = self.session.selected
        view = self.views.get(self._is_open)
        at = "" if selected is None or selected.positions is None else "@" + "+".join(map(str, selected.positions))
        return Address(
            self.session.model.name,
            self.session.example.name,
            view.name if view else "",
            f"{selected.label}{at}" if selected else "",
            view.settings if view else {},
            fingerprint(self.session.example) if is_own(self.session, self.session.example) else "",
        )

    def _write_address(self) -> None:
        if not self._is_following:
            found = self.address
            self.bar.left_out = NOT_IN_LINK if found.own else ""
            self.bar.address = str(found)

    @checked
    def follow_address(self, text: str) -> list[str]:
        """Show what an address asks for; what it names and is not there is told, and the rest is shown.

        Args:
            text: what stands behind its #, see `Address`
        Returns:
            a sentence for each part that could not be followed
        """
        troubles: list[str] = []

        def attempt(what: Callable[[], Any]) -> None:
            try:
                what()
            except VlmtraceError as error:
                troubles.append(str(error))

        self._is_following = True
        try:
            asked = Address()
            try:
                asked = read_address(text)
            except VlmtraceError as error:
                troubles.append(str(error))
            if asked.model and asked.model != self.session.model.name:
                attempt(lambda: self._to_model(asked.model))
            if asked.own and not self._has_own(asked):
                troubles.append(NOT_HERE)
                # What was chosen there is of that pair.
                asked = asked._replace(pair="", select="", settings={})
                if is_own(self.session, self.session.example):
                    self.session.choose(str(self.session.pairs["sample_id"].iloc[0]))
            if asked.pair and asked.pair != self.session.example.name:
                attempt(lambda: self.session.choose(asked.pair))
            titles = {view.name: title for title, view in self.views.items()}
            title = ""
            if asked.view:
                attempt(lambda: one_of(asked.view, titles, "view"))
                title = titles.get(asked.view, "")
            if title:
                attempt(lambda: self.views[title].restore(asked.settings))
                self.open(title)
            elif not self._is_open:
                self._open_home()
            # The view is drawn first; the card follows.
            if asked.select or self.session.selected is not None:
                attempt(lambda: self.session.select(*place_and_positions(asked.select)))
        finally:
            self._is_following = False
        self._write_address()
        return troubles

    def _has_own(self, asked: Address) -> bool:
        """Whether an address is of a pair that was opened here: one of the same name may have other images."""
        own = self.session.owns.get(asked.pair)
        return own is not None and fingerprint(own) == asked.own

    def _receive(self, _widget: Any, message: Any, _buffers: Any) -> None:
        match message:
            case {"do": "open", "title": str(title)}:
                self.rail.act("", lambda: self.open(title))
            case {"do": "follow", "address": str(text)}:
                self.bar.said = ""
                with self.rail.sentences("opening what the address asks for" if text else ""):
                    self.bar.said = " ".join(self.follow_address(text))
            case {"do": "deselect"}:
                self.rail.act("", lambda: self.session.select(None))

    def __repr__(self) -> str:
        """The model and the views."""
        return f"Explorer of {self.session.model.name!r} with the views {', '.join(map(repr, self.views))}"

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        # A widget's own words hold all that it sends, pictures among them.
        return {**self.box._repr_mimebundle_(**options), "text/plain": repr(self)}


@checked
def explorer(
    model: Session | VLM, pairs: pd.DataFrame | None = None, open_session: Callable[[str], Session] | None = None
) -> Explorer:
    """Show one example on one screen: the pair at the left, one view at a time, and at the right what is selected.

    Args:
        model: a model, together with `pairs`; or a session, which holds both
        pairs: a pairs table; it may hold several tasks
        open_session: makes the session of another model that is chosen in the explorer; None: it is loaded to the CPU
            and asked the same pairs
    Returns:
        the explorer; as the last line of a notebook's cell it is displayed
    Raises:
        VlmtraceError: the table lacks a column or has no row
    """
    return Explorer(session_of(model, pairs), open_session)
