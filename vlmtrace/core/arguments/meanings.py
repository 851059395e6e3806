"""What numbers mean: annotations for the parameters of public functions, and for those of notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from vlmtrace.core.arguments.annotations import kind_of
from vlmtrace.core.arguments.containers import AtLeast
from vlmtrace.core.arguments.kinds import Kind, Number, Problem, Whole

#: How many of something: at least one. Above the bound a computation would not end, or not fit into memory.
Count = Annotated[int, Whole(1, 10**6)]

#: A layer, head, position or step, counted from 0; or how many of something of which there may be none.
Natural = Annotated[int, Whole(0, 10**6)]

#: What random numbers start from. NumPy and PyTorch both take it, and one more or less as well.
Seed = Annotated[int, Whole(0, 2**32 - 1)]

#: A part of a whole, 0 to 1.
Share = Annotated[float, Number(0, 1)]

#: A probability that is neither 0 nor 1: of an error, of a confidence interval.
Probability = Annotated[float, Number(0, 1, excluded=True)]

#: An amount of which there must be some.
Positive = Annotated[float, Number(0, excluded=True)]

#: An amount, 0 included.
NotNegative = Annotated[float, Number(0)]


T = TypeVar("T")

#: A list of at least one thing: with none, there would be nothing to compute.
NonEmpty = Annotated[Sequence[T], AtLeast(1)]


class NamedAsIn:
    """Further arguments of any name; those of these names are of these kinds."""

    says = "anything"

    def __init__(self, **annotations: Any):
        self.kinds = {name: kind_of(annotation) for name, annotation in annotations.items()}

    def of(self, name: str) -> Kind | None:
        """The kind of the argument of this name."""
        return self.kinds.get(name)

    def problem(self, value: Any) -> Problem | None:
        """Nothing: it depends on the name."""
        return None


#: The parameters of notebooks: a name means the same in every notebook.
NotebookParameter = Annotated[
    Any,
    NamedAsIn(
        samples=Count | None,
        seed=Annotated[int, Whole(0, 2**31 - 1)],  # notebooks count on from it
        per_category=Count | None,
        n_random=Count,
        n_drawn=Count,
        threshold=Share,
        level=NotNegative | None,
        draws=Count,
        tasks=NonEmpty[str],
        questions=str,
        root=str | Path | None,
        beside=str,
        positions=str,
        lead=str,
        rewording=str,
        question=str,
        same_size=bool,
        instruction=str,
        answer_prefix=str,
        prefix=str,
    ),
]
