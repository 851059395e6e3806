"""Norms with their scale frozen, so that they are linear and a sum of parts can be read part by part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vlmtrace.models.weight_values import float_copy


@dataclass(frozen=True)
class FrozenNorm:
    """A norm with the scale that it had on some vectors.

    N(v) = linear(v) + bias, where linear(v) = gain · (v − mean(v)) / scale; an RMS norm does not subtract the mean.
    A LayerNorm's subtraction of the mean is linear as it is, so each vector's own mean is subtracted.

    Attributes:
        gain, bias: (width,)
        centred: whether the mean is subtracted
        scale: (…, 1), one for each vector that the norm was frozen at: its root mean square, or standard deviation
    """

    gain: Tensor
    bias: Tensor
    centred: bool
    scale: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, norm: nn.Module, at: Tensor) -> FrozenNorm:
        """Freeze a norm at some vectors.

        All is float32, whatever the model computes in. Gain (which some families store as 1 + weight), bias and
        centring are found by asking the norm itself.

        Args:
            norm: a LayerNorm or RMS norm of a model; an Identity is frozen as what it is
            at: (…, width)
        """
        at = at.float()
        if isinstance(norm, nn.Identity):
            width = at.shape[-1]
            return cls(at.new_ones(width), at.new_zeros(width), False, torch.ones_like(at[..., :1]))
        exact = float_copy(norm, at.device)
        # ±1000 in turn: mean 0, root mean square 1000, beside which the norm's epsilon is nothing.
        signs = torch.ones(at.shape[-1], device=at.device)
        signs[1::2] = -1
        plus, minus, flat = (exact(1000 * probe) for probe in (signs, -signs, torch.ones_like(signs)))
        gain, bias = signs * (plus - minus) / 2, (plus + minus) / 2
        centred = bool((flat - bias).abs().mean() < 0.5 * gain.abs().mean())
        inner = (at - at.mean(-1, keepdim=True) if centred else at) * gain
        outer = exact(at) - bias
        # outer = inner / scale. A vector of zeros says nothing about its scale, and any will do.
        product = (inner * outer).sum(-1, keepdim=True)
        scale = torch.where(product > 0, (inner * inner).sum(-1, keepdim=True) / product, 1.0)
        return cls(gain, bias, centred, scale)

    def __getitem__(self, index: Any) -> FrozenNorm:
        """The same norm, frozen at some of the vectors."""
        return FrozenNorm(self.gain, self.bias, self.centred, self.scale[index])

    def linear(self, vectors: Tensor) -> Tensor:
        """The part of the norm that is linear in the vectors, without its bias: (…, width).

        Args:
            vectors: (…, width); their shape must broadcast with the scale's
        """
        vectors = vectors.float()
        if self.centred:
            vectors = vectors - vectors.mean(-1, keepdim=True)
        return self.gain * vectors / self.scale

    def __call__(self, vectors: Tensor) -> Tensor:
        """The norm of vectors under the frozen scale: (…, width)."""
        return self.linear(vectors) + self.bias
