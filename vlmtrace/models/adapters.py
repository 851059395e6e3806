"""A LoRA adapter, added to the weights of the model that it changes: afterwards the model is an ordinary one.

What PEFT computes beside a layer, s·B·A·x, is added to the layer's weight once, so that sweeps, hooks and the lens see
one model. Every tensor of the adapter's file must find its place; if one does not, nothing is loaded.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from vlmtrace.core.caller import warn
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.adapter_files import ADAPTER_WEIGHTS, MERGE, Adapter
from vlmtrace.models.adapter_joins import joined_changes
from vlmtrace.models.failures import explained
from vlmtrace.models.finite import REMEDY
from vlmtrace.models.weights import REMEDY_WEIGHTS, named, sizes, sort_of_text

#: How PEFT calls a tensor: the layer's name in the model that it changes, and which of the layer's two factors it is.
FACTOR = re.compile(r"(?P<layer>.+)\.lora_(?P<factor>[AB])\.weight")

#: What precedes the names of the other model in an adapter.
PREFIX = "base_model.model."


@torch.no_grad()
def add_adapter(
    hf: nn.Module,
    adapter: Adapter,
    name: str,
    stored: Mapping[str, tuple[int, ...]] | None = None,
    leaves_out: Callable[[str], bool] = lambda key: False,
) -> None:
    """Add a LoRA adapter to a model's weights.

    Args:
        hf: the transformers model that the adapter changes; its weights are changed
        adapter: what is added
        name: of the adapter, for the sentence
        stored: shapes of the tensors in the files of the model, by name: an adapter may change some that the model
            holds as parts of others
        leaves_out: whether the family leaves a tensor of the files aside, since it takes no part in answers

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
    places = _Places(hf, adapter.base, name, stored or {})
    unused = [layer for layer in factors if leaves_out(f"{layer}.weight") and not places.has(f"{layer}.weight")]
    unused += [key for key in whole if leaves_out(key) and not places.has(key)]
    if unused:
        warn(
            f"{len(unused)} of the changes of {name} are of parts of {adapter.base} that take no part in its answers, "
            f"and are left aside ({named(unused)})."
        )
    factors = {layer: pair for layer, pair in factors.items() if layer not in unused}
    apart: dict[str, Tensor] = {}
    for layer, pair in factors.items():
        parts = places.shape_apart(f"{layer}.weight")
        weight = places.weight(f"{layer}.weight") if parts is None else torch.empty(parts, device="meta")
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
        if parts is not None:
            apart[f"{layer}.weight"] = added
            continue
        weight.copy_(weight.float() + added.to(weight.device))
    for key, added in places.joined(apart).items():
        weight = places.weight(key)
        places.check_shape(weight, added.shape, key)
        weight.copy_(weight.float() + added.to(weight.device))
    missing = [part for part in adapter.whole if not any(part in key for key in whole)]
    if missing:
        raise VlmtraceError(
            f"{name} says that it holds {', '.join(missing)} whole (modules_to_save), and {ADAPTER_WEIGHTS} has no "
            "such tensor: save the adapter again."
        )
    for key, tensor in whole.items():  # of layers that were trained whole (modules_to_save, bias)
        if key in unused:
            continue
        weight = places.weight(key)
        places.check_shape(weight, tensor.shape, key)
        weight.copy_(tensor)


class _Places:
    """Where the tensors of an adapter belong in a model, also where transformers has renamed its parts since."""

    def __init__(self, hf: Any, base: str, name: str, stored: Mapping[str, tuple[int, ...]]):
        self.hf, self.stored = hf, stored
        self.held = dict(hf.named_parameters(remove_duplicate=False))
        self.uses = Counter(map(id, self.held.values()))
        self.prefix, self.base, self.name = hf.base_model_prefix, base, name
        mapping = get_model_conversion_mapping(hf)
        self.renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        self.converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        self.ready: set[str] = set()

    def _renamed(self, key: str) -> tuple[str, str | None]:
        return rename_source_key(key, self.renamings, self.converters, self.prefix, self.held)

    def has(self, key: str) -> bool:
        """Whether the model has a parameter of this name, today's or an older one."""
        return key in self.held or self._renamed(key)[0] in self.held

    def shape_apart(self, key: str) -> tuple[int, ...] | None:
        """The shape of a tensor of the files that the model holds as a part of another; None: it is held as it is."""
        if key in self.held or key not in self.stored:
            return None
        found, converted = self._renamed(key)
        return None if converted is None or found not in self.held else self.stored[key]

    def joined(self, changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Changes of tensors that the model holds as parts of others, as changes of those."""
        return joined_changes(self.hf, changes, self.stored, self._renamed, self.converters) if changes else {}

    def weight(self, key: str) -> Tensor:
        """The parameter of this name, today's or an older one."""
        found = key
        if key not in self.held:
            found, converted = self._renamed(key)
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
