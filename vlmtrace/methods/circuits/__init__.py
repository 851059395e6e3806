"""Circuits: which heads carry the answer, how sure is that, and do they carry it together?

**Measures** for each head its mean patching effect with an interval and a corrected test, in each task and under
each corruption; and for a ranking of heads the patching effect with only the first k heads clean (sufficiency) or
only these corrupt (necessity), against random heads, on pairs that did not find the heads.

**Use it** after `methods.patching`, which gives one number per pair and head: here these become claims over pairs,
and heads are tested jointly. `methods.attention` says what the heads look at.

**Returns** the tables `heads` (`head_table`: one row per head, task and corruption), `universal_heads` (one row per
head that is important anywhere) and `faithfulness` (`faithfulness_table`: one row per pair, circuit and direction),
which `faithfulness_means`, `faithfulness_summary` and `circuit_claims` summarise.

**Notebook** 06_circuit_analysis.

**Papers** Wang et al. 2022, "Interpretability in the wild: a circuit for indirect object identification in GPT-2
small", https://arxiv.org/abs/2211.00593, for circuits and their faithfulness; Golovanevsky et al. 2025 (NOTICE),
https://arxiv.org/abs/2406.16320, for universal heads and the two-standard-deviations rule that is kept for
comparison; Benjamini and Hochberg 1995, https://doi.org/10.1111/j.2517-6161.1995.tb02031.x, for the false discovery
rate; Berger 1982, https://doi.org/10.2307/1267823, for the test over all cells.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
