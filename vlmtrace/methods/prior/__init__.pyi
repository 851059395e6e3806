from .damping import damp_heads, damping_table
from .figures import damping_effects, head_sides_map, log_odds_bars
from .log_odds import log_odds_means, split_log_odds
from .removal import blank_images
from .sentences import describe_damping, describe_log_odds, describe_sides
from .sides import head_sides

__all__ = [
    "blank_images",
    "damp_heads",
    "damping_effects",
    "damping_table",
    "describe_damping",
    "describe_log_odds",
    "describe_sides",
    "head_sides",
    "head_sides_map",
    "log_odds_bars",
    "log_odds_means",
    "split_log_odds",
]
