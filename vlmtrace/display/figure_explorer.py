"""A picture below its controls: what all explorers of notebooks share.

The picture is an ordinary output of the cell. It is there when papermill runs the notebook or when it is read without
a kernel, and it is replaced in place when a control is used. What cannot be drawn is said in a sentence where the
picture would be.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
from IPython.display import DisplayHandle, Image, display
from matplotlib.figure import Figure

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display.style import new_figure, paper_style, render_png

Options = list[tuple[str, Any]]


class FigureExplorer:
    """A figure that follows its controls.

    Attributes:
        draw: draws into an empty figure what the settings say
        controls: ipywidgets, by the name of the setting that each one chooses
    """

    def __init__(
        self,
        draw: Callable[..., None],
        controls: Mapping[str, Any],
        follow: Mapping[str, Callable[[dict[str, Any]], Options]] | None = None,
    ):
        """Connect the controls; nothing is drawn yet.

        Args:
            draw: called with an empty figure and the settings
            controls: ipywidgets, by setting
            follow: controls whose options depend on other settings: from the settings to (label, value) pairs
        """
        self.draw = draw
        self.controls = dict(controls)
        self._follow = dict(follow or {})
        self._handle: DisplayHandle | None = None
        self._is_following = False
        for control in self.controls.values():
            control.observe(self._changed, names="value")

    @property
    def settings(self) -> dict[str, Any]:
        """What the controls show now."""
        return {name: control.value for name, control in self.controls.items()}

    def figure(self, **settings: Any) -> Figure:
        """Draw the present settings, or others; an error is raised, not shown.

        Args:
            **settings: replace those of the controls

        Returns:
            the figure

        Raises:
            VlmtraceError: what the settings ask for cannot be drawn
        """
        return _draw_anew(self.draw, self.settings | settings)

    def _ipython_display_(self) -> None:
        """Show the controls, and below them the picture as an output that can be replaced."""
        display(ipywidgets.VBox(list(self.controls.values())))
        self._handle = display(self._picture(), display_id=True)

    def _picture(self) -> Any:
        try:
            return Image(data=render_png(self.figure(), dpi=144), format="png")
        except VlmtraceError as error:
            return Sentence(str(error))

    def _changed(self, _change: Any) -> None:
        if self._is_following:
            return
        try:
            self._let_others_follow()
            picture = self._picture()
        except Exception as error:  # raised inside a control's callback it would be lost in a log
            unforeseen = f"These settings cannot be drawn: {type(error).__name__}: "
            picture = Sentence(f"{'' if isinstance(error, VlmtraceError) else unforeseen}{error}")
        if self._handle is not None:
            self._handle.update(picture)

    def _let_others_follow(self) -> None:
        self._is_following = True  # other options set other values, which would call `_changed` again
        try:
            for name, options in self._follow.items():
                _set_options(self.controls[name], options(self.settings))
        finally:
            self._is_following = False


class Sentence:
    """A sentence as a cell's output, set off from other text."""

    def __init__(self, text: str):
        """Keep the text.

        Args:
            text: the sentence
        """
        self.text = text

    def __repr__(self) -> str:
        """The text, where a cell's output is plain."""
        return self.text

    def _repr_html_(self) -> str:
        return f'<p role="alert" style="border-left: 3px solid; padding-left: 0.6em">{html.escape(self.text)}</p>'


@paper_style
def _draw_anew(draw: Callable[..., None], settings: dict[str, Any]) -> Figure:
    figure = new_figure(height=4)
    draw(figure, **settings)
    return figure


def dropdown(label: str, options: Options, preferred: Any = None) -> ipywidgets.Dropdown:
    """A list to choose from, by mouse or arrow keys.

    Args:
        label: beside the list
        options: (label, value) pairs, at least one
        preferred: the value to start with, where it is offered; otherwise the first

    Returns:
        the control
    """
    values = [value for _, value in options]
    return ipywidgets.Dropdown(
        options=options,
        value=preferred if preferred in values else values[0],
        description=label,
        layout=ipywidgets.Layout(width="42em", max_width="100%"),
    )


def slider(label: str, count: int) -> ipywidgets.IntSlider:
    """An index from 0; the figure is drawn when the slider is let go, not on its way.

    Args:
        label: beside the slider
        count: the index is below this

    Returns:
        the control
    """
    return ipywidgets.IntSlider(0, min=0, max=count - 1, description=label, continuous_update=False)


def _set_options(control: ipywidgets.Dropdown, options: Options) -> None:
    """Offer other options; stay with the value where it is still among them."""
    if list(control.options) != options:
        value = control.value
        control.options = options
        if value in [offered for _, offered in options]:
            control.value = value
