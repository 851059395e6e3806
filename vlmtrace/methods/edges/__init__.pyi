from .listing import edges
from .path_patching import patch_edges

__all__ = [
    "edges",
    "patch_edges",
]
