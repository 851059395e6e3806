"""Vision-language models under one interface: `load_model` and the classes behind it."""

from vlmtrace.core.images import open_image
from vlmtrace.models.hooks import HookPoint, hooks
from vlmtrace.models.loading import bundled_models, load_model
from vlmtrace.models.sweep.self_check import self_check
from vlmtrace.models.types import Block, Inputs, Patches, Readout, Site, Token, Trace
from vlmtrace.models.vlm import VLM

__all__ = [
    "VLM",
    "Block",
    "HookPoint",
    "Inputs",
    "Patches",
    "Readout",
    "Site",
    "Token",
    "Trace",
    "bundled_models",
    "hooks",
    "load_model",
    "open_image",
    "self_check",
]
