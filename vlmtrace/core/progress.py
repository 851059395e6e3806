"""One progress bar, in the notebook and in the terminal from which the notebook was started."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TextIO, TypeVar

from tqdm.auto import tqdm as notebook_tqdm
from tqdm.std import tqdm as terminal_tqdm

from vlmtrace.core.heap import give_back_memory

T = TypeVar("T")

#: Set by the command line to the terminal's device while papermill runs a notebook in another process.
TERMINAL = "VLMTRACE_TERMINAL"

_SILENT = ContextVar("silent", default=False)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Draw no bar in this block and thread, as in a worker whose notebook counts for all."""
    token = _SILENT.set(True)
    try:
        yield
    finally:
        _SILENT.reset(token)


@contextlib.contextmanager
def counter(
    total: int | None, description: str, unit: str = "it", steady: bool = False
) -> Iterator[Callable[..., None]]:
    """A progress bar that is advanced by hand.

    In JupyterLab and under plain Python this is tqdm. When a notebook runs under `make`, the bar is drawn in the
    terminal too, since the kernel's own output goes into the notebook.

    Args:
        total: how many steps there are; None: not known
        description: what stands before the bar
        unit: what a step is called
        steady: whether the estimate is by all steps so far, and not above all by the latest, which come in bursts where
            many work at a time

    Yields:
        the function that advances the bar by so many steps; with `found=True` by steps that were done before: they
        count, and the estimate of the time left leaves them out
    """
    with contextlib.ExitStack() as stack:
        # tqdm hears its own variable in a terminal, but not in a notebook.
        none = _SILENT.get() or bool(os.environ.get("TQDM_DISABLE"))
        look: dict[str, Any] = {"desc": description, "total": total, "leave": False, "unit": unit}
        look["smoothing"] = 0 if steady else 0.3
        bars: list[terminal_tqdm] = [stack.enter_context(notebook_tqdm(disable=none, **look))]
        device = None if _SILENT.get() else os.environ.get(TERMINAL)
        stream = _terminal(device) if device else None
        if stream is not None:
            stack.enter_context(stream)
            bars.append(stack.enter_context(terminal_tqdm(file=stream, **look)))

        def advance(n: int, found: bool = False) -> None:
            give_back_memory()
            for bar in bars:
                if not bar.disable:
                    bar.initial += n if found else 0
                    bar.update(n)

        yield advance


def _terminal(device: str) -> TextIO | None:
    """The terminal to draw in; None where it has been closed since, as work goes on without a bar."""
    try:
        return open(device, "w", encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return None


def say(sentence: str) -> None:
    """Tell a sentence while work goes on: in the terminal from which a notebook was started, else as an error output.

    Args:
        sentence: what is said
    """
    device = os.environ.get(TERMINAL)
    stream = _terminal(device) if device else None
    if stream is None:
        print(sentence, file=sys.stderr, flush=True)
        return
    with stream:
        print(f"\r{sentence}", file=stream)


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Go through items under a progress bar.

    Args:
        items: what to go through
        description: what stands before the bar
        total: how many items there are; None: their length, if they have one

    Yields:
        the items
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with counter(total, description) as advance:
        for item in items:
            yield item
            advance(1)
