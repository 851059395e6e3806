"""What views share: the pairs to choose from, and the example that all of them show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_columns
from vlmtrace.display.aggregation import unique_sample_ids
from vlmtrace.display.example import Example
from vlmtrace.models import VLM


class Session:
    """One model, its pairs, and the example that every view shows.

    Attributes:
        model: the model that is asked
        pairs: what can be chosen; sample_id begins with the task where tasks share ids
        example: the one that is looked at; set by `choose` and `ask`
    """

    @checked
    def __init__(self, model: VLM, pairs: pd.DataFrame):
        """Start with the first pair.

        Args:
            model: the model that is asked
            pairs: a pairs table; it may hold several tasks
        Raises:
            VlmtraceError: the table lacks a column or has no row
        """
        check_columns(pairs, ["sample_id", "clean_image", "clean_prompt"], "pairs")
        if pairs.empty:
            raise VlmtraceError("The pairs table has no rows: build it with load_pairs, or relax the selection.")
        self.model = model
        self.pairs = unique_sample_ids(pairs).reset_index(drop=True)
        self._listeners: list[Callable[[], None]] = []
        self._kept: dict[str, Example] = {}
        self.example = self._of_pair(str(self.pairs["sample_id"].iloc[0]))

    @checked
    def choose(self, sample_id: str) -> Example:
        """Show a pair of the table in all views.

        Args:
            sample_id: the pair's
        Raises:
            VlmtraceError: there is no such pair
        """
        return self._look_at(self._of_pair(sample_id))

    def ask(self, **pair: Any) -> Example:
        """Show an image and a question of your own in all views.

        Args:
            pair: columns of a pairs table: clean_image and clean_prompt; to patch, corrupt_image or corrupt_prompt too
        Raises:
            VlmtraceError: the image or the question is missing
        """
        return self._look_at(Example(self.model, {"sample_id": "own", **pair}))

    @checked
    def on_change(self, listener: Callable[[], None]) -> None:
        """Call a function whenever another example is chosen.

        Args:
            listener: called without arguments
        """
        self._listeners.append(listener)

    def _look_at(self, example: Example) -> Example:
        self.example = example
        for listener in self._listeners:
            listener()
        return example

    def _of_pair(self, sample_id: str) -> Example:
        rows = self.pairs[self.pairs["sample_id"] == sample_id]
        if rows.empty:
            raise VlmtraceError(f"There is no pair {sample_id!r} among the {len(self.pairs)} of this table.")
        # The last few are kept, so that going back to one of them is at once; traces of many would fill the memory.
        if sample_id not in self._kept:
            while len(self._kept) >= 4:
                self._kept.pop(next(iter(self._kept)))
            self._kept[sample_id] = Example(self.model, rows.iloc[0])
        return self._kept[sample_id]


def session_of(given: Session | VLM, pairs: pd.DataFrame | Mapping | None = None) -> Session:
    """A session as it is, or a new one of a model and pairs, so that `Ask(session)` and `Ask(model, pairs)` both work.

    Args:
        given: a session, or a model
        pairs: a pairs table, or a single pair's columns in lists
    Raises:
        VlmtraceError: a model without pairs
    """
    if isinstance(given, Session):
        return given
    if pairs is None:
        raise VlmtraceError("A view needs a session, or a model and pairs: Attention(Session(model, pairs)).")
    return Session(given, pd.DataFrame(pairs))
