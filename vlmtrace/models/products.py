"""Matrix products at the processor's speed.

torch gives float32 products on a CPU to MKL, which leaves half of the vector units of many AMD processors unused. The
oneDNN that comes with torch for x86 uses them all, and applies GELU while results are still in registers. Rounding is
that of float32 either way. Where oneDNN is not there, or anything about a product is unusual, torch's own way is taken.

Shapes: N rows (any leading dimensions), D width that goes in, O width that comes out.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

#: With fewer rows than this the call costs more than the product.
FEWEST_ROWS = 16

_ACTIVATIONS = {"GELUActivation": "none"}


def _find_onednn() -> Callable[..., Tensor] | None:
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


_ONEDNN = _find_onednn()


def _is_usual(rows: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN takes this product: float32 on a CPU, without gradients, and large enough to be worth it."""
    return (
        _ONEDNN is not None
        and rows.dtype == weight.dtype == torch.float32
        and (bias is None or bias.dtype == torch.float32)
        and rows.device.type == weight.device.type == "cpu"
        and weight.ndim == 2
        and rows.numel() >= FEWEST_ROWS * weight.shape[1]
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.enabled  # type: ignore[attr-defined]
    )


def product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Rows (N, D) times the transpose of a weight (O, D), with a bias (O) or none: (N, O)."""
    if _is_usual(rows, weight, bias):
        assert _ONEDNN is not None
        return _ONEDNN(rows, weight, bias, "none", [], "")
    return F.linear(rows, weight, bias)


def linear(module: Any, rows: Tensor) -> Tensor:
    """What a linear module makes of rows (N, D): (N, O). Its hooks run, and a wrapper in its place does its own."""
    if _is_plain(module):
        return product(rows, module.weight, module.bias)
    return module(rows)


def linear_gelu(module: Any, activation: Any, rows: Tensor) -> Tensor:
    """What a linear module and the activation function behind it make of rows (N, D): (N, O)."""
    gelu = _ACTIVATIONS.get(type(activation).__name__) if _is_plain(activation, of=None) else None
    if gelu is not None and _is_plain(module) and _is_usual(rows, module.weight, module.bias):
        assert _ONEDNN is not None
        return _ONEDNN(rows, module.weight, module.bias, "gelu", [], gelu)
    return activation(linear(module, rows))


def _is_plain(module: Any, of: type | None = nn.Linear) -> bool:
    """Whether a module is just what its class says: no wrapper of an adapter, no hooks."""
    hooks = (getattr(module, name, None) for name in ("_forward_hooks", "_forward_pre_hooks"))
    return (of is None or type(module) is of) and not any(hooks)


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
