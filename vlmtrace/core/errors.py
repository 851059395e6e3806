"""The one exception that means: the input is at fault, and here is what to do about it."""


class VlmtraceError(ValueError):
    """A mistake in what the user passed in.

    The message is one sentence that names the file, row or parameter and says what to do. The command line
    prints it without a traceback and exits with status 1.
    """


def one_of(value: str, known, what: str) -> str:
    """Return `value` if it is among `known`; otherwise raise, saying which exist.

    >>> one_of("mlp", ("mlp", "residual"), "module")
    'mlp'
    """
    known = list(known)
    if value not in known:
        raise VlmtraceError(f"Unknown {what} {value!r}: choose one of {', '.join(map(str, known))}.")
    return value
