"""Evaluation: what does the model answer, clean and corrupt, and which pairs are worth patching?

**What it measures.** For each minimal pair and each of its runs (clean, corrupt image, corrupt text): the generated
answer, the probabilities of both options and the logit difference LD = logit(correct) − logit(incorrect) at the first
answer token. `select_samples` then draws pairs on which all runs do what a minimal pair asks for, balanced over
category and order of the options, and splits them into pairs to discover heads on and pairs to verify them on.

**When to use it.** Before every other room: an effect of patching is a share of the clean-corrupt gap, and means
nothing on a pair that the model gets wrong. `patching` asks how the model reaches the answers that are counted here.

**Tables.** `evaluate` returns the evaluated table, one row per pair; `accuracy_table` and `selection_table` count,
one row per category and measure or order of the options; `select_samples` returns the selected table.

**Notebooks.** 02_evaluate and 03_select_samples.

**Papers.** Golovanevsky et al. 2025, What Do VLMs NOTICE? (https://arxiv.org/abs/2406.16320) for semantic image pairs
and symmetric token replacement. Intervals of shares are Wilson's (1927,
https://doi.org/10.1080/01621459.1927.10502953).
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
