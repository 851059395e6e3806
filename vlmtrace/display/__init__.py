"""What figures, explorers and views of several methods share: style, panels, controls, and one example's numbers.

- `Example`: one image and one question asked of one model; what is computed of it is kept.
- `Session`: the pairs and the example that several views share.
- `View`: the base of every view; a subclass in a method's `view.py` becomes a tab of the app.
- `save_figure`: write a figure as PNG and PDF.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
