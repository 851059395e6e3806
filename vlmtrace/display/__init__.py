"""What figures, explorers and views of several methods share: style, panels, controls, and one example's numbers.

- `Example`: one image and one question asked of one model; what is computed of it is kept.
- `Session`: the pairs, the example, and what is selected and patched, which several views share.
- `Selection`: the head, module or node that is looked at; `Patched`: what the answer becomes with what is patched.
- `View`: the base of every view; a subclass in a method's `view.py` becomes a tab of the app.
- `save_figure`: write a figure as PNG and PDF.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
