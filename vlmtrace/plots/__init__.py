"""Every figure of the workbench. Tidy tables in, matplotlib figures out, seven inches wide as a page's text.

    figure = plots.head_map(heads, task="rendered_states", corruption="image")
    plots.save_figure(figure, "figures/head_map")         # head_map.png and head_map.pdf

Effects are signed and share one diverging map centred on 0; the color bar says the unit, the baseline, what was
averaged and the range. Nothing is rescaled silently: `limit=` sets the range.
"""

from vlmtrace.plots.attention import attention_gallery, attention_overlay
from vlmtrace.plots.attribution import attribution_scatter
from vlmtrace.plots.causal_tracing import (
    average_trace,
    noise_curves,
    pairing_scatter,
    trace_map,
    upper_against_lower,
)
from vlmtrace.plots.circuits import faithfulness_curves, function_scores
from vlmtrace.plots.effects import effect_heatmap, image_effect_map
from vlmtrace.plots.heads import head_map, universal_head_table
from vlmtrace.plots.interventions import knockout_effects, layer_profiles, region_effects
from vlmtrace.plots.lens import lens_heads, map_curves, map_measures, patch_maps, visual_against_textual
from vlmtrace.plots.lens_words import word_grid, words_by_layer
from vlmtrace.plots.pairs import accuracy_by_category, pair_gallery, selection_counts
from vlmtrace.plots.style import save_figure

__all__ = [
    "accuracy_by_category",
    "attention_gallery",
    "attention_overlay",
    "attribution_scatter",
    "average_trace",
    "effect_heatmap",
    "faithfulness_curves",
    "function_scores",
    "head_map",
    "image_effect_map",
    "knockout_effects",
    "layer_profiles",
    "lens_heads",
    "map_curves",
    "map_measures",
    "noise_curves",
    "pair_gallery",
    "pairing_scatter",
    "patch_maps",
    "region_effects",
    "save_figure",
    "selection_counts",
    "trace_map",
    "universal_head_table",
    "upper_against_lower",
    "visual_against_textual",
    "word_grid",
    "words_by_layer",
]
