"""One example from all sides: views that stand alone in any notebook, or together as tabs.

from vlmtrace import explore

explore.explorer(model, pairs)                 # all views, one example for all of them
session = explore.Session(model, pairs)
explore.Attention(session)                     # one view
"""

from vlmtrace.explore.ask import Ask
from vlmtrace.explore.attention import Attention
from vlmtrace.explore.causal import CausalView
from vlmtrace.explore.example import Example
from vlmtrace.explore.pairs import pairs_to_look_at
from vlmtrace.explore.patch import Patching
from vlmtrace.explore.relevancy import RelevancyView
from vlmtrace.explore.session import Session
from vlmtrace.explore.tabs import Explorer, explorer

__all__ = [
    "Ask",
    "Attention",
    "CausalView",
    "Example",
    "Explorer",
    "Patching",
    "RelevancyView",
    "Session",
    "explorer",
    "pairs_to_look_at",
]
