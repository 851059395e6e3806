"""Matrix products at the processor's speed.

torch gives float32 products on a CPU to MKL, which leaves half of the vector units of many AMD processors unused. The
oneDNN that comes with torch for x86 uses them all, and applies GELU while results are still in registers. Rounding is
that of float32 either way. Where oneDNN is not there, or anything about a product is unusual, torch's own way is taken.

Shapes: N rows (any leading dimensions), D width that goes in, O width that comes out.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
import torch.nn.modules.module as _every_module
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

#: With fewer rows than this the call costs more than the product.
FEWEST_ROWS = 16


def _find_onednn() -> Callable[..., Tensor] | None:
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


_ONEDNN = _find_onednn()


def takes_onednn(*tensors: Tensor) -> bool:
    """Whether oneDNN computes with these: dense float32 on a CPU, without gradients.

    Args:
        tensors: all that enter a product
    """
    return (
        _ONEDNN is not None
        # A quantized weight is a tensor of a class of its own.
        and all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
        and all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
        and all(tensor.layout == torch.strided for tensor in tensors)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and bool(torch.backends.mkldnn.enabled)
    )


def _is_usual(rows: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN takes this product, and it is large enough to be worth the call."""
    given = (rows, weight) if bias is None else (rows, weight, bias)
    return (
        weight.ndim == 2
        and rows.shape[-1:] == weight.shape[1:]
        and rows.numel() >= FEWEST_ROWS * weight.shape[1] > 0
        # oneDNN reads a bias as if its values stood one after the other, and a weight in any other order some
        # hundred times as slowly.
        and weight.is_contiguous()
        and (bias is None or (bias.shape == weight.shape[:1] and bias.is_contiguous()))
        and takes_onednn(*given)
    )


def product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Rows (N, D) times the transpose of a weight (O, D), with a bias (O) or none: (N, O)."""
    if _is_usual(rows, weight, bias):
        assert _ONEDNN is not None
        return _ONEDNN(rows.contiguous(), weight, bias, "none", [], "")
    return F.linear(rows, weight, bias)


def linear(module: Any, rows: Tensor) -> Tensor:
    """What a linear module makes of rows (N, D): (N, O). Its hooks run, and a wrapper in its place does its own."""
    if _is_plain(module):
        return product(rows, module.weight, module.bias)
    return module(rows)


def linear_gelu(module: Any, activation: Any, rows: Tensor) -> Tensor:
    """What a linear module and the activation function behind it make of rows (N, D): (N, O)."""
    # By name: transformers' exact GELU; the others of its kind are approximations.
    is_gelu = type(activation).__name__ == "GELUActivation" and not _has_hooks(activation)
    if is_gelu and _is_plain(module) and _is_usual(rows, module.weight, module.bias):
        assert _ONEDNN is not None
        return _ONEDNN(rows.contiguous(), module.weight, module.bias, "gelu", [], "none")
    return activation(linear(module, rows))


def _is_plain(module: Any) -> bool:
    """Whether a module is torch's own linear one, neither a subclass nor an adapter's wrapper, and without hooks."""
    return type(module) is nn.Linear and not _has_hooks(module)


def _has_hooks(module: nn.Module) -> bool:
    """Whether a call of a module does more than the forward of its class."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or _every_module._global_forward_hooks
        or _every_module._global_forward_pre_hooks
        # Libraries that keep weights elsewhere until they are needed put their own forward into a module.
        or "forward" in module.__dict__
    )


class FastProducts(TorchFunctionMode):
    """While this is entered, every linear module of the thread computes by `product`.

    Example:
        >>> import torch
        >>> from vlmtrace.models.products import FastProducts
        >>> layer, rows = torch.nn.Linear(4, 3), torch.ones(32, 4)
        >>> with torch.no_grad(), FastProducts():
        ...     layer(rows).shape
        torch.Size([32, 3])
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take linear products over, leave everything else."""
        if func is F.linear and not kwargs:
            return product(*args)
        return func(*args, **(kwargs or {}))


def by_fast_products(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A function that runs within `FastProducts`; where gradients are on, products stay torch's own."""

    @functools.wraps(function)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        with FastProducts():
            return function(*args, **kwargs)

    return run
