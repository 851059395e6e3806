"""Causal explanation: the fewest tokens whose masking changes an answer, searched along graphs of a layer's attention.

**Measures** whether the answer changes when a set of image tokens or words is masked, and how often as many other
tokens, drawn at random, change it too. The order in which sets are tried follows from a causal graph that is learnt
from each head's attention matrix.

**Use it** for one example, when you ask which words or patches the answer depends on. The masking is an intervention on
the model; the graph alone describes an attention matrix. `methods.relevancy` gives every token a value without an
intervention; `methods.knockout` cuts attention between regions over many pairs.

**Returns** an `Explanation`: the masked set, the tables `tried` (one row per set) and `random` (one row per random
draw), and one graph per head.

**Notebook** 09_explorer, view Causal graph.

**Paper** Rohekar, Gurwicz and Nisimov 2023, "Causal interpretation of self-attention in pre-trained transformers"
(CLEANN), https://arxiv.org/abs/2310.20307; as a tool for vision-language models, LVLM-Interpret (Stan et al. 2024,
https://arxiv.org/abs/2404.03118).
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
