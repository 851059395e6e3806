"""One example from all sides: views that stand alone in any notebook, or together as tabs.

from vlmtrace import explore

explore.explorer(model, pairs)                 # all views, one example for all of them
session = explore.Session(model, pairs)
explore.Attention(session)                     # one view
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
