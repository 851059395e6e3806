from .intervention import intervene_on_edges
from .listing import edges
from .path_patching import patch_edges
from .view import EdgeView

__all__ = [
    "EdgeView",
    "edges",
    "intervene_on_edges",
    "patch_edges",
]
