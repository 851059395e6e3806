"""Reading and replacing activations while a model runs."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

from torch import Tensor, nn

from vlmtrace.core.arguments import Count, checked
from vlmtrace.core.errors import VlmtraceError

#: Who runs a model or its layers, or hooks it, holds this lock: hooks of one thread must not act on the run of another.
MODEL_LOCK = threading.RLock()

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def with_model_lock(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """A function that holds `MODEL_LOCK` while it runs: a sweep calls layers of the model by themselves.

    Args:
        function: any
    """

    @functools.wraps(function)
    def run(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        with MODEL_LOCK:
            return function(*args, **kwargs)

    return run


class HookPoint(NamedTuple):
    """The torch module that carries a site.

    Attributes:
        module: the torch module
        is_input: whether the activation is its first input; else it is its output
        stream_axis: the dimension in which several residual streams lie side by side, as in Gemma 3n's (stream, batch,
            position, width), where 4-dimensional activations are such streams; functions see (batch, position, width of
            all streams). None: activations have no such dimension
        refuses_streams: whether 4-dimensional activations are refused where `stream_axis` says nothing of them. Their
            streams would be taken for positions
    """

    module: nn.Module
    is_input: bool
    stream_axis: int | None = None
    refuses_streams: bool = False


@checked
@contextlib.contextmanager
def attach_hooks(
    points: Sequence[tuple[HookPoint, Callable[[Tensor], Tensor | None]]],
    n_pairs: Count | None = None,
    ahead: bool = False,
) -> Iterator[None]:
    """Call functions on activations while this is entered; what they return replaces the activation.

    Hooks are removed whatever happens inside; until then other threads wait with theirs, and with running the model.
    Where a module returns a tuple the activation is its first entry.

    Args:
        points: hook points, each with a function of its activation that returns a new one, or None to leave it
        n_pairs: given the number of pairs, functions see (pair, position, width) also where a vision encoder works on
            tiles, or on the patches of all images in one row; None: they see what the module has
        ahead: called before the hooks that are attached already, which then see what these return

    Yields:
        nothing; the model runs inside

    Raises:
        VlmtraceError: an activation has a dimension of which it is not known what it is
    """

    def called(point: HookPoint, function: Callable[[Tensor], Tensor | None], value: Tensor) -> Tensor | None:
        axis = point.stream_axis
        if axis is None and point.refuses_streams and value.ndim == 4:
            raise VlmtraceError(
                f"A text layer ({type(point.module).__name__}) passes on activations of four dimensions "
                f"{tuple(value.shape)}, as where several residual streams lie side by side, which would be taken for "
                "positions: the model is not supported before a family says in which dimension they lie (stream_axis)."
            )
        if axis is not None and value.ndim == 4:
            streams = value.movedim(axis, -2)  # (batch, position, stream, width)
            new = function(streams.flatten(-2))
            return None if new is None else new.unflatten(-1, streams.shape[-2:]).movedim(-2, axis)
        if n_pairs is None or (value.ndim == 3 and len(value) == n_pairs):
            return function(value)
        new = function(value.reshape(n_pairs, -1, value.shape[-1]))
        return None if new is None else new.reshape(value.shape)

    def before(point: HookPoint, function: Callable[[Tensor], Tensor | None]) -> Callable:
        def hook(module: nn.Module, args: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
            first = None if args else _first_argument(module)
            new = called(point, function, args[0] if first is None else options[first])
            if new is None:
                return None
            return ((new, *args[1:]), options) if first is None else (args, {**options, first: new})

        return hook

    def after(point: HookPoint, function: Callable[[Tensor], Tensor | None]) -> Callable:
        def hook(_module: nn.Module, _args: tuple, output: Any) -> Any:
            new = called(point, function, output[0] if isinstance(output, tuple) else output)
            if new is None:
                return None
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return hook

    with MODEL_LOCK, contextlib.ExitStack() as stack:
        for point, function in points:
            if point.is_input:
                handle = point.module.register_forward_pre_hook(
                    before(point, function), with_kwargs=True, prepend=ahead
                )
            else:
                handle = point.module.register_forward_hook(after(point, function), prepend=ahead)
                _before_recorders(point.module)
            stack.callback(handle.remove)
        yield


def _first_argument(module: nn.Module) -> str:
    """The name of the first argument of a module that is called with names alone, as Llama 4's vision layers are."""
    return next(name for name in inspect.signature(type(module).forward).parameters if name != "self")


def _before_recorders(module: nn.Module) -> None:
    """Let hooks of transformers run last: they record outputs for `hidden_states`, from which some projectors read."""
    for key, hook in list(module._forward_hooks.items()):
        if getattr(hook, "__module__", "").startswith("transformers."):
            module._forward_hooks.move_to_end(key)  # type: ignore[attr-defined]
