"""The numbers of weights, wherever and however they are kept.

accelerate keeps weights that a GPU has no room for in host memory or on the disk, and leaves a tensor without numbers
(on the device "meta") in the model; bitsandbytes and torchao keep codes and scales. Whoever reads a weight instead of
running its module asks here.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from vlmtrace.core.errors import VlmtraceError

#: What bitsandbytes calls its parameters.
CODES = ("Params4bit", "Int8Params")

#: How many values are brought to the CPU at once to be digested, by how many threads.
AT_ONCE, MOST_THREADS = 2**24, 4


def weight_of(module: nn.Module, name: str = "weight") -> Tensor:
    """A weight's numbers in float32, also where it is kept elsewhere or quantized.

    A quantized weight is what its codes and scales stand for: the matrix that the quantized model multiplies with,
    beside what its activations lose if these are quantized, too (bitsandbytes, 8 bit).

    Args:
        module: that holds the weight
        name: of the weight in it

    Returns:
        the weight, on the device where it is kept

    Raises:
        VlmtraceError: it is kept in a way that is not known here
    """
    return plain(fetched(module, name), module).float()


def fetched(module: nn.Module, name: str) -> Tensor:
    """A parameter or buffer as it is kept, read from host memory or the disk where it was put there."""
    value = getattr(module, name)
    if not value.is_meta:
        return value
    hook = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", [hook]):
        kept = getattr(one, "weights_map", None)
        if kept is not None:
            return kept[name]
    raise VlmtraceError(f"The weight {name} of a {type(module).__name__} has no numbers: load the model again.")


def plain(value: Any, module: nn.Module | None = None) -> Tensor:
    """The numbers that a tensor stands for, of whatever class it is.

    Args:
        value: a parameter, or an entry of a state
        module: that holds it

    Raises:
        VlmtraceError: its class is not known here
    """
    kind = type(value)
    if kind in (Tensor, nn.Parameter):
        return value.detach()
    if kind.__name__ in CODES:
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight

        return dequantize_bnb_weight(value, getattr(module, "state", None)).detach()
    if kind.__module__.startswith("torchao"):
        return value.detach().dequantize()
    raise VlmtraceError(
        f"A weight is kept as a {kind.__name__}, which is not known: load the model without quantization."
    )


def float_copy(module: nn.Module, device: torch.device) -> Any:
    """A small module (a norm) by itself: its numbers in float32 on a device, without what accelerate wraps around it.

    Args:
        module: to copy
        device: where the copy computes
    """
    twin = copy.copy(module)
    wrapped = ("forward", "_hf_hook", "_old_forward")
    twin.__dict__ = {name: value for name, value in module.__dict__.items() if name not in wrapped}
    twin._parameters = {
        name: value if value is None else nn.Parameter(weight_of(module, name).to(device), requires_grad=False)
        for name, value in module._parameters.items()
    }
    twin._buffers = {
        name: value if value is None else fetched(module, name).to(device) for name, value in module._buffers.items()
    }
    twin._modules = {
        name: child if child is None else float_copy(child, device) for name, child in module._modules.items()
    }
    return twin


def weight_digests(hf: nn.Module) -> Iterator[tuple[str, tuple[int, ...], bytes]]:
    """A digest of all values of every weight, in the order of their names: parameters, and buffers that are saved.

    Args:
        hf: the transformers model

    Yields:
        name, shape, and the SHA-256 of the values in float32, on whatever device and however they are kept
    """
    saved = {
        f"{path}.{own}" if path else own
        for path, module in hf.named_modules()
        for own, value in module.named_buffers(recurse=False)
        if own not in module._non_persistent_buffers_set and value.is_floating_point()
    }
    # Of tied weights the one that others are tied to: on the disk they are no longer one and the same tensor.
    tied = set(getattr(hf, "all_tied_weights_keys", None) or {})
    parameters = {name for name, _ in hf.named_parameters(remove_duplicate=False)}
    names = sorted([*(parameters - tied), *saved])

    def digested(name: str) -> tuple[str, tuple[int, ...], bytes]:
        path, _, own = name.rpartition(".")
        module = hf.get_submodule(path)
        values, digest = plain(fetched(module, own), module).flatten(), hashlib.sha256()
        for part in values.split(AT_ONCE):
            digest.update(part.float().cpu().numpy())
        return name, tuple(getattr(module, own).shape), digest.digest()

    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:  # hashing lets other threads run
        yield from pool.map(digested, names)


def named_values(hf: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every entry of a model's state that is a number with a fraction, one after the other.

    Codes of quantized weights are left out; their scales are in it.

    Args:
        hf: the transformers model
    """
    for key, value in hf.state_dict().items():
        path, _, own = key.rpartition(".")
        if not isinstance(value, Tensor):
            continue
        if value.is_meta:
            value = fetched(hf.get_submodule(path), own)
        if value.is_floating_point():
            yield key, plain(value)


def settle(hf: nn.Module) -> None:
    """Let bitsandbytes compute with its codes as they are stored.

    On some processors it would pack them anew when a module first runs, with scales in half precision: results would
    depend on the processor, and what the codes stand for on whether the model has run.

    Args:
        hf: the transformers model, just loaded
    """
    packing = "support_avx512bf16_for_cpu"
    for part in hf.modules():
        if getattr(part, packing, False):
            setattr(part, packing, False)
    # It says at every product that activations are quantized in half precision.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def is_quantized(hf: Any) -> bool:
    """Whether weights of a model are quantized."""
    return getattr(hf, "hf_quantizer", None) is not None


def is_spread(hf: Any) -> bool:
    """Whether a model's parts lie on several devices, in host memory or on the disk."""
    return len(set(getattr(hf, "hf_device_map", {}).values())) > 1 or is_offloaded(hf)


def is_offloaded(hf: Any) -> bool:
    """Whether a model's weights are fetched from host memory or the disk whenever a module runs."""
    return any(parameter.is_meta for parameter in hf.parameters())


def computing_devices(hf: Any) -> list[torch.device]:
    """The devices on which a model computes; the first one takes its inputs and gives its logits.

    Host memory and the disk only keep what a GPU computes with, where there is one.
    """
    placed = getattr(hf, "hf_device_map", None)
    if placed:
        computing = [torch.device(device) for device in placed.values() if device not in ("cpu", "disk")]
        return list(dict.fromkeys(computing)) or [torch.device("cpu")]
    return [next(hf.parameters()).device]
