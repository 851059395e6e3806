"""How a model is loaded, beside its name and its device: number type, placement, quantization, size of images."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import torch

from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.images import LONGEST_SIDE, MOST_PIXELS
from vlmtrace.models.failures import ONE_CHECKPOINT
from vlmtrace.models.image_sizing import ImageSizing
from vlmtrace.models.placement import DISK, check_places

#: What the weights can be computed in.
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

#: As the checkpoint is stored.
AUTO = "auto"

#: How accelerate spreads a model by itself over the GPUs that are there, then host memory, then the disk.
PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential")

#: Attention that gives the sweep its mask. Others keep it to themselves, and a sweep must know what each position sees.
ATTENTION = ("sdpa", "eager")

#: Methods of quantization that pre-quantized checkpoints may have, with the extra of this package that brings them.
METHODS = {"bitsandbytes": "bitsandbytes", "torchao": "torchao"}


def _bitsandbytes_8bit(_dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True)


def _bitsandbytes_4bit(dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _torchao_int8(_dtype: torch.dtype) -> Any:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


#: Quantization by name: what makes transformers' configuration of it, given the type that is computed in.
QUANTIZATIONS: dict[str, Callable[[torch.dtype], Any]] = {
    "bitsandbytes-8bit": _bitsandbytes_8bit,
    "bitsandbytes-4bit": _bitsandbytes_4bit,
    "torchao-int8": _torchao_int8,
}


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded, beside its name and its device.

    Attributes:
        dtype: of its numbers; "auto": as the checkpoint is stored
        device_map: where its parts lie; None: on one device
        quantization: of its weights; None: as they are stored
        attn_implementation: how attention is computed; None: as transformers chooses
        sizing: what is done to an image before the model's processor
    """

    dtype: str = "float32"
    device_map: str | Mapping[str, Any] | None = None
    quantization: str | None = None
    attn_implementation: str | None = None
    sizing: ImageSizing = field(default_factory=ImageSizing)

    @classmethod
    def of(
        cls,
        dtype: str = "float32",
        device_map: str | Mapping[str, Any] | None = None,
        quantization: str | None = None,
        attn_implementation: str | None = None,
        max_pixels: int | None = None,
        image_size: str | int | Sequence[int] | None = None,
    ) -> LoadOptions:
        """Check what was given; "" stands for None, as in notebooks.

        Raises:
            VlmtraceError: a value is unknown, or a library is missing that it needs
        """
        one_of(dtype[:80], (*DTYPES, AUTO), "dtype")
        device_map, quantization = device_map or None, quantization or None
        attn_implementation = attn_implementation or None
        if isinstance(device_map, str) and device_map not in PLACEMENTS:
            if re.fullmatch(r"(cpu|disk|mps|(cuda|xpu|npu)(:[0-9]+)?)", device_map):
                remedy = f"device={device_map}" if device_map != DISK else f"device_map={{'': '{DISK}'}} in Python"
                raise VlmtraceError(f"device_map={device_map} names one place for all: write {remedy}.")
            one_of(device_map[:80], PLACEMENTS, "device_map")
        if quantization is not None:
            method = one_of(quantization[:80], QUANTIZATIONS, "quantization").partition("-")[0]
            _require(method, f"quantization={quantization}")
        if device_map is not None:
            _require("accelerate", "device_map")
            if not isinstance(device_map, str):
                check_places(device_map)
        if attn_implementation is not None:
            one_of(attn_implementation[:80], ATTENTION, "attn_implementation")
        if max_pixels is not None and not 0 <= max_pixels <= MOST_PIXELS:
            raise VlmtraceError(
                f"max_pixels must be a whole number from 0 to {MOST_PIXELS:,}, not {max_pixels}: correct it."
            )
        sizing = ImageSizing(max_pixels or None, size_of(image_size))
        return cls(dtype, device_map, quantization, attn_implementation, sizing)

    def __str__(self) -> str:
        """What decides about the numbers, for records: "bfloat16, bitsandbytes-4bit"; not where the parts lie.

        >>> str(LoadOptions.of("bfloat16", max_pixels=90_000))
        'bfloat16, max_pixels=90000'
        """
        words = [self.dtype, self.quantization, self.attn_implementation, str(self.sizing)]
        return ", ".join(word for word in words if word)

    def with_dtype(self, dtype: torch.dtype) -> LoadOptions:
        """The same with the number type that "auto" turned out to be."""
        return replace(self, dtype=str(dtype).removeprefix("torch."))

    @property
    def remedy(self) -> str:
        """What to do where a model cannot be loaded or does not run: something else may be at fault than its files."""
        blamed = [
            name
            for name, value in (
                ("device_map", self.device_map),
                ("quantization", self.quantization),
                ("image_size", self.sizing.size),
                ("max_pixels", self.sizing.max_pixels),
            )
            if value is not None
        ]
        if not blamed:
            return ONE_CHECKPOINT
        said = " and ".join(blamed)
        return f"load it without {said}, and if that works, choose another {said}; otherwise {ONE_CHECKPOINT}"

    def given(self) -> dict[str, Any]:
        """The arguments of `load_model` that load the same again elsewhere, beside dtype and device_map."""
        found = {
            "quantization": self.quantization,
            "attn_implementation": self.attn_implementation,
            "max_pixels": self.sizing.max_pixels,
            "image_size": self.sizing.size,
        }
        return {name: value for name, value in found.items() if value is not None}


