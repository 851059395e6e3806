"""How fast the exact sweep is, beside hooks and other libraries: `make bench` (libraries: the extra "bench")."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
