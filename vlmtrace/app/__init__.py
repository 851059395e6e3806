"""One example seen through every method, on one screen: in a notebook, or as an app without cells (`make app`).

    from vlmtrace import app

    app.explorer(model, pairs)      # one example on one screen

The pair stands at the left, one view at a time in the middle, and at the right what is selected. The views are `Ask`
and every `View` that a method's room declares in its `view.py`; a card for what is selected stands in `card.py`. A view
also works alone: `vlmtrace.methods.attention.Attention(model, pairs)`; views that are made of one
`vlmtrace.display.Session` share their example. Notebook 09 shows them.
"""

from typing import Any

import lazy_loader as lazy

from vlmtrace.core.collector import paused_collection

_load, __dir__, __all__ = lazy.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    # With the first name come the models' libraries, and every view.
    with paused_collection():
        return _load(name)
