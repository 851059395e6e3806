from .ask import Ask
from .pairs import example_pairs, open_session
from .shell import Explorer, explorer

__all__ = [
    "Ask",
    "Explorer",
    "example_pairs",
    "explorer",
    "open_session",
]
