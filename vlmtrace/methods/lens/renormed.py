"""What heads add when the final norm is computed anew for every vector, beside the frozen scale of `contributions`.

The frozen scale makes reading linear up to the softmax, so that parts add up. The model itself has no such scale: with
a head's output, the stream that it would normalize is another one. Two numbers say what that changes, in nats, with N
computed anew for each vector that is read, x what enters the layer of a head, o its output and z the final stream:

- increase: log p(b | N(x + o)) − log p(b | N(x)), the contribution of `contributions` but for the norm. The stream is
  short in early layers, so that N magnifies what a head writes there
- loss: log p(b | N(z)) − log p(b | N(z − o)), what the answer loses if the head's output is taken out of the final
  stream and all else stays. This is the direct effect of the head in the run itself
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlmtrace.core.types import Array
from vlmtrace.methods.lens.decomposition import Lens
from vlmtrace.methods.lens.frozen_norm import FrozenNorm


@torch.no_grad()
def renormed_log_p(lens: Lens, vectors: Tensor, token: int) -> Tensor:
    """Log-probability of a token given vectors of the stream, each normalized by its own scale.

    Args:
        lens: the run whose model reads
        vectors: (n, D)
        token: the token's id
    Returns:
        (n,), in nats
    """
    norm = FrozenNorm.of(lens.model.final_norm, vectors)
    return lens.model.unembed(norm(vectors)).log_softmax(-1)[:, token]


@torch.no_grad()
def renormed_contributions(lens: Lens, token: int | None = None) -> tuple[Array, Array]:
    """Increase and loss of every head, the final norm computed anew (see the module's docstring).

    Args:
        lens: one run
        token: id of b; None: the token that the model predicts
    Returns:
        increase and loss, (layer, head) each, in nats
    """
    token = lens.token if token is None else token
    final = lens.hidden[-1, lens.at][None]
    increases: list[Tensor] = []
    losses: list[Tensor] = []
    for layer in range(len(lens.heads)):
        entering, outputs = lens.hidden[layer, lens.at][None], lens.head_outputs(layer)
        for found, with_head, without in (
            (increases, entering + outputs, entering),
            (losses, final, final - outputs),
        ):
            found.append(renormed_log_p(lens, with_head, token) - renormed_log_p(lens, without, token))
    return torch.stack(increases).cpu().numpy(), torch.stack(losses).cpu().numpy()


@torch.no_grad()
def renormed_modules(lens: Lens, token: int | None = None) -> tuple[Array, Array]:
    """Increase and loss of whole attention and feed-forward modules, the final norm computed anew.

    Args:
        lens: one run
        token: id of b; None: the token that the model predicts
    Returns:
        increase and loss, (layer, 2) each: attention, feed-forward; in nats
    """
    token = lens.token if token is None else token
    stream, final = lens.hidden[:-1, lens.at], lens.hidden[-1, lens.at][None]
    attention, mlp = lens.attention[:, lens.at], lens.mlp[:, lens.at]  # (L, D)
    steps = [renormed_log_p(lens, part, token) for part in (stream, stream + attention, stream + attention + mlp)]
    whole = renormed_log_p(lens, final, token)
    losses = [whole - renormed_log_p(lens, final - part, token) for part in (attention, mlp)]
    increases = torch.stack([steps[1] - steps[0], steps[2] - steps[1]], dim=1)
    return increases.cpu().numpy(), torch.stack(losses, dim=1).cpu().numpy()
