"""Attribution patching: what would every patch do, estimated from one gradient?

**Measures** the patching effect of every layer, position and module (or head) to first order: the gradient of the
logit difference in the corrupt run, times the difference between the clean and the corrupt activation.

**Use it** instead of `methods.patching` where the model is too large for exact sweeps: two forward passes and one
backward pass serve all sites of a pair. The estimate fails where a softmax or a norm saturates; `ranking_agreement`
says how well it ranks heads, on pairs whose exact effects are known.

**Returns** the tables `module_patching` (`attribute_modules`) and `head_patching` (`attribute_heads`), with
p_correct and p_diff missing; `ranking_agreement` returns one row.

**Notebook** 05_head_patching.

**Papers** Nanda 2023, https://www.neelnanda.io/mechanistic-interpretability/attribution-patching, and Syed, Rager
and Conmy 2023, "Attribution patching outperforms automated circuit discovery", https://arxiv.org/abs/2310.10348.
With `steps` > 1, integrated gradients (Sundararajan, Taly and Yan 2017, https://arxiv.org/abs/1703.01365) between
the input embeddings, as in Hanna, Pezzelle and Belinkov 2024, https://arxiv.org/abs/2403.17806. The corrections of
AtP* (Kramár et al. 2024, https://arxiv.org/abs/2403.00745) are applied by `methods.edges.attribute_nodes`.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
