from .families import FamilySpec, families_table
from .hooks import HookPoint, attach_hooks
from .in_memory import wrap_model
from .known import KnownCircuit, known_circuit
from .loading import bundled_models, load_model
from .randomized import randomized
from .sweep.self_check import self_check
from .types import Block, Inputs, Patches, Readout, Site, Token, Trace
from .vlm import VLM

__all__ = [
    "VLM",
    "Block",
    "FamilySpec",
    "HookPoint",
    "Inputs",
    "KnownCircuit",
    "Patches",
    "Readout",
    "Site",
    "Token",
    "Trace",
    "attach_hooks",
    "bundled_models",
    "families_table",
    "known_circuit",
    "load_model",
    "randomized",
    "self_check",
    "wrap_model",
]
