from .explorers import trace_explorer
from .figures import average_trace, noise_curves, pairing_scatter, trace_map, two_seeds, upper_against_lower
from .noise import Noise, choose_level, noise_curve, noise_scale
from .sentences import describe_noise, describe_trace
from .summary import average_effects, later_layers
from .trace import causal_trace

__all__ = [
    "Noise",
    "average_effects",
    "average_trace",
    "causal_trace",
    "choose_level",
    "describe_noise",
    "describe_trace",
    "later_layers",
    "noise_curve",
    "noise_curves",
    "noise_scale",
    "pairing_scatter",
    "trace_explorer",
    "trace_map",
    "two_seeds",
    "upper_against_lower",
]
