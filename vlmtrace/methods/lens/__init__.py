"""Visual lens: which heads raise the answer's probability, from which patches, and which words the patches hold.

**Measures** the contribution of heads, modules and source positions to the log-probability of the model's own answer
(direct logit attribution, in nats), and the words that image tokens stand for in each layer.

**Use it** when there is no corrupt run: one image and one question are enough. It says what a head writes directly, not
whether the model needs it; for that, patch (`methods.patching`) or mean-ablate (`ablate_heads`). Decoder-only models
only; for BLIP, use `methods.relevancy` or `methods.attention`.

**Returns** tables: `lens_contributions` (one row per question, layer and head or module), `score_maps` and `map_table`
(how well maps of the image do), `word_layers` (where the right word is read), `agreement` and `ablation_table` (images
against sentences).

**Notebook** 08_visual_lens.

**Paper** Yu and Ananiadou 2024, "Understanding multimodal LLMs: the mechanistic interpretability of LLaVA in visual
question answering", https://arxiv.org/abs/2411.10950.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
