"""vlmtrace: which layers, positions and heads of a vision-language model carry its answer, shown by intervening."""

import lazy_loader as lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
