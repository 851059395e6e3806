"""What the browser draws of a view: its canvas, the line above it, and pictures."""

from __future__ import annotations

from io import BytesIO

import anywidget
import traitlets
from PIL import Image

from vlmtrace.display.scripts import STATIC, script

#: Pictures go to the browser with at most so many pixels along a side.
LARGEST_SIDE = 640


class BrowserCanvas(anywidget.AnyWidget):
    """What the browser draws of a view.

    Attributes:
        state: what is drawn, in JSON
        picture: the image as PNG, sent only where it changes
    """

    _css = (STATIC / "view.css").read_text()

    state = traitlets.Dict().tag(sync=True)
    picture = traitlets.Bytes(b"").tag(sync=True)


class Frame(anywidget.AnyWidget):
    """The line above a view: what it is doing, what went wrong, and the buttons that export it.

    Attributes:
        view: the view's name
        about: which example is shown
        doing, done: what is being computed; what was computed, and how long it took
        error: a sentence where something went wrong, otherwise empty
        code: the code that was asked for
    """

    _esm = script(STATIC / "frame.js")
    _css = (STATIC / "view.css").read_text()

    view = traitlets.Unicode().tag(sync=True)
    about = traitlets.Unicode().tag(sync=True)
    doing = traitlets.Unicode().tag(sync=True)
    done = traitlets.Unicode().tag(sync=True)
    error = traitlets.Unicode().tag(sync=True)
    code = traitlets.Unicode().tag(sync=True)


def png(picture: Image.Image) -> bytes:
    """A picture as PNG for the browser, no side longer than `LARGEST_SIDE` pixels."""
    picture = picture.convert("RGB")
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    buffer = BytesIO()
    picture.save(buffer, format="png")
    return buffer.getvalue()
