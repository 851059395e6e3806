"""An interrupted training continues where it stopped."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from vlmtrace.files import write_atomically

if TYPE_CHECKING:
    from vlmtrace.training.recipe import Recipe


class Checkpoint:
    """All that a training needs to go on: weights, averaged weights and the optimizer's moments, in one file."""

    def __init__(
        self, path: Path, recipe: Recipe, model: nn.Module, heads: nn.Module, averaged: nn.Module, optimizer: Optimizer
    ):
        self.path = path
        self.recipe = json.dumps(asdict(recipe), sort_keys=True)
        self.modules = {"model": model, "heads": heads, "averaged": averaged}
        self.optimizer = optimizer

    def save(self, step: int, seconds: float) -> None:
        metadata = {"recipe": self.recipe, "step": str(step), "seconds": str(seconds)}
        with write_atomically(self.path) as temporary:
            save_file({name: value.clone() for name, value in self._tensors().items()}, temporary, metadata)

    def load(self) -> tuple[int, float]:
        """Restore the state of the same recipe; return the steps done and the seconds they took, or (0, 0)."""
        if not self.path.is_file():
            return 0, 0.0
        with safe_open(self.path, "pt") as opened:
            metadata = opened.metadata()
        if metadata["recipe"] != self.recipe:
            return 0, 0.0
        self._create_moments()
        saved = load_file(self.path)
        for name, value in self._tensors().items():
            value.copy_(saved[name])
        return int(metadata["step"]), float(metadata["seconds"])

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _tensors(self) -> dict[str, Tensor]:
        """Every tensor by name; those of the modules and of the optimizer themselves, not copies."""
        found = {
            f"{part}.{name}": parameter.data
            for part, module in self.modules.items()
            for name, parameter in module.named_parameters()
        }
        for index, parameter in enumerate(self._trained()):
            for name, value in self.optimizer.state[parameter].items():
                found[f"optimizer.{index}.{name}"] = value
        return found

    def _trained(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _create_moments(self) -> None:
        """An optimizer has no moments before its first step: take one that changes nothing."""
        for parameter in self._trained():
            parameter.grad = parameter.detach() * 0
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        self.optimizer.step()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
