"""Attention: where in the image does each head look, and what function does that suggest?

**Measures** the share of each head's attention on the object that the question asks about, on the distractor, on the
background and on outlier patches, against the shares of the image that these cover.

**Use it** to say what a head reads. What it does with what it reads is a causal question: patch the head
(`methods.patching`) or take its attention away (`methods.knockout`). `methods.relevancy` follows attention through
all layers, `methods.lens` weighs it by what a head writes.

**Returns** a table of one row per pair, head and query token (`head_attention`) and the table `head_functions` (one
row per head and region, with the name of a function).

**Notebooks** 06_circuit_analysis; for single examples 09_explorer, view Attention.

**Papers** Golovanevsky et al. 2025 (NOTICE), https://arxiv.org/abs/2406.16320, for the names of functions, whose
rule is this package's own; Darcet et al. 2024, "Vision transformers need registers",
https://arxiv.org/abs/2309.16588, for outlier patches.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
