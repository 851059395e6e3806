from .explorers import head_explorer, module_explorer
from .figures import effect_heatmap, image_effect_map, layer_profiles, region_effects
from .intervention import Outcome, Patch, intervene
from .metrics import patching_effect
from .sweeps import patch_head_sets, patch_heads, patch_modules, patch_regions
from .view import Patching

__all__ = [
    "Outcome",
    "Patch",
    "Patching",
    "effect_heatmap",
    "head_explorer",
    "image_effect_map",
    "intervene",
    "layer_profiles",
    "module_explorer",
    "patch_head_sets",
    "patch_heads",
    "patch_modules",
    "patch_regions",
    "patching_effect",
    "region_effects",
]
