"""A low-rank adapter of chosen linear maps (Hu et al. 2022, LoRA, https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LowRank(nn.Module):
    """A frozen linear map, and a product of two thin matrices that is added to it."""

    def __init__(self, frozen: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        """Add a product that changes nothing yet.

        Args:
            frozen: the linear map
            rank: of the product
            scale: it is multiplied by this
            generator: of the first factor's numbers
        """
        super().__init__()
        self.frozen, self.scale = frozen, scale
        drawn = torch.randn((rank, frozen.in_features), generator=generator) / math.sqrt(frozen.in_features)
        self.down = nn.Parameter(drawn)
        self.up = nn.Parameter(torch.zeros(frozen.out_features, rank))

    def forward(self, value: Tensor) -> Tensor:
        """(…, outputs) from (…, inputs)."""
        return self.frozen(value) + self.scale * F.linear(F.linear(value, self.down), self.up)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The linear map with the product added to its weights."""
        self.frozen.weight += self.scale * (self.up @ self.down)
        return self.frozen


def adapt(
    layers: Sequence[nn.Module], maps: Sequence[str], rank: int, scale: float, seed: int
) -> dict[str, nn.Parameter]:
    """Give linear maps of some layers an adapter.

    Args:
        layers: of a language model, those to be adapted
        maps: what the linear maps are called in them, such as "down_proj"
        rank: of each product
        scale: each product is multiplied by this
        seed: of the first factors

    Returns:
        what is to be trained, by name
    """
    generator = torch.Generator().manual_seed(seed)
    trained: dict[str, nn.Parameter] = {}
    for number, layer in enumerate(layers):
        for name, module in list(layer.named_modules()):
            parent, _, own = name.rpartition(".")
            if own in maps and isinstance(module, nn.Linear):
                new = LowRank(module, rank, scale, generator)
                setattr(layer.get_submodule(parent), own, new)
                trained |= {f"{number}.{name}.down": new.down, f"{number}.{name}.up": new.up}
    return trained


def merge(layers: Sequence[nn.Module]) -> None:
    """Put plain linear maps in the place of those with an adapter.

    Args:
        layers: as of `adapt`
    """
    for layer in layers:
        for name, module in list(layer.named_modules()):
            if isinstance(module, LowRank):
                parent, _, own = name.rpartition(".")
                setattr(layer.get_submodule(parent), own, module.merged())
