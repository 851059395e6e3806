from .ablation import ablate
from .cost_figures import cost_of_calls
from .costs import PUBLISHED_SIZES, ModelSizes, model_sizes, patching_costs
from .direction import DIRECTIONS, in_direction
from .directions import compare_directions, direction_sums
from .explorers import head_explorer, module_explorer
from .extent import Extent, affordable_extent
from .figures import effect_heatmap, image_effect_map, layer_profiles, region_effects
from .head_figures import denoising_against_noising, whole_head_map
from .intervention import Outcome, Patch, intervene
from .joint import attention_heads, patch_together, patch_whole_heads
from .metrics import patching_effect
from .regions import patch_regions
from .sentences import describe_directions, describe_regions, describe_sites
from .sweeps import patch_head_sets, patch_heads, patch_modules
from .view import Patching
from .waterfall import patch_waterfall

__all__ = [
    "DIRECTIONS",
    "PUBLISHED_SIZES",
    "Extent",
    "ModelSizes",
    "Outcome",
    "Patch",
    "Patching",
    "ablate",
    "affordable_extent",
    "attention_heads",
    "compare_directions",
    "cost_of_calls",
    "denoising_against_noising",
    "describe_directions",
    "describe_regions",
    "describe_sites",
    "direction_sums",
    "effect_heatmap",
    "head_explorer",
    "image_effect_map",
    "in_direction",
    "intervene",
    "layer_profiles",
    "model_sizes",
    "module_explorer",
    "patch_head_sets",
    "patch_heads",
    "patch_modules",
    "patch_regions",
    "patch_together",
    "patch_waterfall",
    "patch_whole_heads",
    "patching_costs",
    "patching_effect",
    "region_effects",
    "whole_head_map",
]
