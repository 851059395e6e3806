"""Image and words: does the model look, or does it answer from its words alone?

**Measures** how much of the log-odds of an answer comes from the image and how much from the words. Each is kept or
taken away, four runs in all, and both parts are Shapley values of this game, so that they add up to what both bring
together. Patches between runs in which image and words speak for different answers say which heads carry each side.
Damping multiplies the output of some heads: does it repair answers in which the words win over the image, and spoil
none that were right?

What is usual for what, whatever the picture shows, is searched over all things and answers. Early decoding says behind
which layer an answer turns to what is shown. Steering adds a mean difference of activations and counts what turns.

**Use it** to find out whether a model answers from a language prior: on pairs of images that differ in one visible
fact, on leading questions, on things that are not there, on a blank image. `vt.reword` writes the questions,
`methods.patching` gives the patches, `methods.knockout` says what a run loses without its image tokens by region.

**Returns** the tables `log_odds_parts` (`split_log_odds`), `head_sides` (`head_sides`), `damped` (`damp_heads`),
`option_scores` (`score_options`), `early_answers` (`decode_early`) and `steered` (`steer`); `log_odds_means`,
`damping_table`, `find_priors`, `early_means` and `steering_table` average them with intervals.

**Notebooks** 11_language_prior, 15_planted_prior.

**Papers** Shapley 1953, "A value for n-person games", https://doi.org/10.1515/9781400881970-018; Tong et al. 2024,
"Eyes wide shut?" (MMVP), https://arxiv.org/abs/2401.06209; Li et al. 2023, "Evaluating object hallucination in large
vision-language models" (POPE), https://arxiv.org/abs/2305.10355; Golovanevsky et al. 2025, "Pixels versus priors",
https://aclanthology.org/2025.emnlp-main.1262/; McNemar 1947, https://doi.org/10.1007/BF02295996.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
