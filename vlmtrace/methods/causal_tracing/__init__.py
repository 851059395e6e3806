"""Causal tracing: where the answer to one open question comes together, with noise in the place of a second image.

**Measures** the indirect effect of a site: by how much the probability of the model's own answer rises when noise hides
the image and one state (a layer, position and module) is restored to its clean value.

**Use it** when there is no second image that differs in one thing. With such pairs, `methods.patching` is sharper: a
semantic corruption changes one fact and leaves the model on its usual inputs, noise takes the whole image away.

**Returns** the table `causal_tracing` (`causal_trace`: one row per question, answer token, site and position) and the
table `noise_curve` (one row per question, answer token and level of noise); `average_effects` and `later_layers`
summarise traces over questions.

**Notebook** 07_causal_tracing.

**Papers** Palit et al. 2023, "Towards vision-language mechanistic interpretability: a causal tracing tool for BLIP",
https://arxiv.org/abs/2308.14179; after Meng et al. 2022, "Locating and editing factual associations in GPT",
https://arxiv.org/abs/2202.05262.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
