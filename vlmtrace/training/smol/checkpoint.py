"""What a killed training goes on from: a file of tensors and texts, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import first_line, write_atomically
from vlmtrace.core.unreadable import refused
from vlmtrace.training.smol.recipe import Recipe

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        step: the last one that was done
        minutes: that all steps so far took
        curve: a row for each measurement
    """

    step: int = 0
    minutes: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)


def save_checkpoint(
    path: Path,
    trained: Mapping[str, nn.Parameter],
    averaged: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    recipe: Recipe,
    drawn_from: str = "",
) -> None:
    """Write all that the next step depends on.

    Args:
        path: the file
        trained: weights by name
        averaged: their averages, by the same names
        optimizer: AdamW over them
        progress: so far
        recipe: that the training follows
        drawn_from: identifies what batches are drawn from, besides the recipe
    """
    tensors = {f"trained.{name}": value.detach() for name, value in trained.items()}
    tensors |= {f"averaged.{name}": value for name, value in averaged.items()}
    for name, parameter in trained.items():
        for moment in MOMENTS:
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
    with write_atomically(path, durable=True) as temporary:
        about = {
            "progress": json.dumps(asdict(progress)),
            "recipe": json.dumps(asdict(recipe)),
            "drawn_from": drawn_from,
        }
        save_file(tensors, temporary, metadata=about)


def resume(
    path: Path,
    trained: Mapping[str, nn.Parameter],
    averaged: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    drawn_from: str = "",
) -> Progress:
    """Take over what `save_checkpoint` wrote; nothing changes where no file is.

    Args:
        path: the file
        trained: weights by name, to be changed
        averaged: their averages, to be changed
        optimizer: AdamW over them, to be changed
        recipe: that the training follows
        drawn_from: as of `save_checkpoint`

    Returns:
        how far it is

    Raises:
        VlmtraceError: the file is broken, or of a training by other settings
    """
    if not path.is_file():
        return Progress()
    try:
        path.open("rb").close()  # safetensors says of a file that may not be opened that there is none
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
            saved = Recipe(**json.loads(about["recipe"]))
            was_drawn_from = about["drawn_from"]
            progress = Progress(**json.loads(about["progress"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        kinds = ("trained", "averaged", *MOMENTS)
        found = {kind: {name: tensors[f"{kind}.{name}"] for name in trained} for kind in kinds}
    except Exception as error:  # safetensors raises its own kinds
        raise refused(f"The checkpoint {path}", error) or VlmtraceError(
            f"The checkpoint {path} cannot be read ({first_line(error)}): remove it, and start from the beginning."
        ) from error
    if saved != recipe:
        other = [name for name, value in asdict(recipe).items() if getattr(saved, name) != value]
        raise VlmtraceError(
            f"The checkpoint {path} is of a training with other settings ({', '.join(other)}): give the same, or "
            "remove it to start from the beginning."
        )
    if was_drawn_from != drawn_from:
        raise VlmtraceError(
            f"The checkpoint {path} is of a training on other questions or other texts of the language model: remove "
            "it to start from the beginning."
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(found["trained"][name])
            averaged[name].copy_(found["averaged"][name])
            optimizer.state[parameter] = {
                "step": torch.tensor(float(progress.step), device=parameter.device),
                **{moment: found[moment][name].to(parameter.device) for moment in MOMENTS},
            }
    return progress
