"""The rules by which relevancy passes through attention layers (Chefer et al. 2021, https://arxiv.org/abs/2103.15679).

Equation numbers are the paper's. Sequences: s attends to itself and to q; x is what q has attended to. For x the paper
has no rule: that of `bimodal_relevancy` extends eq. 11 (R^ss ← R^ss + Ā R^qs) from x = s to a third sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def head_mean(attention: Tensor, gradient: Tensor) -> Tensor:
    """Attention weighted by its gradient, positive parts, mean over heads: Ā (eq. 5).

    Args:
        attention: (…, head, query, key)
        gradient: of one logit, the same shape
    Returns:
        (…, query, key)
    """
    return (gradient.float() * attention.float()).clamp(min=0).mean(-3)


def self_attention_relevancy(
    attentions: Sequence[Tensor], gradients: Sequence[Tensor], rows: Tensor | None = None
) -> Tensor:
    """Relevancy through layers of self-attention: R = (1 + Ā_L) ⋯ (1 + Ā_1), eq. 6 from the first layer to the last.

    Args:
        attentions: of each layer, (…, head, position, position)
        gradients: of the same shape, of one logit; there may be more dimensions before
        rows: (…, row, position), what R is multiplied by from the left: then R itself is never made; None: all of R
    Returns:
        (…, row, position)
    """
    weights = [head_mean(*pair) for pair in zip(attentions, gradients, strict=True)]
    found = _identity(weights[0]) if rows is None else rows
    for weight in reversed(weights):
        found = found + found @ weight
    return found


def bimodal_relevancy(
    attentions: Sequence[Tensor],
    gradients: Sequence[Tensor],
    cross_attentions: Sequence[Tensor],
    cross_gradients: Sequence[Tensor],
    attended: Tensor,
    mediated: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Relevancy of a sequence s whose layers attend to itself and then to a finished sequence q (eq. 6, 7, 10).

    What s has from a third sequence x, by way of q, follows a rule of ours: R^sx ← R^sx + Ā R^qx. Eq. 11 of the paper
    is that rule for x = s; it is not needed here, since q is finished before s and has nothing from it.

    Args:
        attentions: of each layer, (…, head, s, s)
        gradients: of the same shapes, of one logit
        cross_attentions: of each layer, (…, head, s, q)
        cross_gradients: of the same shapes, of one logit
        attended: R^qq, (…, q, q)
        mediated: R^qx, (…, q, x): what q has from a third sequence; None: nothing
    Returns:
        R^ss (…, s, s), R^sq (…, s, q), R^sx (…, s, x) or None
    """
    own = across = third = None
    for attention, gradient, cross, cross_gradient in zip(
        attentions, gradients, cross_attentions, cross_gradients, strict=True
    ):
        inside, weight = head_mean(attention, gradient), head_mean(cross, cross_gradient)
        own = _identity(inside) if own is None else own  # (…, s, s)
        own = own + inside @ own
        new = normalised(own).mT @ weight @ normalised(attended)  # (…, s, q)
        across = new if across is None else across + inside @ across + new
        if mediated is not None:
            new = weight @ mediated  # (…, s, x)
            third = new if third is None else third + inside @ third + new
    assert own is not None and across is not None
    return own, across, third


def normalised(relevancy: Tensor) -> Tensor:
    """R̄ (eq. 8, 9): all but the identity scaled to rows of sum 1, where there is any.

    Args:
        relevancy: R, (…, position, position)

    Returns:
        the same shape
    """
    one = _identity(relevancy)
    rest = relevancy - one
    total = rest.sum(-1, keepdim=True)
    return one + torch.where(total > 0, rest / total, 0)


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], device=like.device).expand(like.shape)
