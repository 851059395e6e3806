"""What every view is: a picture, the numbers behind it, what it is busy with, what went wrong, and its exports."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import pandas as pd
import traitlets
from matplotlib.figure import Figure
from PIL import Image

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display.example import COLUMNS, Example
from vlmtrace.display.session import Session, session_of
from vlmtrace.display.style import render_png
from vlmtrace.models import VLM
from vlmtrace.models.hooks import MODEL_LOCK

STATIC = Path(__file__).parent / "static"

#: Pictures go to the browser with at most so many pixels along a side.
LARGEST_SIDE = 640


def script(path: Path) -> str:
    """A view's script, behind the parts that all views are drawn with."""
    return (STATIC / "kit.js").read_text() + path.read_text()


class Canvas(anywidget.AnyWidget):
    """Something drawn in the browser; `state` is what it draws, and the arrays that go with it travel once."""

    _css = (STATIC / "view.css").read_text()

    state = traitlets.Dict().tag(sync=True)
    picture = traitlets.Bytes(b"").tag(sync=True)


class Frame(anywidget.AnyWidget):
    """The line that says what a view is doing, and its exports; `error` is a sentence where something went wrong."""

    _esm = script(STATIC / "frame.js")
    _css = (STATIC / "view.css").read_text()

    view = traitlets.Unicode().tag(sync=True)
    about = traitlets.Unicode().tag(sync=True)
    doing = traitlets.Unicode().tag(sync=True)
    done = traitlets.Unicode().tag(sync=True)
    error = traitlets.Unicode().tag(sync=True)
    code = traitlets.Unicode().tag(sync=True)


class View:
    """One side of an example. Usable alone: `Attention(session)` or `Attention(model, pairs)` as a cell's last line.

    Attributes:
        session: whose example is shown
        box: the widget
    """

    title = ""
    name = ""

    def __init__(self, session: Session | VLM, pairs: pd.DataFrame | None = None, hidden: bool = False):
        """
        Args:
            session: what the views share, or a model
            pairs: with a model: its pairs
            hidden: compute nothing until `show` is called
        """
        self.session = session_of(session, pairs)
        self.frame = Frame(view=self.name)
        self.frame.on_msg(self._asked)
        self._shown: Example | None = None
        self._is_hidden = hidden
        self.box = ipywidgets.VBox([self.frame, *self.build()])
        self.box.add_class("vt-view")
        self.session.on_change(self._changed)
        if not hidden:
            self.show()

    # What a view says about itself --------------------------------------------------------

    def build(self) -> list[ipywidgets.Widget]:
        """The widgets below the frame."""
        raise NotImplementedError

    def load(self) -> None:
        """Show `self.example`, anew."""
        raise NotImplementedError

    @property
    def table(self) -> pd.DataFrame:
        """The numbers behind the picture."""
        raise NotImplementedError

    def figure(self) -> Figure:
        """The picture, for paper."""
        raise NotImplementedError

    def code(self) -> str:
        """What gives the same numbers in a cell."""
        raise NotImplementedError

    # What follows from it --------------------------------------------------------

    @property
    def example(self) -> Example:
        return self.session.example

    def show(self) -> None:
        """Compute and draw, if another example is looked at than is drawn."""
        self._is_hidden = False
        if self._shown is not self.example:
            example = self.example
            self.frame.about = f"{example.name}: {example.question}"
            self.frame.code = ""
            with self.busy(self.title.lower()):
                self.load()
            # An example that could not be shown is not tried again by itself: what was said stays.
            self._shown = example

    def hide(self) -> None:
        """Stay as it is and compute nothing until it is shown again."""
        self._is_hidden = True

    def _changed(self) -> None:
        if not self._is_hidden:
            self.show()

    @contextlib.contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Say what is computed and how long it took; an error becomes a sentence."""
        self.frame.error, self.frame.done, self.frame.doing = "", "", what
        started = time.perf_counter()
        try:
            # Two views that are asked at the same time are served in two threads.
            with MODEL_LOCK:
                yield
            self.frame.done = f"{what}: computed in {time.perf_counter() - started:.2f} s"
        except VlmtraceError as error:
            self.frame.error = str(error)
        except Exception as error:
            self.frame.error = f"{what} failed ({type(error).__name__}: {error}): choose something else, or report it."
        finally:
            self.frame.doing = ""

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.box)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)

    # Exports --------------------------------------------------------

    def export(self, kind: str) -> tuple[str, bytes]:
        """A file's name and content.

        Args:
            kind: "png", "csv" or "parquet"
        """
        name = f"{self.name}-{self.example.name.replace('/', '-')}.{kind}"
        if kind == "png":
            return name, render_png(self.figure(), dpi=200)
        if kind == "csv":
            return name, self.table.to_csv(index=False).encode()
        buffer = BytesIO()
        self.table.to_parquet(buffer, index=False)
        return name, buffer.getvalue()

    def _asked(self, _widget: Any, message: dict, _buffers: Any) -> None:
        kind = str(message.get("export"))
        with self.busy(kind):
            if kind == "code":
                self.frame.code = self.code()
            else:
                name, content = self.export(kind)
                self.frame.send({"file": name}, [content])

    def preamble(self, *imports: str) -> str:
        """The lines of code that bring the model and the example."""
        known = [(key, self.example.pair[key]) for key in COLUMNS if key in self.example.pair]
        rows = []
        for key, value in known:
            if isinstance(value, Image.Image):
                rows.append(f'    "{key}": "FILE",  # the picture that you opened')
            else:
                rows.append(f'    "{key}": {str(value)!r},')
        lines = [
            "import vlmtrace as vt",
            *imports,
            "",
            f"model = vt.load_model({self.example.model.name!r})",
            "pair = {",
        ]
        return "\n".join([*lines, *rows, "}", ""])


def png(picture: Image.Image) -> bytes:
    """A picture for the browser, made smaller where it is very large."""
    picture = picture.convert("RGB")
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    buffer = BytesIO()
    picture.save(buffer, format="png")
    return buffer.getvalue()


def heading(text: str) -> ipywidgets.HTML:
    """A line of prose above a part of a view."""
    return ipywidgets.HTML(f'<div class="vt-note">{text}</div>')
