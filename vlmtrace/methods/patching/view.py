"""Patch: choose places on the effect map, and see at once what the model would answer with all of them patched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import traitlets
from matplotlib.figure import Figure

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import one_of
from vlmtrace.display.canvas import BrowserCanvas, png
from vlmtrace.display.in_code import missing_columns, preamble
from vlmtrace.display.scripts import script
from vlmtrace.display.session import Patched
from vlmtrace.display.view import View
from vlmtrace.display.wording import readable
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.methods.patching.chosen import Chosen
from vlmtrace.methods.patching.direction import DIRECTIONS
from vlmtrace.methods.patching.in_address import check_positions, in_address, patches_of
from vlmtrace.methods.patching.in_code import code_of
from vlmtrace.methods.patching.intervention import Outcome, Patch, intervene_in
from vlmtrace.methods.patching.pair_effects import PairEffects
from vlmtrace.methods.patching.view_figure import draw_patching, patching_table
from vlmtrace.methods.patching.view_state import shown_state


class PatchCanvas(BrowserCanvas):
    """Effect maps to click on, what each patch adds, and the three distributions."""

    _esm = script(Path(__file__).with_suffix(".js"))

    other = traitlets.Bytes(b"").tag(sync=True)


class Patching(View):
    """Copy activations of one run into the other by clicking, several together, and read the answer.

    Attributes:
        corruption: the corrupt run
        direction: "denoising": the corrupt run is patched, from the clean one; "noising": the clean run, from the
            corrupt one
        chosen: the patches, what they were before, and those of another example
        place: (block, module) of the maps
        positions: where heads are patched; empty: everywhere
        outcome: what the patches do together, see `intervention.Outcome`
    """

    title, name, order = "Patch", "patch", 40
    # What is copied where depends on the direction, so the canvas says it.
    note = ""

    def build(self) -> list[Any]:
        """Make the canvas of effect maps and distributions; patch nothing yet."""
        model = self.session.model
        block = model.head_block
        self.corruption, self.direction, self.chosen = "image", DIRECTIONS[0], Chosen()
        self.place = (block.name, block.head_modules[-1])
        self.positions: list[int] = []
        self.outcome: Outcome | None = None
        self.canvas = PatchCanvas()
        self.canvas.on_msg(self._receive)
        return [self.canvas]

    def load(self) -> None:
        """Compute the effect maps of the example; patches of another one are put away, or carried over."""
        effect = float("nan") if self.outcome is None else self.outcome.patching_effect
        self.chosen = self.chosen.opened(self.example, self._shown, effect)
        # The outcome is the other example's, until this one's is computed.
        self.positions, self.outcome = [], None
        self.corruption = self.example.corruption_to_patch(self.corruption)
        if self.chosen.keeps and self.chosen.put_away is not None and not self.patches:
            self.chosen = self.chosen.carry(self.example)
        self._run()

    def draw_nothing(self) -> None:
        """See `Drawn.draw_nothing`; patches that could not be shown are not carried to another example."""
        super().draw_nothing()
        self.chosen = self.chosen.none()

    @property
    def patches(self) -> list[Patch]:
        """The intervention, in the order in which it was put together."""
        return self.chosen.patches

    @property
    def settings(self) -> dict[str, str]:
        """Corrupt run, direction and patches, where they are not as at first."""
        found = {"corruption": self.corruption, "direction": self.direction, "patches": in_address(self.patches)}
        first = {"corruption": next(iter(self.example.corruptions), "image"), "direction": DIRECTIONS[0], "patches": ""}
        return {key: value for key, value in found.items() if value != first[key]}

    @checked
    def restore(self, settings: Mapping[str, str]) -> None:
        """Choose the corrupt run, the direction and the patches of an address.

        Args:
            settings: as `settings` gave them; with `also`, a patch is added to those that there are
        Raises:
            VlmtraceError: a value means nothing here; everything stays as it was
        """
        example = self.example
        corruption, direction = settings.get("corruption", self.corruption), settings.get("direction", self.direction)
        if "corruption" in settings:
            one_of(corruption, example.corruptions, f"corruption of {example.name}")
        one_of(direction, DIRECTIONS, "direction")
        is_shown = self._shown is example
        patches = patches_of(example, settings, self.patches if is_shown else [])
        if is_shown:
            self._run_with(chosen=self.chosen.set(patches), corruption=corruption, direction=direction)
        else:
            self.corruption, self.direction = corruption, direction
            self.chosen = replace(self.chosen, restored=(example, patches))

    # What can be done --------------------------------------------------------

    @checked
    def choose(
        self, corruption: str | None = None, place: tuple[str, str] | None = None, direction: str | None = None
    ) -> None:
        """Show the maps of another corrupt run, of another module, or of the other direction.

        Args:
            corruption: the corrupt run; None: the same as before
            place: (block, module) of the maps; None: the same as before
            direction: "denoising" or "noising"; None: the same as before
        Raises:
            VlmtraceError: the example has no such run, the model no such module, or there is no such direction
        """
        changes: dict[str, Any] = {}
        if direction is not None:
            changes["direction"] = one_of(direction, DIRECTIONS, "direction")
        blocks = self.session.model.blocks
        if place is not None:
            block = blocks[one_of(place[0], blocks, "block")]
            changes["place"] = (block.name, one_of(place[1], block.modules, f"module of {block.name}"))
            changes["positions"] = []
        if corruption is not None:
            known = self.example.corruptions
            changes["corruption"] = one_of(corruption, known, f"corruption of {self.example.name}")
        self._run_with(**changes)

    @checked
    def toggle(self, patch: Patch) -> None:
        """Add a patch to the intervention, or take it out where it is in it already.

        Raises:
            VlmtraceError: the model has no such site
        """
        others = [other for other in self.patches if other != patch]
        self._run_with(chosen=self.chosen.set(others if patch in self.patches else [*self.patches, patch]))

    def undo(self) -> None:
        """Take back the last change of the intervention."""
        if self.chosen.before:
            self._run_with(chosen=self.chosen.undo())

    def clear(self) -> None:
        """Patch nothing."""
        self._run_with(chosen=self.chosen.set([]))

    @checked
    def keep(self, on: bool) -> None:
        """Carry patches over to the next example, or put them away.

        Args:
            on: carry them over
        """
        self._run_with(chosen=replace(self.chosen, keeps=on))

    def carry(self) -> None:
        """Patch here what was patched in the example before: do these patches transfer?

        Whole layers and heads are the same everywhere. A position is that of the same token role; where this prompt has
        no such token, the patch is left out, and said to be.

        Raises:
            VlmtraceError: no patches of another example were put away
        """
        self._run_with(chosen=self.chosen.carry(self.example))

    @checked
    def at(self, positions: list[int]) -> None:
        """Show and patch heads at these positions only.

        Args:
            positions: of the block's sequence; none: all of them
        Raises:
            VlmtraceError: the block has no such position
        """
        check_positions(self.example, self.place[0], positions)
        self._run_with(positions=sorted(set(positions)))

    def _run_with(self, **changes: Any) -> None:
        """Change attributes, and show what follows from them; if that fails, everything stays as it was."""
        with self.attributes_set(**changes):
            self._run()

    def _receive(self, _widget: Any, message: dict, _buffers: Any) -> None:
        with self.busy(str(message.get("activity", "patching"))), self.drawn_again_on_failure():
            match message.get("do"):
                case "choose":
                    place = tuple(message["place"]) if "place" in message else None
                    self.choose(message.get("corruption"), place, message.get("direction"))
                case "keep":
                    self.keep(bool(message["on"]))
                case "carry":
                    self.carry()
                case "toggle":
                    block, module = self.place
                    positions, heads = message.get("positions"), message.get("heads")
                    self.toggle(
                        Patch(block, module, message["layer"], positions and tuple(positions), heads and tuple(heads))
                    )
                    # What is patched is looked at: its card opens.
                    head = f".{heads[0]}" if heads else ""
                    self.session.select(f"{block}.{module}.{message['layer']}{head}", positions)
                case "remove":
                    self.toggle(self.patches[message["index"]])
                case "at":
                    self.at(message["positions"])
                case "undo":
                    self.undo()
                case "clear":
                    self.clear()

    # Numbers --------------------------------------------------------

    @property
    def numbers(self) -> PairEffects:
        """Effects of patches in the example, under the chosen corruption and in the chosen direction."""
        return PairEffects(self.example, self.corruption, self.direction)

    def waterfall(self) -> pd.DataFrame | None:
        """What each patch adds, against as many at random, see `patch_waterfall`; None where nothing is patched."""
        return self.numbers.waterfall(self.patches)

    def effects(self) -> pd.DataFrame:
        """Effects of patching the whole module at one position.

        Returns:
            one row per layer and position: layer, position, token, token_role, patching_effect, is_estimate (of a patch
            that would take too long, see `PairEffects`)
        """
        return self.numbers.by_position(self.place)

    def head_effects(self) -> pd.DataFrame | None:
        """Effects of patching single heads, each at all chosen positions together.

        Returns:
            one row per head: layer, head, patching_effect, is_estimate; None where the module has no heads
        """
        return self.numbers.by_head(self.place, self.positions)

    @property
    def table(self) -> pd.DataFrame:
        """The maps' numbers, and in the last row the intervention's.

        One row per site: block, module, layer, head, position, token, token_role, patching_effect, is_estimate. The
        intervention is always computed exactly.
        """
        numbers = self.effects(), self.head_effects()
        return patching_table(*numbers, self.place, self.positions, self.patches, self.outcome)

    def _report(self) -> None:
        """Tell the gauge of the answer: 0 is the corrupt run, 1 the clean one, whichever is patched."""
        outcome = self.computed(self.outcome)
        effect = outcome.patching_effect if self.direction == DIRECTIONS[0] else 1 - outcome.patching_effect
        text = "; ".join(map(str, self.patches))
        self.session.report(Patched(effect, outcome.answer(), self.corruption, text) if self.patches else None)
        self.settings_changed()

    def shown_again(self) -> None:
        """Tell the gauge what is patched here: another view has told its own meanwhile."""
        if self.canvas.state:
            self._report()

    def _run(self) -> None:
        runs = self.example.runs(self.corruption)
        outcome = intervene_in(self.session.model, runs, self.patches, self.direction)
        state = shown_state(self.numbers, self.place, self.positions, self.chosen, outcome)
        image, _ = CORRUPTIONS[self.corruption]
        other = self.example.image if image == "clean_image" else self.example.other_image
        pictures = png(self.example.image), png(other)
        # Nothing is shown before everything is computed.
        self.outcome = outcome
        with self.canvas.hold_sync():
            # Traits that stay the same are not sent again.
            self.canvas.picture, self.canvas.other = pictures
            self.canvas.state = state
        self._report()

    # Exports --------------------------------------------------------

    def figure(self) -> Figure:
        """The maps that are shown, and the three distributions of the answer."""
        title = f"{self.example.question}: {readable(self.place[1])} of the {readable(self.place[0])}, {self.direction}"
        patched = "; ".join(map(str, self.patches))
        return draw_patching(self.effects(), self.head_effects(), self.computed(self.outcome), patched, title)

    def code(self) -> str:
        """Lines that do the same intervention."""
        lines = [*missing_columns(self.example), *code_of(self.patches, self.corruption, self.direction), ""]
        imports = "from vlmtrace.methods.patching import Patch, intervene, patch_waterfall"
        return preamble(self.example, imports) + "\n".join(lines)
