"""Changes of weights that lay apart when an adapter was trained, and are one tensor in the model now.

transformers keeps the experts of a layer in one tensor today, and some queries, keys and values; models were trained
when they were layers of their own, and files still hold them so. What transformers does when it loads such files (it
puts tensors beside each other and reorders their rows) is done here to their changes, with 0 for all that an adapter
leaves as it is: the sum is what it would have loaded from the changed files.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import WeightConverter, dot_natural_key


def joined_changes(
    hf: Any,
    changes: Mapping[str, Tensor],
    stored: Mapping[str, tuple[int, ...]],
    renamed: Callable[[str], tuple[str, str | None]],
    converters: list[WeightConverter],
) -> dict[str, Tensor]:
    """What changes of tensors of a file are for the tensors of the model that are made of them.

    Args:
        hf: the transformers model
        changes: of tensors of the file, by their names in it
        stored: shapes of all tensors of the file
        renamed: gives a tensor's name in the model, and the pattern of a converter that makes it; None: no converter
        converters: all that the model has

    Returns:
        changes by names in the model; those that no converter makes are left out
    """
    targets = {renamed(key)[0] for key in changes}
    found: dict[str, Tensor] = {}
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    under_way: dict[str, WeightConverter] = {}
    for key in sorted(stored, key=dot_natural_key):
        target, pattern = renamed(key)
        if pattern is None or target not in targets:
            continue
        converter = under_way.setdefault(target, copy.deepcopy(by_pattern[pattern]))
        change = changes.get(key)
        converter.add_tensor(target, key, pattern, torch.zeros(stored[key]) if change is None else change)  # type: ignore[arg-type]
    for target, converter in under_way.items():
        made = converter.convert(target, model=hf, config=hf.config)
        found |= {name: value[0] if isinstance(value, list) else value for name, value in made.items()}
    return found
