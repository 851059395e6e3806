from .search import Explanation, GraphOptions, explain
from .view import CausalView

__all__ = [
    "CausalView",
    "Explanation",
    "GraphOptions",
    "explain",
]
