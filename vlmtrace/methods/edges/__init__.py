"""Edges: which node talks to which other one, and is that the way the answer takes?

**Measures** what single edges do: the output of one node (a head, an mlp, the image, the prompt) as it enters one
input of one later node (a head's query, key or value, an mlp, the output), straight along the residual stream.

**Use it** where `methods.patching` has said which heads matter, and the question is what they read and who reads them.
`methods.circuits` asks the same questions of heads alone.

**Returns** the table `edge_patching`: `patch_edges` exactly, `attribute_edges` to the first order.
`attribute_nodes` does the same for one input of a node at a time, and `edge_agreement` says how well estimates rank.

**Notebook** 10_edge_circuits.

**Papers** Wang et al. 2022, "Interpretability in the wild", https://arxiv.org/abs/2211.00593, and Goldowsky-Dill et
al. 2023, "Localizing model behavior with path patching", https://arxiv.org/abs/2304.05969. Estimates: Syed, Rager and
Conmy 2023, https://arxiv.org/abs/2310.10348, Hanna, Pezzelle and Belinkov 2024, https://arxiv.org/abs/2403.17806, and
Kramár et al. 2024, https://arxiv.org/abs/2403.00745.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
