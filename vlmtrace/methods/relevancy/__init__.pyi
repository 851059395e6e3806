from .propagation import Relevancy, attention_graph, relevancy
from .view import RelevancyView

__all__ = [
    "Relevancy",
    "RelevancyView",
    "attention_graph",
    "relevancy",
]
