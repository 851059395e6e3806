"""What the cards of a head and of a module share: effects in this pair and over the run, knocked out, patched, code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display.canvas import BrowserCanvas
from vlmtrace.display.view import View
from vlmtrace.display.wording import readable
from vlmtrace.methods.patching import DIRECTIONS, Patch, ablate
from vlmtrace.methods.patching.in_address import in_address
from vlmtrace.methods.patching.intervention import intervene_in, patched_readout
from vlmtrace.methods.patching.metrics import patching_effect

#: What a pairs table says of a pair, an example of one's own does not, and zero ablation does not depend on.
UNKNOWN = {"task": "own", "category": "own", "correct_first": True}


class PlaceCard(View):
    """What is known of the place in the model that is selected.

    A subclass sets `kinds`, makes `canvas` with the trait numbers, and says what is patched and what it is ranked with.

    Attributes:
        numbers: what it does here and over the run, as the browser shows it
        knocked_out: the place's row of `ablate` with nothing in its place; None: not asked for
    """

    pane = "card"
    canvas: BrowserCanvas

    def build(self) -> list[Any]:
        """Make the canvas; nothing is selected yet."""
        self.canvas = self.new_canvas()
        self.canvas.on_msg(self._receive)
        self.numbers: dict[str, Any] = {}
        self.knocked_out: dict[str, Any] | None = None
        return [self.canvas]

    def new_canvas(self) -> BrowserCanvas:
        """The canvas, with the trait numbers."""
        raise NotImplementedError

    @property
    def patch(self) -> Patch:
        """What is selected, as it is patched."""
        raise NotImplementedError

    def rivals(self) -> list[Patch]:
        """What it is ranked among, itself too: places of the same kind."""
        raise NotImplementedError

    def selection_changed(self) -> None:
        """Show what is selected now."""
        name = self.name if self.selected is None else f"{self.name} {self.selected.short}"
        with self.busy(name), self.cleared_on_failure():
            self.load()

    # Numbers --------------------------------------------------------

    @property
    def corruption(self) -> str:
        """The corruption whose gap effects are shares of: that of what is patched, otherwise the first."""
        patched = self.session.patched
        return self.example.corruption_to_patch("" if patched is None else patched.corruption)

    def here(self) -> dict[str, Any]:
        """Effect in this pair, in both directions, and its rank among its rivals; or why there is none."""
        try:
            runs = self.example.runs(self.corruption)
        except VlmtraceError as error:
            return {"hereRefused": str(error)}
        model, patch = self.session.model, self.patch
        effects = {way: intervene_in(model, runs, [patch], way).patching_effect for way in DIRECTIONS}
        rivals = self.rivals()
        size = pd.Series(np.abs(self.effects_of(rivals)))
        rank = size.rank(ascending=False, method="min")[rivals.index(patch)]
        return {
            "effects": {way: float(effect) if np.isfinite(effect) else None for way, effect in effects.items()},
            "rank": int(rank) if np.isfinite(rank) else None, "nHeads": len(rivals),
            "corruption": self.corruption, "module": readable(patch.module), "ofBlock": readable(patch.block),
        }  # fmt: skip

    def effects_of(self, patches: list[Patch]) -> np.ndarray:
        """Effects in this pair of patches, each by itself.

        Args:
            patches: any

        Returns:
            (patch,), see `patching_effect`
        """
        corruption = self.corruption
        runs, model = self.example.runs(corruption), self.session.model

        def compute() -> np.ndarray:
            differences = patched_readout(model, runs, [[patch] for patch in patches]).logit_diff
            clean, corrupt = (float(readout.logit_diff) for readout in (runs.clean_readout, runs.corrupt_readout))
            return patching_effect(differences.flatten().cpu().numpy(), clean, corrupt)

        return self.example.keep(("effects for a card", corruption, tuple(patches)), compute)

    def pairs_to_open(self, pairs: pd.DataFrame) -> list[dict[str, Any]]:
        """Pairs of the run, with the session's name of each; None where the explorer does not offer it.

        Args:
            pairs: task, sample_id, corruption, patching_effect
        """
        known, found = set(self.session.pairs["sample_id"].astype(str)), []
        for row in records(pairs):
            names = (f"{row['task']}/{row['sample_id']}", str(row["sample_id"]))
            found.append(row | {"opens": next((name for name in names if name in known), None)})
        return found

    def knock_out(self) -> None:
        """Take it away from the clean run, with nothing in its place, and show what becomes of the answer."""
        correct, incorrect = self.example.options
        frame = self.example.frame().assign(correct_answer=correct, incorrect_answer=incorrect)
        frame = frame.assign(**{key: value for key, value in UNKNOWN.items() if key not in frame})
        row = ablate(self.session.model, frame, [self.patch], method="zero", corruption=self.corruption).iloc[0]
        clean = float(self.example.runs(self.corruption).clean_readout.logit_diff)
        self.knocked_out = {
            "before": clean, "after": clean + float(row["logit_diff"]), "pCorrect": float(row["p_correct"]),
            "effect": float(row["patching_effect"]) if np.isfinite(row["patching_effect"]) else None,
        }  # fmt: skip
        self.tell({**self.numbers, "knockedOut": self.knocked_out})

    def tell(self, numbers: dict[str, Any]) -> None:
        """Show numbers in the browser.

        Args:
            numbers: all of them
        """
        self.numbers = numbers
        self.canvas.set_trait("numbers", numbers)

    # What people do --------------------------------------------------------

    def _receive(self, _widget: Any, message: dict, _buffers: Any) -> None:
        with self.busy(str(message.get("activity", self.name))):
            match message.get("do"):
                case "knock out":
                    self.knock_out()
                case "patch":
                    settings = {"also": in_address([self.patch])}
                    # What is promised here is of this corrupt run.
                    if self.corruption in self.example.corruptions:
                        settings["corruption"] = self.corruption
                    self.open_view("Patch", settings)
                case "attention":
                    self.open_view("Attention", {"head": self.computed(self.selected).label})
                case "pair":
                    self.session.choose(str(message["pair"]))

    def open_view(self, title: str, settings: dict[str, str]) -> None:
        """Open a view with something chosen in it.

        Args:
            title: of the view
            settings: see `View.settings`

        Raises:
            VlmtraceError: the card stands alone
        """
        if not self.session.open(title, settings):
            raise VlmtraceError(f"There is no view {title} beside this card: open the explorer (app.explorer).")

    # Exports --------------------------------------------------------

    def code_of_effects(self, name: str) -> list[str]:
        """Lines that give the effects in this pair and the answer without the place.

        Args:
            name: of the variable that holds the patch
        """
        return [
            f"run = {{'corruption': {self.corruption!r}}}",
            f"outcomes = {{way: intervene(model, pair, [{name}], direction=way, **run) for way in DIRECTIONS}}",
            "effects = {way: outcome.patching_effect for way, outcome in outcomes.items()}",
            f"frame = pd.DataFrame([{UNKNOWN!r} | pair])",
            f"knocked_out = ablate(model, frame, [{name}], method='zero', **run)",
            "print(effects)",
            "knocked_out",
            "",
        ]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON has them: what is missing is None.

    Args:
        table: any
    """
    plain = table.astype(object).where(table.notna(), None)
    return [
        {key: value.item() if isinstance(value, np.generic) else value for key, value in row.items()}
        for row in plain.to_dict("records")
    ]
