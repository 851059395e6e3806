"""What every view is: a picture, the numbers behind it, what it is busy with, what went wrong, and its exports."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from typing import Any, ClassVar, TypeVar

import ipywidgets
import pandas as pd
from matplotlib.figure import Figure

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display.canvas import Frame
from vlmtrace.display.drawn import Drawn
from vlmtrace.display.example import Example
from vlmtrace.display.selection import Selection
from vlmtrace.display.session import Session, session_of
from vlmtrace.display.style import render_png
from vlmtrace.models import VLM
from vlmtrace.models.hooks import MODEL_LOCK

T = TypeVar("T")


class View(Drawn):
    """One view of an example, alone in a notebook's cell or as a tab of the app.

    `Attention(session)` or `Attention(model, pairs)` as the last line of a cell displays it. A subclass in a method's
    `view.py` becomes a tab of the app by itself: it sets the class attributes and implements `build`, `load`,
    `table`, `figure` and `code`.

    Attributes:
        title: what its tab says
        name: begins the names of exported files
        order: where its tab stands; Ask has 0, the methods' views have tens, so that another fits between two
        note: a sentence above the view, in HTML: how to read it; "": none
        pane: where the app shows it: "middle", one at a time, or "card": at the right, while what is selected is of one
            of `kinds`
        kinds: of what can be selected, those that a card shows, see `Selection.kind`
        home: whether the app opens it first, where it can show the example
        more: whether it stands under "more"
        session: whose example is shown
        frame: the line above the view: what it computes, what went wrong, the exports
        box: the widget
    """

    title: ClassVar[str] = ""
    name: ClassVar[str] = ""
    order: ClassVar[int] = 1000
    note: ClassVar[str] = ""
    pane: ClassVar[str] = "middle"
    kinds: ClassVar[tuple[str, ...]] = ("head",)
    home: ClassVar[bool] = False
    more: ClassVar[bool] = False

    @checked
    def __init__(self, session: Session | VLM, pairs: pd.DataFrame | None = None, hidden: bool = False):
        """Make the view and show the session's example in it.

        Args:
            session: what several views share; or a model, together with `pairs`
            pairs: a pairs table
            hidden: compute nothing until `show` is called
        Raises:
            VlmtraceError: a model without pairs, or a table that lacks a column
        """
        self.session = session_of(session, pairs)
        self.frame = Frame(view=self.name)
        self.frame.on_msg(self._export_requested)
        #: Called without arguments; set by whoever writes the address.
        self.when_settings_change: Callable[[], None] | None = None
        self._shown: Example | None = None
        self._marked: Selection | None = None
        #: Whether it stands in a cell by itself; in the explorer the rail shows the pair, and takes questions.
        self.is_alone = True
        self._is_hidden = hidden
        note = [ipywidgets.HTML(f'<div class="vt-note">{self.note}</div>')] if self.note else []
        self.box = ipywidgets.VBox([self.frame, *note, *self.build()])
        self.box.add_class("vt-view")
        self.session.on_change(self._changed)
        self.session.observe_selection(self._selection_changed)
        if not hidden:
            self.show()

    # What a view says about itself --------------------------------------------------------

    def build(self) -> list[ipywidgets.Widget]:
        """Make the widgets below the frame and the note; called once, before any example is loaded."""
        raise NotImplementedError

    def load(self) -> None:
        """Compute what `self.example` needs and show it in the widgets."""
        raise NotImplementedError

    @property
    def table(self) -> pd.DataFrame:
        """The numbers behind the picture, tidy: one observation per row."""
        raise NotImplementedError

    def figure(self) -> Figure:
        """The picture as it would be printed."""
        raise NotImplementedError

    def code(self) -> str:
        """The lines of Python that give the same numbers in a cell."""
        raise NotImplementedError

    @property
    def settings(self) -> dict[str, str]:
        """What is chosen in the view, as an address says it; what is as at first is not in it."""
        return {}

    @checked
    def restore(self, settings: Mapping[str, str]) -> None:
        """Choose what an address says; called before the view is shown.

        Args:
            settings: as `settings` gave them; they come from an address, so that nothing of them may be believed
        Raises:
            VlmtraceError: a value means nothing here; everything stays as it was
        """

    def settings_changed(self) -> None:
        """Tell that `settings` are others now, so that the address is written anew."""
        if self.when_settings_change is not None:
            self.when_settings_change()

    def selection_changed(self) -> None:
        """Show what `selected` is now; called while the view is shown."""

    def shown_again(self) -> None:
        """Tell the session what the view has told before, since others have told theirs meanwhile: what is patched."""

    # What follows from it --------------------------------------------------------

    @property
    def example(self) -> Example:
        """The session's example, which this view shows."""
        return self.session.example

    @property
    def selected(self) -> Selection | None:
        """The head, module or node that is looked at, see `Session.select`."""
        return self.session.selected

    @checked
    def computed(self, result: T | None) -> T:
        """The result, or the sentence that it is not there yet.

        Raises:
            VlmtraceError: the view has not been shown
        """
        if result is None:
            raise VlmtraceError(f"The view {self.title} of this example has not been computed: show the view first.")
        return result

    def show(self) -> None:
        """Compute and draw, if another example is looked at than is drawn."""
        self._is_hidden = False
        if self._shown is not self.example:
            example = self.example
            self.frame.about = f"{example.name}: {example.question}"
            self.frame.code = ""
            self._pale(self._shown is not None)
            with self.busy(self.title.lower()), self.cleared_on_failure():
                self.load()
            self._pale(False)
            # An example that could not be shown is not tried again by itself: what was said stays.
            self._shown = example
            self._marked = self.selected
        else:
            self.shown_again()
            if self._marked != self.selected:
                self._selection_changed(self.selected)

    def hide(self) -> None:
        """Keep what is drawn and compute nothing until `show` is called."""
        self._is_hidden = True

    def _changed(self) -> None:
        if not self._is_hidden:
            self.show()
        else:
            self._pale(self._shown is not None and self._shown is not self.example)

    def _pale(self, is_old: bool) -> None:
        """Show that what is drawn is of another example, until this one's is drawn."""
        if is_old:
            self.box.add_class("vt-old")
        else:
            self.box.remove_class("vt-old")

    def _selection_changed(self, selected: Selection | None) -> None:
        # A card of the explorer is put away while what is selected is of none of its kinds.
        fits = self.pane != "card" or self.is_alone or (selected is not None and selected.kind in self.kinds)
        if not self._is_hidden and fits:
            self._marked = selected
            self.selection_changed()

    @checked
    @contextlib.contextmanager
    def busy(self, activity: str) -> Iterator[None]:
        """While this is entered, say what is computed; then how long it took. An error becomes a sentence.

        Args:
            activity: what is computed, as the line above the view says it
        """
        self.frame.error, self.frame.done, self.frame.doing = "", "", activity
        started = time.perf_counter()
        try:
            # Two views that are asked at the same time are served in two threads.
            with MODEL_LOCK:
                yield
            self.frame.done = f"{activity}: computed in {time.perf_counter() - started:.2f} s"
        except VlmtraceError as error:
            self.frame.error = str(error)
        except Exception as error:
            self.frame.error = (
                f"{activity} failed ({type(error).__name__}: {error}): choose something else, or report it."
            )
        finally:
            self.frame.doing = ""

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.box)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)

    # Exports --------------------------------------------------------

    @checked
    def export(self, kind: str) -> tuple[str, bytes]:
        """Make a file of the view.

        Args:
            kind: "png" (the picture), "csv" or "parquet" (the numbers)

        Returns:
            the file's name and its content
        """
        example = re.sub(r"[^\w.-]+", "-", self.example.name)[:100]
        name = f"{self.name}-{example}.{kind}"
        if kind == "png":
            return name, render_png(self.figure(), dpi=200)
        if kind == "csv":
            return name, self.table.to_csv(index=False).encode()
        buffer = BytesIO()
        self.table.to_parquet(buffer, index=False)
        return name, buffer.getvalue()

    def _export_requested(self, _widget: Any, message: dict, _buffers: Any) -> None:
        kind = str(message.get("export"))
        with self.busy(kind):
            if kind == "code":
                self.frame.code = self.code()
            else:
                name, content = self.export(kind)
                self.frame.send({"file": name}, [content])
