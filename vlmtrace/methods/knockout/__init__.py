"""Knockouts: which way from the image to the answer does the clean run need?

**Measures** how much of the clean-corrupt gap the clean run loses when some positions may no longer attend to others
in a window of layers (attention knockout), or when the mean image token takes the place of the tokens of the object,
the background or the whole image (mean ablation). −1: as much is lost as the corruption takes; 0: nothing.

**Use it** beside `methods.patching`, which asks what is enough to restore the answer; a knockout asks what the
answer cannot do without. An activation can be enough and yet not needed, where another carries the same.
`methods.explanation` masks tokens of a single example.

**Returns** for both functions the table `module_patching`: one row per pair, edge and layer, or per pair and region.
Its logit_diff is LD_knocked − LD_clean, and its patching_effect is that over LD_clean − LD_corrupt.

**Notebook** 04_module_patching.

**Papers** Geva et al. 2023, "Dissecting recall of factual associations in auto-regressive language models",
https://arxiv.org/abs/2304.14767, for attention knockout; Neo et al. 2025, "Towards interpreting visual information
processing in vision-language models", https://arxiv.org/abs/2410.07149, for replacing image tokens.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
