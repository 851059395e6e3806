"""One progress bar, in the notebook and in the terminal from which the notebook was started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

from tqdm.auto import tqdm as notebook_tqdm
from tqdm.std import tqdm as terminal_tqdm

T = TypeVar("T")

#: Set by the command line to the terminal's device while papermill runs a notebook in another process.
TERMINAL = "VLMTRACE_TERMINAL"


@contextlib.contextmanager
def counter(total: int | None, description: str) -> Iterator[Callable[[int], None]]:
    """A progress bar that is advanced by hand.

    In JupyterLab and under plain Python this is tqdm. When a notebook runs under `make`, the bar is drawn in the
    terminal too, since the kernel's own output goes into the notebook.

    Args:
        total: how many steps there are; None: not known
        description: what stands before the bar

    Yields:
        the function that advances the bar by so many steps
    """
    with contextlib.ExitStack() as stack:
        # tqdm hears its own variable in a terminal, but not in a notebook.
        none = bool(os.environ.get("TQDM_DISABLE"))
        bars: list[terminal_tqdm] = [
            stack.enter_context(notebook_tqdm(desc=description, total=total, leave=False, disable=none))
        ]
        device = os.environ.get(TERMINAL)
        stream = _terminal(device) if device else None
        if stream is not None:
            stack.enter_context(stream)
            bars.append(stack.enter_context(terminal_tqdm(desc=description, total=total, file=stream, leave=False)))

        def advance(n: int) -> None:
            for bar in bars:
                bar.update(n)

        yield advance


def _terminal(device: str) -> TextIO | None:
    """The terminal to draw in; None where it has been closed since, as work goes on without a bar."""
    try:
        return open(device, "w", encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return None


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
