"""Every figure of the workbench. Tidy tables in, matplotlib figures out, seven inches wide as a page's text.

    figure = plots.head_map(heads, task="rendered_states", corruption="image")
    plots.save_figure(figure, "figures/head_map")         # head_map.png and head_map.pdf

Effects are signed and share one diverging map centred on 0; the color bar says the unit, the baseline, what was
averaged and the range. Nothing is rescaled silently: `limit=` sets the range.

Example:
    >>> import vlmtrace as vt
    >>> model = vt.load_model("tiny-blip")
    >>> pairs = vt.evaluate(model, vt.load_pairs("rendered_states", n=6, seed=0))
    >>> effects = vt.patch_modules(model, pairs, blocks=["text_decoder"])
    >>> figure = vt.plots.effect_heatmap(effects, "residual", pairs=pairs)
    >>> float(figure.get_figwidth())
    7.0
"""

from vlmtrace.display.style import save_figure
from vlmtrace.methods.attention.figures import attention_gallery, attention_overlay, function_scores
from vlmtrace.methods.attribution.figures import attribution_scatter
from vlmtrace.methods.causal_tracing.figures import (
    average_trace,
    noise_curves,
    pairing_scatter,
    trace_map,
    upper_against_lower,
)
from vlmtrace.methods.circuits.figures import faithfulness_curves, head_map, universal_head_table
from vlmtrace.methods.edges.agreement_figures import edge_agreement
from vlmtrace.methods.edges.circuit_figures import edge_faithfulness_curves
from vlmtrace.methods.edges.figures import edge_circuit
from vlmtrace.methods.evaluation.figures import (
    accuracy_by_category,
    logit_differences,
    pair_gallery,
    selection_counts,
)
from vlmtrace.methods.knockout.figures import knockout_effects
from vlmtrace.methods.lens.figures import lens_heads, map_curves, map_measures, patch_maps, visual_against_textual
from vlmtrace.methods.lens.word_figures import word_grid, words_by_layer
from vlmtrace.methods.patching.cost_figures import cost_of_calls
from vlmtrace.methods.patching.figures import effect_heatmap, image_effect_map, layer_profiles, region_effects
from vlmtrace.methods.patching.head_figures import denoising_against_noising, whole_head_map
from vlmtrace.methods.patching.mean_figures import mean_effect_maps
from vlmtrace.methods.prior.figures import damping_effects, head_sides_map, log_odds_bars
from vlmtrace.methods.prior.prior_figures import early_curves, prior_map, steering_effects

__all__ = [
    "accuracy_by_category",
    "attention_gallery",
    "attention_overlay",
    "attribution_scatter",
    "average_trace",
    "cost_of_calls",
    "damping_effects",
    "denoising_against_noising",
    "early_curves",
    "edge_agreement",
    "edge_circuit",
    "edge_faithfulness_curves",
    "effect_heatmap",
    "faithfulness_curves",
    "function_scores",
    "head_map",
    "head_sides_map",
    "image_effect_map",
    "knockout_effects",
    "layer_profiles",
    "lens_heads",
    "log_odds_bars",
    "logit_differences",
    "map_curves",
    "map_measures",
    "mean_effect_maps",
    "noise_curves",
    "pair_gallery",
    "pairing_scatter",
    "patch_maps",
    "prior_map",
    "region_effects",
    "save_figure",
    "selection_counts",
    "steering_effects",
    "trace_map",
    "universal_head_table",
    "upper_against_lower",
    "visual_against_textual",
    "whole_head_map",
    "word_grid",
    "words_by_layer",
]
