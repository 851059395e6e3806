"""Activation patching: which activation, copied from the clean into the corrupt run, restores the answer?

**Measures** for each layer, position and module (or head) the share of the clean-corrupt gap in logit difference
that one patch closes: the patching effect. 0: the answer stays that of the corrupt run; 1: that of the clean run is
restored. All numbers are exact: each is what a full forward pass with that one patch gives.

**Use it** to find where the information that the two runs differ in is carried. `methods.attribution` estimates the
same numbers from gradients, for models too large for exact sweeps. What the clean run cannot do without is asked by
`direction="noising"` (from the corrupt into the clean run), by `ablate`, and by `methods.knockout` for attention.
`methods.circuits` tests whether the heads found here carry the answer together. `methods.causal_tracing` patches
where there is no second image, with noise as the corruption. `intervene` applies several patches at once.

**Returns** the tables `module_patching` (`patch_modules`, and `patch_regions` for whole regions of the image) and
`head_patching` (`patch_heads`): one row per pair, layer, position (or region) and module (or head).
`patch_head_sets` returns one row per pair and set of heads. `patch_whole_heads` returns `whole_heads`, one row per
pair and head of every attention block, and `patch_together` one row per pair and set; `direction_sums` and
`compare_directions` say what the two directions make of the same heads. `patching_costs` counts what all of it costs
before anything is run.

**Notebooks** 04_module_patching and 05_head_patching; for single examples 09_explorer, view Patch.

**Papers** Vig et al. 2020, "Investigating gender bias in language models using causal mediation analysis",
https://arxiv.org/abs/2004.12265, and Meng et al. 2022, "Locating and editing factual associations in GPT",
https://arxiv.org/abs/2202.05262, for the method; Golovanevsky et al. 2025 (NOTICE),
https://arxiv.org/abs/2406.16320, for pairs of images; Zhang and Nanda 2024, https://arxiv.org/abs/2309.16042, and
Heimersheim and Nanda 2024, https://arxiv.org/abs/2404.15255, for the measure and how to read it. The published
NOTICE code calls patching a layer's output "MLP patching"; here that is `residual`.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
