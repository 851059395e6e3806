"""Vision-language models under one interface: `load_model`, and what a loaded model is described by."""

import lazy_loader as lazy

# At once, since the function would otherwise give way to the module of the same name.
from vlmtrace.models.hooks import hooks  # noqa: F401

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
