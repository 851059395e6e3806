"""A LoRA adapter, added to the weights of the model that it changes: afterwards the model is an ordinary one.

What PEFT computes beside a layer, s·B·A·x, is added to the layer's weight once, so that sweeps, hooks and the lens see
one model. Every tensor of the adapter's file must find its place; if one does not, nothing is loaded.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.adapter_files import ADAPTER_WEIGHTS, MERGE, Adapter
from vlmtrace.models.failures import explained
from vlmtrace.models.finite import REMEDY
from vlmtrace.models.weights import REMEDY_WEIGHTS, named, sizes, sort_of_text

#: How PEFT calls a tensor: the layer's name in the model that it changes, and which of the layer's two factors it is.
FACTOR = re.compile(r"(?P<layer>.+)\.lora_(?P<factor>[AB])\.weight")

#: What precedes the names of the other model in an adapter.
PREFIX = "base_model.model."


@torch.no_grad()
def add_adapter(hf: nn.Module, adapter: Adapter, name: str) -> None:
    """Add a LoRA adapter to a model's weights.

    Args:
        hf: the transformers model that the adapter changes; its weights are changed
        adapter: what is added
        name: of the adapter, for the sentence

    Raises:
        VlmtraceError: the adapter's file cannot be read, a tensor of it has no place in the model or is not of its
            shape, or the model's weights are quantized or not in memory
    """
    file = adapter.folder / ADAPTER_WEIGHTS
    with explained(f"{ADAPTER_WEIGHTS} of {name} cannot be read as safetensors", REMEDY_WEIGHTS + sort_of_text(file)):
        tensors = load_file(file)
    if not tensors:
        raise VlmtraceError(f"{ADAPTER_WEIGHTS} of {name} holds no tensor: save the adapter again.")
    broken = [key for key, tensor in tensors.items() if not torch.isfinite(tensor.float()).all()]
    if broken:
        raise VlmtraceError(
            f"{len(broken)} of the tensors of {name} hold numbers that are not finite ({named(broken)}). {REMEDY}"
        )
    factors: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        match = FACTOR.fullmatch(key)
        if match:
            factors.setdefault(match["layer"].removeprefix(PREFIX), {})[match["factor"]] = tensor
        elif ".lora_" in key or "trainable_tokens" in key:
            raise VlmtraceError(f"{name} holds {key}, which cannot be added here: {MERGE}.")
        else:
            whole[key.removeprefix(PREFIX).replace(".base_layer.", ".")] = tensor  # the bias of a layer with factors
    single = [layer for layer, pair in factors.items() if len(pair) < 2]
    if single:
        raise VlmtraceError(f"{name} holds one of two factors for {named(single)}: save the adapter again.")
    places = _Places(hf, adapter.base, name)
    for layer, pair in factors.items():
        weight = places.weight(f"{layer}.weight")
        rank = len(pair["A"])
        if not rank or not all(factor.is_floating_point() for factor in pair.values()):
            raise VlmtraceError(
                f"The factors of {layer} in {name} are empty, or hold no floating-point numbers: save the adapter "
                "again."
            )
        places.check_shape(weight, (len(pair["B"]), *pair["A"].shape[1:]), layer)
        if pair["A"].ndim != 2 or pair["B"].shape[1:] != (rank,):
            raise VlmtraceError(f"The factors of {layer} in {name} are no matrices of one rank: {MERGE}.")
        added = adapter.scale(layer, rank) * (pair["B"].float() @ pair["A"].float())  # (output, input)
        weight.copy_(weight.float() + added.to(weight.device))
    missing = [part for part in adapter.whole if not any(part in key for key in whole)]
    if missing:
        raise VlmtraceError(
            f"{name} says that it holds {', '.join(missing)} whole (modules_to_save), and {ADAPTER_WEIGHTS} has no "
            "such tensor: save the adapter again."
        )
    for key, tensor in whole.items():  # of layers that were trained whole (modules_to_save, bias)
        weight = places.weight(key)
        places.check_shape(weight, tensor.shape, key)
        weight.copy_(tensor)


class _Places:
    """Where the tensors of an adapter belong in a model, also where transformers has renamed its parts since."""

    def __init__(self, hf: Any, base: str, name: str):
        self.held = dict(hf.named_parameters(remove_duplicate=False))
        self.uses = Counter(map(id, self.held.values()))
        self.prefix, self.base, self.name = hf.base_model_prefix, base, name
        mapping = get_model_conversion_mapping(hf)
        self.renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        self.converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        self.ready: set[str] = set()

    def weight(self, key: str) -> Tensor:
        """The parameter of this name, today's or an older one."""
        found = key
        if key not in self.held:
            found, converted = rename_source_key(key, self.renamings, self.converters, self.prefix, self.held)
            if converted is not None or found not in self.held:
                raise VlmtraceError(
                    f"{self.name} changes {key}, which the model {self.base} does not have: correct "
                    "base_model_name_or_path of adapter_config.json if that is not the model that it was trained with; "
                    f"otherwise {MERGE}."
                )
        if found in self.ready:
            raise VlmtraceError(f"{self.name} changes {found} twice, under two names: save the adapter again.")
        self.ready.add(found)
        weight = self.held[found]
        if self.uses[id(weight)] > 1:
            raise VlmtraceError(
                f"{self.name} changes {found}, which the model {self.base} uses in two places (tied weights), and only "
                f"one of them would change: {MERGE}."
            )
        if weight.device.type == "meta":
            raise VlmtraceError(
                f"The weights of {self.base}, which {self.name} changes, are not all in memory: load it without "
                f"offloading, or {MERGE}."
            )
        if not weight.is_floating_point() or type(weight) is not nn.Parameter:
            raise VlmtraceError(
                f"{self.name} changes the model {self.base}, whose weights are quantized, so that nothing can be added "
                "to them: load it without quantization, or write the model from before it into "
                "base_model_name_or_path of adapter_config.json."
            )
        return weight

    def check_shape(self, weight: Tensor, shape: Iterable[int], key: str) -> None:
        """Raise if a change is not of the shape of what it changes."""
        if tuple(weight.shape) != tuple(shape):
            raise VlmtraceError(
                f"{self.name} changes {key} as one of {sizes(shape)}, and in {self.base} it has {sizes(weight.shape)}: "
                "correct base_model_name_or_path of adapter_config.json."
            )
