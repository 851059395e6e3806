"""Relevancy: how much each image patch and each word of the prompt counted for each token of the answer.

**Measures** relevance by attention weighted with its gradient and propagated through the layers, for the raw logit of
one answer token at a time; through the language side, the vision encoder, or both.

**Use it** for a first look at one example, in any supported model and with answers of several tokens: it costs one
forward pass, and one backward pass for each token. It is a guess, not an effect: test what it shows by
`methods.patching` or by masking (`methods.explanation`). `methods.lens` splits a decoder-only answer into heads.

**Returns** a `Relevancy` with arrays and the tables `table()` (one row per answer token and position), `words()` and
`shares()` (image against text).

**Notebook** 09_explorer, view Relevancy.

**Paper** Chefer, Gur and Wolf 2021, "Generic attention-model explainability for interpreting bi-modal and
encoder-decoder transformers", https://arxiv.org/abs/2103.15679; as a tool for vision-language models, LVLM-Interpret
(Stan et al. 2024, https://arxiv.org/abs/2404.03118).
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
