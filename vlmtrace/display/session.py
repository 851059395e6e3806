"""What views share: the pairs, the example that all of them show, what of the model is selected, what is patched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_columns
from vlmtrace.display.aggregation import unique_sample_ids
from vlmtrace.display.example import Example
from vlmtrace.display.selection import Selection, selection
from vlmtrace.models import VLM

#: What an example of one's own is called; a second one "own 2".
OWN = "own"

#: So many examples of one's own are kept, the latest.
MOST_OWN = 8


class Patched(NamedTuple):
    """What the answer becomes when some of a corrupt run is patched.

    Attributes:
        effect: 0: as in the corrupt run, 1: as in the clean run; NaN where the two answer alike
        answer: the token that comes first
        corruption: which run is patched
        text: what is patched, in words
    """

    effect: float
    answer: str
    corruption: str
    text: str


class Session:
    """One model, its pairs, the example that every view shows, and the place in the model that is looked at.

    Attributes:
        model: the model that is asked
        pairs: what can be chosen; sample_id begins with the task where tasks share ids
        example: the one that is looked at; set by `choose` and `ask`
        selected: the head, module or node that is looked at; set by `select`; None: none
        run: the folder of the run that the pairs are of, whose tables views may read; None: of no run
        patched: what is patched in the example that is looked at; set by `report`; None: nothing
    """

    @checked
    def __init__(self, model: VLM, pairs: pd.DataFrame, run: Path | None = None):
        """Start with the first pair.

        Args:
            model: the model that is asked
            pairs: a pairs table; it may hold several tasks
            run: the folder of the run that the pairs are of; None: of no run
        Raises:
            VlmtraceError: the table lacks a column or has no row
        """
        check_columns(pairs, ["sample_id", "clean_image", "clean_prompt"], "pairs")
        if pairs.empty:
            raise VlmtraceError("The pairs table has no rows: build it with load_pairs, or relax the selection.")
        self.model = model
        self.run = run
        self.pairs = unique_sample_ids(pairs).reset_index(drop=True)
        self.selected: Selection | None = None
        self.patched: Patched | None = None
        self._listeners: list[Callable[[], None]] = []
        self._selection_listeners: list[Callable[[Selection | None], None]] = []
        self._patched_listeners: list[Callable[[Patched | None], None]] = []
        self._opening_listeners: list[Callable[[str, Mapping[str, str]], None]] = []
        self._owns: dict[str, Example] = {}
        self._kept: dict[str, Example] = {}
        self.example = self._of_pair(str(self.pairs["sample_id"].iloc[0]))

    @checked
    def choose(self, sample_id: str) -> Example:
        """Show a pair of the table in all views, or again an example of one's own that was asked before.

        Args:
            sample_id: the pair's, or one of `owns`
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
        example = Example(self.model, {"sample_id": OWN, **pair})
        self._owns.pop(example.name, None)
        self._owns[example.name] = example
        while len(self._owns) > MOST_OWN:
            self._owns.pop(next(iter(self._owns)))
        return self._look_at(example)

    @property
    def owns(self) -> dict[str, Example]:
        """The examples of one's own by name, the latest last."""
        return dict(self._owns)

    @checked
    def on_change(self, listener: Callable[[], None], first: bool = False) -> None:
        """Call a function whenever another example is chosen.

        Args:
            listener: called without arguments
            first: before those that were given until now, such as views, which take their time
        """
        self._listeners.insert(0 if first else len(self._listeners), listener)

    @checked
    def select(self, place: str | Selection | None, positions: Sequence[int] | None = None) -> Selection | None:
        """Look at a head, a module or a node, in all views and in the card at the side.

        Args:
            place: its name, as `vt.edges` has it, e.g. "language_model.self_attention.2.3"; None or "": look at none
            positions: of the block's sequence; None: all of them
        Returns:
            what is selected now
        Raises:
            VlmtraceError: the model has no such place
        """
        label = place.label if isinstance(place, Selection) else place
        at = place.positions if isinstance(place, Selection) and positions is None else positions
        chosen = selection(self.model, label, at) if label else None
        if chosen != self.selected:
            self.selected = chosen
            for listener in self._selection_listeners:
                listener(chosen)
        return chosen

    @checked
    def observe_selection(self, listener: Callable[[Selection | None], None], first: bool = False) -> None:
        """Call a function whenever something else is selected.

        Args:
            listener: called with what is selected, or with None
            first: before those that were given until now, such as cards, which take their time
        """
        self._selection_listeners.insert(0 if first else len(self._selection_listeners), listener)

    @checked
    def report(self, patched: Patched | None) -> None:
        """Tell what the answer becomes with what is patched, for the gauge of the answer.

        Args:
            patched: of the example that is looked at; None: nothing is patched
        """
        self.patched = patched
        for listener in self._patched_listeners:
            listener(patched)

    @checked
    def observe_patched(self, listener: Callable[[Patched | None], None]) -> None:
        """Call a function whenever something else is patched.

        Args:
            listener: called with what is patched, or with None
        """
        self._patched_listeners.append(listener)

    @checked
    def open(self, title: str, settings: Mapping[str, str] | None = None) -> bool:
        """Ask whoever shows the views to open another one, such as Patch with a head patched.

        Args:
            title: of the view
            settings: what is to be chosen in it, see `View.settings`
        Returns:
            whether anybody heard: a view that stands alone in a cell has no other beside it
        Raises:
            VlmtraceError: there is no such view, or the settings mean nothing to it
        """
        for listener in self._opening_listeners:
            listener(title, settings or {})
        return bool(self._opening_listeners)

    @checked
    def observe_opening(self, listener: Callable[[str, Mapping[str, str]], None]) -> None:
        """Call a function whenever a view asks for another one to be opened.

        Args:
            listener: called with its title and settings
        """
        self._opening_listeners.append(listener)

    def _look_at(self, example: Example) -> Example:
        if example is not self.example:
            self.example = example
            # What was patched belongs to the example before; a view that keeps its patches reports again.
            self.report(None)
        for listener in self._listeners:
            listener()
        return example

    def _of_pair(self, sample_id: str) -> Example:
        if sample_id in self._owns:
            return self._owns[sample_id]
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
