from .agreement import edge_agreement
from .estimates import attribute_edges, attribute_nodes
from .listing import edges
from .path_patching import patch_edges

__all__ = [
    "attribute_edges",
    "attribute_nodes",
    "edge_agreement",
    "edges",
    "patch_edges",
]
