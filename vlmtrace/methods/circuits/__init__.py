"""Circuits: which heads carry the answer, how sure is that, and do they carry it together?

**Measures** for each head its mean patching effect with an interval and a corrected test, in each task and under each
corruption; how many heads matter in several of these, beside chance; and for a ranking of heads the faithfulness of
its first k heads, kept alone (sufficiency) or taken out (necessity), on pairs that did not find the heads. What the
important heads do together is said for sufficiency, necessity, completeness and minimality one by one; random heads
are a control.

**Use it** after `methods.patching`, which gives one number per pair and head: here these become claims over pairs,
and heads are tested jointly. `smallest_set` searches sets, since single effects miss heads that back
each other up. `methods.attention` says what the heads look at.

**Returns** the tables `heads` (`head_table`: one row per head, task and corruption), `universal_heads` (one row per
head that is important anywhere), `universality` (how many, and how many by chance), `faithfulness`
(`faithfulness_table`: one row per pair, circuit, run and direction), which `faithfulness_means` and
`faithfulness_summary` summarise, `circuit_subsets` (`subset_table`) and `circuits` (`circuit_verdicts`: one row per
task, corruption and run).

**Notebook** 06_circuit_analysis.

**Papers** Wang et al. 2022, "Interpretability in the wild: a circuit for indirect object identification in GPT-2
small", https://arxiv.org/abs/2211.00593, for circuits, their faithfulness, completeness and minimality; Mueller et al.
2025, "MIB: a mechanistic interpretability benchmark", https://arxiv.org/abs/2504.13151, for areas under faithfulness;
Golovanevsky et al. 2025 (NOTICE), https://arxiv.org/abs/2406.16320, for universal heads and a rule that is kept for
comparison; Benjamini and Hochberg 1995, https://doi.org/10.1111/j.2517-6161.1995.tb02031.x, for the false discovery
rate; Berger 1982, https://doi.org/10.2307/1267823, for the test over all cells.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
