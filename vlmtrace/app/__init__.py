"""One example seen through every method: tabs in a notebook, or an app without cells (`make app`).

    from vlmtrace import app

    app.explorer(model, pairs)      # all views of one example, as tabs

The tabs are `Ask`, where the example is chosen, and every `View` that a method's room declares in its `view.py`. A view
also works alone: `vlmtrace.methods.attention.Attention(model, pairs)`; views that are made of one
`vlmtrace.display.Session` share their example. Notebook 09 shows them.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
