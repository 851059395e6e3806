from .agreement import edge_agreement
from .circuit_figures import edge_faithfulness_curves
from .circuit_runs import run_edge_circuits
from .circuits import choose_circuit, edge_scores
from .estimates import attribute_edges, attribute_nodes
from .faithfulness import edge_faithfulness, edge_faithfulness_means, edge_faithfulness_summary
from .image_patches import image_patch_effects
from .intervention import intervene_on_edges
from .listing import edges
from .path_patching import patch_edges
from .saved import load_circuit, save_circuit
from .search import acdc, find_edge_circuit
from .sentences import describe_edge_circuit, describe_edge_faithfulness, describe_edges
from .verdicts import edge_overlap, edge_subsets, edge_transfer, edge_verdicts
from .view import EdgeView

__all__ = [
    "EdgeView",
    "acdc",
    "attribute_edges",
    "attribute_nodes",
    "choose_circuit",
    "describe_edge_circuit",
    "describe_edge_faithfulness",
    "describe_edges",
    "edge_agreement",
    "edge_faithfulness",
    "edge_faithfulness_curves",
    "edge_faithfulness_means",
    "edge_faithfulness_summary",
    "edge_overlap",
    "edge_scores",
    "edge_subsets",
    "edge_transfer",
    "edge_verdicts",
    "edges",
    "find_edge_circuit",
    "image_patch_effects",
    "intervene_on_edges",
    "load_circuit",
    "patch_edges",
    "run_edge_circuits",
    "save_circuit",
]
