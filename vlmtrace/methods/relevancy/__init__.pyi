from .deletion import deletion_curve
from .propagation import Relevancy, attention_graph, relevancy
from .randomization import relevancy_control
from .view import RelevancyView

__all__ = [
    "Relevancy",
    "RelevancyView",
    "attention_graph",
    "deletion_curve",
    "relevancy",
    "relevancy_control",
]
