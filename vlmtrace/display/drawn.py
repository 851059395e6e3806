"""What is drawn of a view, and what becomes of it where something fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from vlmtrace.display.canvas import BrowserCanvas


class Drawn:
    """What a view draws on its `canvas`, where it has one.

    What is drawn and what is chosen belong together: where a choice fails, both are what they were, and where nothing
    can be drawn of another example, nothing of the one before is taken for it.
    """

    @property
    def _canvas(self) -> BrowserCanvas | None:
        return vars(self).get("canvas")

    def draw_nothing(self) -> None:
        """Take away what is drawn: it is of something else than what could not be shown now."""
        if self._canvas is not None:
            self._canvas.state = {}

    @contextlib.contextmanager
    def cleared_on_failure(self) -> Iterator[None]:
        """Draw something else; where the block fails before it has drawn anything, what was drawn before goes."""
        before = None if self._canvas is None else self._canvas.state
        try:
            yield
        except Exception:
            if self._canvas is None or self._canvas.state is before:
                self.draw_nothing()
            raise

    @contextlib.contextmanager
    def drawn_again_on_failure(self) -> Iterator[None]:
        """Do what the page asks for; where the block fails, the page shows again what is chosen, not what it asked."""
        try:
            yield
        except Exception:
            self.draw_again()
            raise

    def draw_again(self) -> None:
        """Draw the same once more, and with it what is chosen."""
        if self._canvas is not None and self._canvas.state:
            state = self._canvas.state
            # A state that stays the same would not be sent.
            self._canvas.state = {**state, "nRefused": state.get("nRefused", 0) + 1}

    @contextlib.contextmanager
    def attributes_set(self, **new: Any) -> Iterator[None]:
        """Attributes of this view with other values; where the block fails, they are what they were.

        Args:
            new: by name
        """
        before = {name: getattr(self, name) for name in new}
        vars(self).update(new)
        try:
            yield
        except BaseException:
            vars(self).update(before)
            raise