def size_of(image_size: str | int | Sequence[int] | None) -> tuple[int, int] | None:
    """Width and height, given as two numbers or as text; one number stands for a square.

    Raises:
        VlmtraceError: it is neither, or more pixels than an image may have

    >>> size_of("448x336"), size_of((448, 336)), size_of(448), size_of("448"), size_of("")
    ((448, 336), (448, 336), (448, 448), (448, 448), None)
    """
    if not isinstance(image_size, int) and not image_size:
        return None
    if isinstance(image_size, str):
        found = re.fullmatch(r"\s*([0-9]{1,6})\s*(?:[x×,]\s*([0-9]{1,6})\s*)?", image_size)
        numbers = [int(number or found[1]) for number in found.groups()] if found else []
    else:
        numbers = [image_size] * 2 if isinstance(image_size, int) else [int(number) for number in image_size]
    if len(numbers) != 2 or not all(1 <= number <= LONGEST_SIDE for number in numbers):
        raise VlmtraceError(
            f"image_size={str(image_size)[:40]!r} is no width and height: write both, as in 448x336 or (448, 336), or "
            "one number for a square."
        )
    if numbers[0] * numbers[1] > MOST_PIXELS:
        raise VlmtraceError(
            f"image_size={numbers[0]}x{numbers[1]} has more pixels than the {MOST_PIXELS:,} that an image may have: "
            "choose a smaller one."
        )
    return numbers[0], numbers[1]


def _require(library: str, what: str) -> None:
    """Raise a sentence if a library of an extra is not installed.

    Args:
        library: its name, which the extra has, too
        what: what needs it
    """
    needed = ("accelerate",) if library == "accelerate" else ("accelerate", library)
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise VlmtraceError(
            f"{what} needs the package {missing[0]}, which is not installed: run pip install -c constraints.txt -e "
            f"'.[{library}]' in the checkout."
        )


def check_quantization(written: Any, name: str) -> str | None:
    """Which method a checkpoint says that it was quantized by.

    Args:
        written: what config.json holds, or a part of it
        name: of the model, for the sentence

    Returns:
        the method; None: it is not quantized

    Raises:
        VlmtraceError: another method than those that are known, or its library is not installed
    """
    for key, value in written.items():
        if key in ("quantization_config", "compression_config") and value is not None:
            told = value if isinstance(value, dict) else {}
            method = str(told.get("quant_method") or ("bitsandbytes" if _loads_in_bits(told) else key))
            if method not in METHODS:
                raise VlmtraceError(
                    f"{name} is quantized by {method}, which is not supported: take a checkpoint that is quantized by "
                    f"{' or '.join(METHODS)}, or the one in float32, bfloat16 or float16."
                )
            _require(METHODS[method], f"{name}, which is quantized by {method},")
            return method
        if isinstance(value, dict) and (found := check_quantization(value, name)):
            return found
    return None


def check_computable(dtype: torch.dtype, quantization: str | None, written: Mapping[str, Any], name: str) -> None:
    """Refuse a number type that codes of 4 bits cannot be computed in.

    Args:
        dtype: that was asked for, or that the checkpoint is stored in
        quantization: that was asked for
        written: what config.json holds
        name: of the model, for the sentence

    Raises:
        VlmtraceError: it is float64, and the weights are or become codes of 4 bits
    """
    told = written.get("quantization_config")
    in_4_bits = quantization == "bitsandbytes-4bit" or (isinstance(told, dict) and bool(told.get("load_in_4bit")))
    if dtype == torch.float64 and in_4_bits:
        raise VlmtraceError(
            f"bitsandbytes computes with 4-bit weights in float32, bfloat16 or float16, and {name} is asked for in "
            "float64: choose another dtype."
        )


def _loads_in_bits(told: Mapping[str, Any]) -> bool:
    return bool(told.get("load_in_8bit") or told.get("load_in_4bit"))
