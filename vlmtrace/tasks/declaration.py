"""What a data set declares: its name, where it comes from, and how pairs or questions are made of it.

A data set is one module (or folder) of `vlmtrace/tasks` with a tuple `DECLARED` of `Task` records, or a package of its
own whose entry point in the group `vlmtrace.tasks` is such a record. Everything else follows from that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from vlmtrace.tasks.building.row_audit import Filters
from vlmtrace.tasks.building.token_replacement import CountTokens

if TYPE_CHECKING:
    from vlmtrace.models import VLM

#: Kinds of data sets, in the order in which they are listed.
KINDS = ("rendered", "published", "own")


@dataclass(frozen=True)
class Source:
    """Where a data set comes from. It is recorded in run.json of every run that uses it.

    Attributes:
        name: of the data set, as its publishers write it
        url: where to get it
        licence: as its publishers state it; where they do not, that the source is the place to look
        citation: of the publication that describes it
        needs: what has to lie on disk, as the object of a sentence ("the unpacked archive"); empty: nothing
    """

    name: str
    url: str
    licence: str
    citation: str
    needs: str = ""

    def record(self) -> dict[str, str]:
        """The fields that say something, by name."""
        return {name: text for name, text in vars(self).items() if text}


@dataclass(frozen=True)
class Request:
    """What `load_pairs` and `load_questions` ask of a data set.

    Attributes:
        task: name of the data set
        n: how many pairs or questions at most
        seed: the same seed gives the same rows
        root: where the data lie; without meaning for a data set that needs no place
        split: one of those that the data set declares
        model: the model that will be used, or a function that counts a prompt's tokens; None: words are counted
        question: a prompt in which {a} and {b} stand for the options; empty: the data set's own
        kind: category to which questions are limited; None: all
        filters: to which the data set adds what each of its steps did with its rows
    """

    task: str
    n: int
    seed: int
    root: Path = Path()
    split: str = "test"
    model: VLM | CountTokens | None = None
    question: str = ""
    kind: str | None = None
    filters: Filters = field(default_factory=Filters)


#: Gives the table for a request; raises VlmtraceError where no row can be made.
Adapter = Callable[[Request], pd.DataFrame]


@dataclass(frozen=True)
class Task:
    """A data set.

    Attributes:
        name: as it is asked for, in lower case with underscores
        source: where it comes from
        kind: rendered (vlmtrace draws it), published, or own (the user's)
        pairs: makes a pairs table (columns: `vlmtrace.core.schema`); None: the data set has none
        questions: makes a table of questions without options; None: the data set has none
        question_kinds: categories of those questions
        needs_root: whether it reads data from a place on disk
        splits: those that it has
        takes_question: whether the user may give the question that is asked
    """

    name: str
    source: Source
    kind: str = "published"
    pairs: Adapter | None = None
    questions: Adapter | None = None
    question_kinds: tuple[str, ...] = ()
    needs_root: bool = True
    splits: tuple[str, ...] = ("test",)
    takes_question: bool = False
