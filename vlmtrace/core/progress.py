"""One progress bar, in the notebook and in the terminal from which the notebook was started."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm as notebook_tqdm
from tqdm.std import tqdm as terminal_tqdm

T = TypeVar("T")

#: Set by the command line to the terminal's device while papermill runs a notebook in another process.
TERMINAL = "VLMTRACE_TERMINAL"


@contextlib.contextmanager
def counter(total: int | None, what: str) -> Iterator[Callable[[int], None]]:
    """A bar that says `what`; the function it gives advances it.

    In JupyterLab and under plain Python this is tqdm. When a notebook runs under `make`, the bar is drawn in
    the terminal too, since the kernel's own output goes into the notebook.
    """
    with contextlib.ExitStack() as stack:
        # tqdm hears its own variable in a terminal, but not in a notebook.
        none = bool(os.environ.get("TQDM_DISABLE"))
        bars: list[terminal_tqdm] = [
            stack.enter_context(notebook_tqdm(desc=what, total=total, leave=False, disable=none))
        ]
        device = os.environ.get(TERMINAL)
        if device:
            stream = stack.enter_context(open(device, "w"))
            bars.append(stack.enter_context(terminal_tqdm(desc=what, total=total, file=stream, leave=False)))

        def advance(n: int) -> None:
            for bar in bars:
                bar.update(n)

        yield advance


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Go through `items` under a bar that says `what`; see `counter`."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with counter(total, what) as advance:
        for item in items:
            yield item
            advance(1)
