"""Whatever a broken folder makes another library raise becomes one sentence."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch

from vlmtrace.core.errors import VlmtraceError

#: Characters of another library's message that are repeated.
LONGEST_REASON = 300

#: How the C++ side says that memory ran out.
OUT_OF_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory", re.IGNORECASE)

#: What to do where no part is known to be at fault.
ONE_CHECKPOINT = (
    "take configuration, weights and processor of one checkpoint, as save_pretrained writes them, or download it again"
)


@contextlib.contextmanager
def explained(failure: str, remedy: str = ONE_CHECKPOINT) -> Iterator[None]:
    """While this is entered, every exception becomes a `VlmtraceError`, with the original as its cause.

    Libraries raise nearly everything over a broken file, from KeyError to RecursionError, and code in Rust panics with
    an exception that is no `Exception`. What ends the program on purpose is let through.

    Args:
        failure: what does not work, with the model's name: the beginning of the sentence
        remedy: what to do about it: the end of the sentence

    Yields:
        nothing

    Raises:
        VlmtraceError: anything was raised

    Example:
        >>> from vlmtrace.models.failures import explained
        >>> with explained("The list is of no use", "fill it"):
        ...     [][0]
        Traceback (most recent call last):
        vlmtrace.core.errors.VlmtraceError: The list is of no use (IndexError: list index out of range): fill it.
    """
    try:
        yield
    except VlmtraceError:
        raise
    except BaseException as error:
        # Panics of Rust extensions (pyo3) inherit from BaseException, so that they are not caught by accident.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or OUT_OF_MEMORY.search(str(error)):
            remedy = "there is too little memory; use a smaller model, a device with more, or dtype bfloat16 on a GPU"
        elif isinstance(error, ImportError):
            remedy = "install the package that it names, or use a checkpoint that does not ask for it"
        raise VlmtraceError(f"{failure} ({reason(error)}): {remedy}.") from error


def reason(error: BaseException) -> str:
    r"""Type and first line of an exception, as part of a sentence; with the lines that a colon announces.

    >>> reason(KeyError("hidden_size"))
    "KeyError: 'hidden_size'"
    >>> reason(ValueError("Not valid:\n  it is empty.\nSee the manual."))
    'ValueError: Not valid: it is empty'
    """
    lines = [line.strip() for line in re.sub(r"\x1b\[[\d;]*m", "", str(error)).splitlines() if line.strip()]
    text = ""
    for line in lines:
        text = f"{text} {line}".strip()
        if not line.endswith(":"):
            break
    text = text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + "…"
    return f"{type(error).__name__}: {text}".rstrip(".: ")
