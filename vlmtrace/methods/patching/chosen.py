"""Which patches are chosen in the view Patch, what was chosen before, and what becomes of them in another example."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display.example import Example
from vlmtrace.methods.patching.in_browser import number
from vlmtrace.methods.patching.intervention import Patch
from vlmtrace.methods.patching.transfer import PutAway, carried


@dataclass(frozen=True)
class Chosen:
    """The patches of an example; every method gives other ones, so that a view can keep what it had if that fails.

    Attributes:
        patches: in the order in which they were put together
        before: what `patches` was before each change that can be undone
        keeps: whether patches are carried over to the next example; if not, they are put away
        put_away: patches of another example, which can be carried over to this one; None: there are none
        carried: where the patches came from, if they are another example's, and what was left behind; None: they are
            this example's own
        restored: an example that has not been opened yet, and the patches that an address chose in it
    """

    patches: list[Patch] = field(default_factory=list)
    before: list[list[Patch]] = field(default_factory=list)
    keeps: bool = False
    put_away: PutAway | None = None
    carried: dict[str, Any] | None = None
    restored: tuple[Example, list[Patch]] | None = None

    def set(self, patches: list[Patch]) -> Chosen:
        """Other patches, in a change that can be undone.

        Args:
            patches: in their order
        """
        return replace(self, patches=patches, before=[*self.before, self.patches])

    def undo(self) -> Chosen:
        """The same before the last change; without one, the same."""
        return replace(self, patches=self.before[-1], before=self.before[:-1]) if self.before else self

    def carry(self, example: Example) -> Chosen:
        """What was put away, as patches of an example.

        Args:
            example: that is shown

        Raises:
            VlmtraceError: nothing was put away
        """
        if self.put_away is None:
            raise VlmtraceError("No patches of another pair were put away: patch something there first.")
        away = self.put_away
        found, left = carried(away.patches, away.tokens, example.tokens)
        source = {"name": away.name, "effect": number(away.effect), "left": list(map(str, left))}
        return replace(self.set(found), carried=source)

    def none(self) -> Chosen:
        """Nothing, and nothing to undo; what was put away stays."""
        return Chosen(keeps=self.keeps, put_away=self.put_away)

    def opened(self, example: Example, shown: Example | None, effect: float) -> Chosen:
        """What is chosen where another example is opened: what an address chose in it, and otherwise nothing.

        Args:
            example: that is opened
            shown: that was shown before, whose patches are put away; None: none was
            effect: of those patches together, there
        """
        away = self.put_away
        if shown is not None and self.patches:
            tokens = {patch.block: shown.tokens(patch.block) for patch in self.patches}
            away = PutAway(shown.name, self.patches, tokens, effect)
        if self.restored is not None and self.restored[0] is example:
            return Chosen(self.restored[1], keeps=self.keeps)
        return Chosen(keeps=self.keeps, put_away=away)
