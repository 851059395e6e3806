"""Circuits: which heads carry the answer, how sure is that, and do they carry it together?

**What it measures.** For each head: its mean patching effect with an interval and a corrected test, in each task and
under each corruption. For a ranking of heads: the patching effect with only the first k heads clean (sufficiency), or
only these corrupt (necessity), against random heads, on pairs that did not find the heads.

**When to use it.** After `patching`, which gives one number per pair and head: this room says which of them hold over
pairs, and tests heads jointly. `attention` says what these heads look at.

**Tables.** `head_table` returns heads, one row per head, task and corruption; `universal_heads` one row per head that
is important anywhere; `faithfulness_table` one row per pair, circuit and direction, which `faithfulness_means`,
`faithfulness_summary` and `circuit_claims` condense.

**Notebook.** 06_circuit_analysis.

**Papers.** Wang et al. 2022 (https://arxiv.org/abs/2211.00593) for circuits and their faithfulness; Golovanevsky et
al. 2025 (https://arxiv.org/abs/2406.16320) for universal heads and the two-standard-deviations rule kept for
comparison; Benjamini and Hochberg 1995 (https://doi.org/10.1111/j.2517-6161.1995.tb02031.x) for the false discovery
rate; Berger 1982 (https://doi.org/10.2307/1267823) for the test over all cells.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
