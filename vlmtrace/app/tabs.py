"""Which views there are: those that methods' rooms declare become tabs and cards of the explorer by themselves."""

from __future__ import annotations

import importlib.util
import pkgutil
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets

from vlmtrace import methods
from vlmtrace.app.ask import Ask
from vlmtrace.core.collector import paused_collection
from vlmtrace.display.scripts import STATIC, script
from vlmtrace.display.view import View


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
            with paused_collection():
                module = importlib.import_module(f"{room.name}.{file}")
            own = (value for value in vars(module).values() if isinstance(value, type) and issubclass(value, View))
            found += [view for view in own if view.__module__ == module.__name__]
    return sorted(found, key=lambda view: view.order)


class Bar(anywidget.AnyWidget):
    """The row of view names above the middle; it also reads the page's address and writes it.

    Attributes:
        views: (title, whether it stands under "more") of each
        chosen: the title of the one that is open
        address: what is shown, as it stands behind the # of the page's address
        said: a sentence about an address that could not be followed; "": none
        left_out: a sentence about what of it is in no address; "": nothing
    """

    _esm = script(Path(__file__).with_name("bar.js"))
    _css = (STATIC / "view.css").read_text() + Path(__file__).with_name("shell.css").read_text()

    views: traitlets.List = traitlets.List().tag(sync=True)
    chosen = traitlets.Unicode().tag(sync=True)
    address = traitlets.Unicode().tag(sync=True)
    said = traitlets.Unicode().tag(sync=True)
    left_out = traitlets.Unicode().tag(sync=True)


class Side(anywidget.AnyWidget):
    """The head of the pane at the right: what is selected, and what to do where nothing is.

    Attributes:
        selected: its name; "": nothing
        short: the same, shorter
        hint: what stands there while no card is shown
    """

    _esm = script(Path(__file__).with_name("side.js"))
    _css = (STATIC / "view.css").read_text() + Path(__file__).with_name("shell.css").read_text()

    selected = traitlets.Unicode().tag(sync=True)
    short = traitlets.Unicode().tag(sync=True)
    hint = traitlets.Unicode().tag(sync=True)


def names_of(views: list[type[View]]) -> list[list[Any]]:
    """Title, and whether it stands under "more", of each view; the home view comes first, then Ask."""
    ordered = sorted(views, key=lambda view: not view.home)
    return [[view.title, view.more] for view in ordered]


def close(widget: ipywidgets.Widget) -> None:
    """Take a widget and all within it out of the page and the memory.

    Args:
        widget: any
    """
    for child in getattr(widget, "children", ()):
        close(child)
    widget.close()
