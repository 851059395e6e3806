"""What becomes of one attempt: a sentence, the right result, or one of three faults."""

from __future__ import annotations

import contextlib
import signal
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from vlmtrace.core.errors import VlmtraceError

SENTENCE, RIGHT, TRACEBACK, WRONG, HANG = "sentence", "right", "traceback", "wrong", "hang"

#: In the order in which counts are printed; the last three are faults.
CLASSES = (SENTENCE, RIGHT, TRACEBACK, WRONG, HANG)
FAULTS = (TRACEBACK, WRONG, HANG)

#: A sentence is one line that fits on a screen.
LONGEST_SENTENCE = 1000


@dataclass(frozen=True)
class Case:
    """One attempt with some input.

    Attributes:
        what: the input, told so that it can be made again
        act: does what a user does with it
        check: given what `act` returned, says why that is wrong; None: it is right
        is_fine: whether nothing is wrong with the input, so that a refusal is a fault, too
    """

    what: str
    act: Callable[[], Any]
    check: Callable[[Any], str | None]
    is_fine: bool = False


@dataclass
class Tally:
    """Counts by kind of input and by class, and the faults in words."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def note(self, kind: str, outcome: str, words: str) -> None:
        """Count an attempt; what is a fault is kept in words."""
        self.counts[kind, outcome] += 1
        if outcome in FAULTS:
            self.faults.append(f"{outcome} ({kind}): {words}")

    def total(self, outcome: str | None = None) -> int:
        """How many attempts there were, of one class or of all."""
        return sum(n for (_, found), n in self.counts.items() if outcome in (None, found))

    def table(self) -> str:
        """Counts as a table: a line for each kind of input, a column for each class."""
        kinds = sorted({kind for kind, _ in self.counts})
        rows = [["input", *CLASSES, "all"]]
        rows += [[kind, *(str(self.counts[kind, outcome]) for outcome in CLASSES)] for kind in kinds]
        rows.append(["all", *(str(self.total(outcome)) for outcome in CLASSES)])
        for row in rows[1:]:
            row.append(str(sum(map(int, row[1:]))))
        return "\n".join(f"{row[0]:<12}" + "".join(f"{cell:>11}" for cell in row[1:]) for row in rows)


class TookTooLong(BaseException):
    """The attempt ran past its time; no `except Exception` on the way may swallow it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TookTooLong in this thread after some seconds; only the main thread can be interrupted."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a time limit works in the main thread only")

    def stop(*_: object) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome_of(case: Case, seconds: float = 20.0) -> tuple[str, str]:
    """Try a case.

    Args:
        case: the attempt
        seconds: how long it may take

    Returns:
        its class, and words about it
    """
    try:
        with warnings.catch_warnings(), time_limit(seconds):
            warnings.simplefilter("ignore")
            problem = case.check(case.act())
    except VlmtraceError as error:
        said = str(error)
        if "\n" in said or len(said) > LONGEST_SENTENCE or not said.endswith("."):
            return WRONG, f"{case.what}: this is no sentence on one line: {said[:300]!r}"
        return (
            (WRONG, f"{case.what}: refused, though nothing is wrong with it: {said}")
            if case.is_fine
            else (SENTENCE, said)
        )
    except TookTooLong:
        return HANG, f"{case.what}: no answer within {seconds:.0f} s"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # some libraries raise what is no Exception
        return TRACEBACK, f"{case.what}: {type(error).__name__}: {str(error)[:300]}{_where(error)}"
    return (RIGHT, case.what) if problem is None else (WRONG, f"{case.what}: {problem}")


def _where(error: BaseException) -> str:
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    own = [frame for frame in frames if "/vlmtrace/" in frame[0] and "/tests/" not in frame[0]]
    return f" [{own[-1][0].rpartition('/vlmtrace/')[2]}:{own[-1][1]}]" if own else ""
