"""All views of one example as tabs. A view that a method's room declares becomes a tab by itself."""

from __future__ import annotations

import importlib.util
import pkgutil

import ipywidgets
import pandas as pd

from vlmtrace import methods
from vlmtrace.app.ask import Ask
from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import one_of
from vlmtrace.display.session import Session, session_of
from vlmtrace.display.view import View
from vlmtrace.models import VLM


def declared_views() -> list[type[View]]:
    """The views that become tabs: Ask, and those that `methods/<room>/view.py` defines, by their `order`."""
    return [Ask, *(view for view in _declared("view") if view.pane == "middle")]


def declared_cards() -> list[type[View]]:
    """The views that show what is selected: those with `pane = "card"` in a method's `card.py`, by their `order`."""
    return [view for view in _declared("card") if view.pane == "card"]


def _declared(file: str) -> list[type[View]]:
    found: list[type[View]] = []
    for room in pkgutil.iter_modules(methods.__path__, f"{methods.__name__}."):
        if room.ispkg and importlib.util.find_spec(f"{room.name}.{file}"):
            module = importlib.import_module(f"{room.name}.{file}")
            own = (value for value in vars(module).values() if isinstance(value, type) and issubclass(value, View))
            found += [view for view in own if view.__module__ == module.__name__]
    return sorted(found, key=lambda view: view.order)


class Explorer:
    """All views as tabs; each computes when it is opened, and stays as it was left.

    Attributes:
        session: the model, the pairs and the example that all views show
        views: the views by title, in the order of the tabs
        box: the widget
    """

    @checked
    def __init__(self, session: Session):
        """Make all views, open the first.

        Args:
            session: the model, the pairs and the example
        """
        self.session = session
        self.views: dict[str, View] = {kind.title: kind(session, hidden=True) for kind in declared_views()}
        titles = list(self.views)
        self.chosen = ipywidgets.ToggleButtons(options=titles, description="", tooltips=[f"open {t}" for t in titles])
        self.chosen.style.button_width = "auto"
        self.stack = ipywidgets.Stack([view.box for view in self.views.values()], selected_index=0)
        self.box = ipywidgets.VBox([self.chosen, self.stack])
        self.chosen.observe(lambda change: self.open(change["new"]), names="value")
        self.open(titles[0])

    @checked
    def open(self, title: str) -> View:
        """Open a view and let the others wait.

        Args:
            title: of the view, as its tab shows it
        Returns:
            the view, computed and drawn
        Raises:
            VlmtraceError: no view has this title
        """
        one_of(title, self.views, "view")
        self.chosen.value = title
        self.stack.selected_index = list(self.views).index(title)
        for name, view in self.views.items():
            if name == title:
                view.show()
            else:
                view.hide()
        return self.views[title]

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.box)


@checked
def explorer(model: Session | VLM, pairs: pd.DataFrame | None = None) -> Explorer:
    """Show all views of one example as tabs: choose the example in Ask, then open the other views.

    Args:
        model: a model, together with `pairs`; or a session, which holds both
        pairs: a pairs table; it may hold several tasks
    Returns:
        the tabs; as the last line of a notebook's cell they are displayed
    Raises:
        VlmtraceError: the table lacks a column or has no row
    """
    return Explorer(session_of(model, pairs))
