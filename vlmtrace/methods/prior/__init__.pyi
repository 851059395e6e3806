from .damping import damp_heads, damping_table
from .early import decode_early, early_means
from .figures import damping_effects, head_sides_map, log_odds_bars
from .log_odds import log_odds_means, split_log_odds
from .prior_figures import early_curves, prior_map, steering_effects
from .removal import blank_images
from .scan import find_priors, score_options
from .sentences import describe_damping, describe_log_odds, describe_sides
from .sides import head_sides
from .steering import steer, steering_table

__all__ = [
    "blank_images",
    "damp_heads",
    "damping_effects",
    "damping_table",
    "decode_early",
    "describe_damping",
    "describe_log_odds",
    "describe_sides",
    "early_curves",
    "early_means",
    "find_priors",
    "head_sides",
    "head_sides_map",
    "log_odds_bars",
    "log_odds_means",
    "prior_map",
    "score_options",
    "split_log_odds",
    "steer",
    "steering_effects",
    "steering_table",
]
