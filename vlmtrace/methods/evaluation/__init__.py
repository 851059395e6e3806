"""Evaluation: what does the model answer, clean and corrupt, and which pairs are worth patching?

**Measures** for each minimal pair and each of its runs (clean, corrupt image, corrupt text) the generated answer,
the probabilities of both options and the logit difference LD = logit(correct) − logit(incorrect) at the first answer
token. `select_samples` draws pairs on which all runs do what a minimal pair asks for, balanced over category and
order of the options, and splits them into pairs to discover heads on and pairs to verify them on.

**Use it** before every other method that works on pairs: an effect of patching is a share of the clean-corrupt gap,
and means nothing on a pair that the model gets wrong. `methods.patching` asks how the model reaches the answers that
are counted here.

**Returns** the tables `evaluated` (`evaluate`: one row per pair) and `selected` (`select_samples`); `accuracy_table`
and `selection_table` count, one row per category and measure, or per category and order of the options.

**Notebooks** 02_evaluate and 03_select_samples.

**Paper** Golovanevsky et al. 2025, "What do VLMs NOTICE? A mechanistic interpretability pipeline for
Gaussian-noise-free text-image corruption and evaluation", https://arxiv.org/abs/2406.16320, for semantic image pairs
and symmetric token replacement. Intervals of shares are those of Wilson 1927,
https://doi.org/10.1080/01621459.1927.10502953.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
