"""The exception that means: the input is at fault, and here is what to do about it."""

from __future__ import annotations

from collections.abc import Iterable

#: Characters of what was given that a sentence repeats at most.
LONGEST_QUOTE = 200


class VlmtraceError(ValueError):
    """A mistake in what the user passed in.

    The message is one sentence that names the file, row or parameter and says what to do. The command line prints it
    without a traceback and exits with status 1.

    Example:
        >>> import vlmtrace as vt
        >>> try:
        ...     vt.load_pairs("rendered_stats")
        ... except vt.VlmtraceError as error:
        ...     print(str(error)[:30])
        Unknown task 'rendered_stats':
    """


class NotForThisModel(VlmtraceError):
    """A model cannot be asked this, whatever else is asked: `make` says so, leaves the stage out, and goes on."""


def one_of(value: str, known: Iterable[str], subject: str) -> str:
    """Return a value if it is among those that exist.

    Args:
        value: the one that was asked for
        known: those that exist
        subject: what the value names, for the sentence

    Returns:
        the value

    Raises:
        VlmtraceError: there is no such value; the sentence lists those that exist

    >>> one_of("mlp", ("mlp", "residual"), "module")
    'mlp'
    """
    known = list(known)
    if value not in known:
        said = repr(value)
        said = said if len(said) <= LONGEST_QUOTE else f"{said[:LONGEST_QUOTE]}…"
        raise VlmtraceError(f"Unknown {subject} {said}: choose one of {', '.join(map(str, known))}.")
    return value


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut to what fits in a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:LONGEST_QUOTE].rstrip(".")
