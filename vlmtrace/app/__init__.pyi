from .ask import Ask
from .pairs import example_pairs
from .tabs import Explorer, explorer

__all__ = [
    "Ask",
    "Explorer",
    "example_pairs",
    "explorer",
]
