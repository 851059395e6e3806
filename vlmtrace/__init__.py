"""vlmtrace: which layers, positions and heads of a vision-language model carry its answer, shown by intervening."""

from vlmtrace.attribution import attribute_heads, attribute_modules, ranking_agreement
from vlmtrace.causal_tracing import causal_trace
from vlmtrace.errors import VlmtraceError
from vlmtrace.evaluate import accuracy_table, check_pairs, evaluate
from vlmtrace.grounding import map_table, score_maps
from vlmtrace.knockout import knock_out_attention, replace_image_tokens
from vlmtrace.lens import lens_contributions, open_lens
from vlmtrace.models import VLM, bundled_models, load_model
from vlmtrace.noise import choose_level, noise_curve, noise_scale
from vlmtrace.patching import patch_head_sets, patch_heads, patch_modules, patch_regions
from vlmtrace.select import select_samples, selection_table
from vlmtrace.tasks import load_pairs, load_questions, one_question, prepare_pairs
from vlmtrace.trace_summary import average_effects, later_layers

__version__ = "0.1.0"

__all__ = [
    "VLM",
    "VlmtraceError",
    "accuracy_table",
    "attribute_heads",
    "attribute_modules",
    "average_effects",
    "bundled_models",
    "causal_trace",
    "check_pairs",
    "choose_level",
    "evaluate",
    "knock_out_attention",
    "later_layers",
    "lens_contributions",
    "load_model",
    "load_pairs",
    "load_questions",
    "map_table",
    "noise_curve",
    "noise_scale",
    "one_question",
    "open_lens",
    "patch_head_sets",
    "patch_heads",
    "patch_modules",
    "patch_regions",
    "prepare_pairs",
    "ranking_agreement",
    "replace_image_tokens",
    "score_maps",
    "select_samples",
    "selection_table",
]
