"""All views of one example, one beside the other as tabs."""

from __future__ import annotations

import ipywidgets
import pandas as pd

from vlmtrace.app.ask import Ask
from vlmtrace.core.errors import one_of
from vlmtrace.display.session import Session, session_of
from vlmtrace.display.view import View
from vlmtrace.methods.attention.view import Attention
from vlmtrace.methods.explanation.view import CausalView
from vlmtrace.methods.patching.view import Patching
from vlmtrace.methods.relevancy.view import RelevancyView
from vlmtrace.models import VLM

VIEWS: tuple[type[View], ...] = (Ask, Attention, RelevancyView, CausalView, Patching)


class Explorer:
    """All views; each computes when it is opened, and stays as it was left.

    Attributes:
        session: the model, the pairs and the example
        views: by title
    """

    def __init__(self, session: Session):
        self.session = session
        self.views: dict[str, View] = {kind.title: kind(session, hidden=True) for kind in VIEWS}
        titles = list(self.views)
        self.chosen = ipywidgets.ToggleButtons(options=titles, description="", tooltips=[f"open {t}" for t in titles])
        self.chosen.style.button_width = "auto"
        self.stack = ipywidgets.Stack([view.box for view in self.views.values()], selected_index=0)
        self.box = ipywidgets.VBox([self.chosen, self.stack])
        self.chosen.observe(lambda change: self.open(change["new"]), names="value")
        self.open(titles[0])

    def open(self, title: str) -> View:
        """Open a view by its title."""
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


def explorer(model: Session | VLM, pairs: pd.DataFrame | None = None) -> Explorer:
    """All views of one example: choose it in Ask, look at it from the other sides.

    Args:
        model: with pairs; or a session
        pairs: a pairs table, of several tasks if you like
    Raises:
        VlmtraceError: the table lacks a column or has no row
    """
    return Explorer(session_of(model, pairs))
