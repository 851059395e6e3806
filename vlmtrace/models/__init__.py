"""Vision-language models under one interface: `load_model`, and what a loaded model is described by."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
