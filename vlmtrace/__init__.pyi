from . import plots
from .core.errors import VlmtraceError
from .display.html_tables import formatted
from .inputs.rewording import reword
from .inputs.same_size import same_size
from .inputs.saved_images import save_images
from .methods.attribution.gradients import attribute_heads, attribute_modules, ranking_agreement
from .methods.causal_tracing.noise import choose_level, noise_curve, noise_scale
from .methods.causal_tracing.summary import average_effects, later_layers
from .methods.causal_tracing.trace import causal_trace
from .methods.edges.agreement import edge_agreement
from .methods.edges.circuit_runs import run_edge_circuits
from .methods.edges.circuits import choose_circuit, edge_scores
from .methods.edges.estimates import attribute_edges, attribute_nodes
from .methods.edges.faithfulness import edge_faithfulness, edge_faithfulness_means, edge_faithfulness_summary
from .methods.edges.listing import edges
from .methods.edges.path_patching import patch_edges
from .methods.edges.saved import load_circuit, save_circuit
from .methods.edges.search import acdc, find_edge_circuit
from .methods.edges.verdicts import edge_overlap, edge_subsets, edge_transfer, edge_verdicts
from .methods.evaluation.answers import accuracy_table, evaluate
from .methods.evaluation.selection import select_samples, selection_table
from .methods.evaluation.usable import check_pairs, usable_pairs
from .methods.knockout.attention_knockout import knock_out_attention
from .methods.knockout.replacement import replace_image_tokens
from .methods.lens.contributions import lens_contributions
from .methods.lens.decomposition import open_lens
from .methods.lens.map_comparison import map_table
from .methods.lens.map_scores import score_maps
from .methods.patching.ablation import ablate
from .methods.patching.joint import patch_together, patch_whole_heads
from .methods.patching.regions import patch_regions
from .methods.patching.sweeps import patch_head_sets, patch_heads, patch_modules
from .methods.prior.damping import damp_heads, damping_table
from .methods.prior.early import decode_early, early_means
from .methods.prior.log_odds import log_odds_means, split_log_odds
from .methods.prior.removal import blank_images
from .methods.prior.scan import find_priors, score_options
from .methods.prior.sides import head_sides
from .methods.prior.steering import steer, steering_table
from .models import VLM
from .models.in_memory import wrap_model
from .models.loading import bundled_models, load_model
from .pipeline.cluster.connection import connect
from .tasks import load_pairs, load_questions, one_question, prepare_pairs

__version__: str

__all__ = [
    "VLM",
    "VlmtraceError",
    "ablate",
    "accuracy_table",
    "acdc",
    "attribute_edges",
    "attribute_heads",
    "attribute_modules",
    "attribute_nodes",
    "average_effects",
    "blank_images",
    "bundled_models",
    "causal_trace",
    "check_pairs",
    "choose_circuit",
    "choose_level",
    "connect",
    "damp_heads",
    "damping_table",
    "decode_early",
    "early_means",
    "edge_agreement",
    "edge_faithfulness",
    "edge_faithfulness_means",
    "edge_faithfulness_summary",
    "edge_overlap",
    "edge_scores",
    "edge_subsets",
    "edge_transfer",
    "edge_verdicts",
    "edges",
    "evaluate",
    "find_edge_circuit",
    "find_priors",
    "formatted",
    "head_sides",
    "knock_out_attention",
    "later_layers",
    "lens_contributions",
    "load_circuit",
    "load_model",
    "load_pairs",
    "load_questions",
    "log_odds_means",
    "map_table",
    "noise_curve",
    "noise_scale",
    "one_question",
    "open_lens",
    "patch_edges",
    "patch_head_sets",
    "patch_heads",
    "patch_modules",
    "patch_regions",
    "patch_together",
    "patch_whole_heads",
    "plots",
    "prepare_pairs",
    "ranking_agreement",
    "replace_image_tokens",
    "reword",
    "run_edge_circuits",
    "same_size",
    "save_circuit",
    "save_images",
    "score_maps",
    "score_options",
    "select_samples",
    "selection_table",
    "split_log_odds",
    "steer",
    "steering_table",
    "usable_pairs",
    "wrap_model",
]
