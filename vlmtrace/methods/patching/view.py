"""Patch: choose places on the effect map, and see at once what the model would answer with all of them patched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.display.panels import effect_panel, head_panel
from vlmtrace.display.style import effect_limit, new_figure, paper_style, signed_colorbar
from vlmtrace.display.view import BrowserCanvas, View, png, script
from vlmtrace.display.wording import readable
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.token_roles import shows_image
from vlmtrace.methods.patching.intervention import Outcome, Patch, intervene_in, patched_readout
from vlmtrace.methods.patching.metrics import patching_effect
from vlmtrace.methods.patching.plans import module_plan, site_patches
from vlmtrace.methods.patching.run_sweep import default_memory, sweep_patches
from vlmtrace.models import Readout

#: What a corruption is called where people choose it.
CORRUPTION = {"image": "the other image", "text": "the other question"}


class PatchCanvas(BrowserCanvas):
    """Effect maps to click on, and the three distributions."""

    _esm = script(Path(__file__).with_suffix(".js"))

    other = traitlets.Bytes(b"").tag(sync=True)


class Patching(View):
    """Put activations of the clean run into the corrupt run by clicking, several together, and read the answer.

    Attributes:
        corruption: whose run is patched
        place: (block, module) of the maps
        positions: where heads are patched; empty: everywhere
        patches: the intervention, in the order in which it was put together
        outcome: what it does, see `intervention.Outcome`
    """

    title, name, order = "Patch", "patch", 40
    note = (
        "The corrupt run gets the chosen activations of the clean run, all at once. Effect 0: nothing happens; "
        "1: the clean answer is back. A head is patched at all positions at once; the notebooks' tables patch one "
        "position at a time, and their maps sum over positions."
    )

    def build(self) -> list[Any]:
        """Make the canvas of effect maps and distributions; patch nothing yet."""
        model = self.session.model
        block = model.head_block
        self.corruption = "image"
        self.place = (block.name, block.head_modules[-1])
        self.positions: list[int] = []
        self.patches: list[Patch] = []
        self.outcome: Outcome | None = None
        self._before: list[list[Patch]] = []
        self.canvas = PatchCanvas()
        self.canvas.on_msg(self._receive)
        return [self.canvas]

    def load(self) -> None:
        """Compute the effect maps of the example, keeping whole layers and heads that were patched."""
        if self._shown is not self.example:
            # Positions of one prompt mean nothing in another; whole layers and heads do.
            self.positions = []
            self.patches = [patch for patch in self.patches if patch.positions is None]
            self._before = []
        if self.corruption not in self.example.corruptions:
            self.corruption = next(iter(self.example.corruptions), "image")
        try:
            self._run()
        except VlmtraceError:
            self.canvas.state = {}
            raise

    # What can be done --------------------------------------------------------

    @checked
    def choose(self, corruption: str | None = None, place: tuple[str, str] | None = None) -> None:
        """Show the maps of another corrupt run, or of another module.

        Args:
            corruption: whose run is patched; None: the same as before
            place: (block, module) of the maps; None: the same as before
        Raises:
            VlmtraceError: the example has no such run, or the model no such module
        """
        blocks = self.session.model.blocks
        if place is not None:
            block = blocks[one_of(place[0], blocks, "block")]
            self.place = (block.name, one_of(place[1], block.modules, f"module of {block.name}"))
            self.positions = []
        if corruption is not None:
            self.corruption = one_of(corruption, self.example.corruptions, f"corruption of {self.example.name}")
        self._run()

    @checked
    def toggle(self, patch: Patch) -> None:
        """Add a patch to the intervention, or take it out where it is in it already.

        Raises:
            VlmtraceError: the model has no such site
        """
        self._set(
            [other for other in self.patches if other != patch] if patch in self.patches else [*self.patches, patch]
        )

    def undo(self) -> None:
        """Take back the last change of the intervention."""
        if self._before:
            self.patches = self._before.pop()
            self._run()

    def clear(self) -> None:
        """Patch nothing."""
        self._set([])

    @checked
    def at(self, positions: list[int]) -> None:
        """Show and patch heads at these positions only.

        Args:
            positions: of the block's sequence; none: all of them
        """
        self.positions = sorted(positions)
        self._run()

    def _set(self, patches: list[Patch]) -> None:
        before, self.patches = self.patches, patches
        try:
            self._run()
        except VlmtraceError:
            self.patches = before
            raise
        self._before.append(before)

    def _receive(self, _widget: Any, message: dict, _buffers: Any) -> None:
        with self.busy(str(message.get("activity", "patching"))):
            match message.get("do"):
                case "choose":
                    self.choose(message.get("corruption"), tuple(message["place"]) if "place" in message else None)
                case "toggle":
                    block, module = self.place
                    positions, heads = message.get("positions"), message.get("heads")
                    self.toggle(
                        Patch(block, module, message["layer"], positions and tuple(positions), heads and tuple(heads))
                    )
                case "remove":
                    self.toggle(self.patches[message["index"]])
                case "at":
                    self.at(message["positions"])
                case "undo":
                    self.undo()
                case "clear":
                    self.clear()

    # Numbers --------------------------------------------------------

    def effects(self) -> pd.DataFrame:
        """Effects of patching the whole module at one position.

        Returns:
            one row per layer and position: layer, position, token, token_role, patching_effect
        """

        def compute() -> pd.DataFrame:
            block, module = self.place
            tokens = self.example.tokens(block)
            sites = module_plan(self.session.model, [module], [block])[block]
            model, runs = self.session.model, self.example.runs(self.corruption)
            patches = site_patches(block, sites, tokens["position"].to_numpy(), 1, model.device)
            swept = sweep_patches(model, runs, patches, default_memory(model))
            table = pd.concat([tokens] * len(sites), ignore_index=True)
            return table.assign(layer=patches.layers, patching_effect=self._effect(swept))

        return self.example.keep(("effects", self.corruption, self.place), compute)

    def head_effects(self) -> pd.DataFrame | None:
        """Effects of patching single heads, each at all chosen positions together.

        Returns:
            one row per head: layer, head, patching_effect; None where the module has no heads
        """
        block, module = self.place
        if module not in self.session.model.blocks[block].head_modules:
            return None

        def compute() -> pd.DataFrame:
            model, runs = self.session.model, self.example.runs(self.corruption)
            known = model.blocks[block]
            places = known.every_head
            where = tuple(self.positions) or None
            single = [[Patch(block, module, layer, where, (head,))] for layer, head in places]
            readout = patched_readout(model, runs, single)
            table = pd.DataFrame(places, columns=["layer", "head"])
            return table.assign(patching_effect=self._effect(readout))

        return self.example.keep(("head effects", self.corruption, self.place, tuple(self.positions)), compute)

    def _effect(self, readout: Readout) -> np.ndarray:
        runs = self.example.runs(self.corruption)
        clean, corrupt = (float(r.logit_diff) for r in (runs.clean_readout, runs.corrupt_readout))
        return patching_effect(readout.logit_diff.flatten().cpu().numpy(), clean, corrupt)

    @property
    def table(self) -> pd.DataFrame:
        """The maps' numbers, and in the last row the intervention's.

        One row per site: block, module, layer, head, position, token, token_role, patching_effect.
        """
        block, module = self.place
        parts = [self.effects()]
        heads = self.head_effects()
        if heads is not None:
            where = ", ".join(map(str, self.positions)) or "all positions"
            parts.append(heads.assign(token=where))
        table = pd.concat(parts, ignore_index=True).assign(block=block, module=module)
        if self.outcome is not None:
            total = {"token": "; ".join(map(str, self.patches)), "patching_effect": self.outcome.patching_effect}
            table = pd.concat([table, pd.DataFrame([total])], ignore_index=True)
        columns = "block module layer head position token token_role patching_effect".split()
        table = table.reindex(columns=columns)
        return table.astype({name: "Int64" for name in ("layer", "head", "position")})

    def _run(self) -> None:
        runs = self.example.runs(self.corruption)
        self.outcome = intervene_in(self.session.model, runs, self.patches)
        effects, heads, block = self.effects(), self.head_effects(), self.place[0]
        known, model = self.session.model.blocks[block], self.session.model
        at_image = self.example.image_positions(block)
        boxes = self.example.cells(block) if at_image.any() else np.empty((0, 4))
        placed = ~np.isnan(boxes).any(axis=1)
        in_image = at_image.nonzero()[0][placed]
        options = runs.answer_ids[0].tolist()
        distribution = _worth_showing(self.outcome.table(3), options)
        image, question = CORRUPTIONS[self.corruption]
        frame = self.example.frame().iloc[0]
        places = [[b.name, m, f"{readable(b.name)}: {readable(m)}"] for b in model.blocks.values() for m in b.modules]
        state = {
            "example": f"{id(self.example)}",
            "corruptions": {name: CORRUPTION[name] for name in self.example.corruptions},
            "corruption": self.corruption, "place": list(self.place),
            "places": places,
            "layers": known.n_layers, "heads": known.n_heads,
            "tokens": self.example.tokens(block).to_dict("records"), "inImage": in_image.tolist(),
            "boxes": boxes[placed].round(6).tolist(),
            "effects": _by_layer(effects, "position", known.n_layers),
            "headEffects": None if heads is None else _by_layer(heads, "head", known.n_layers),
            "positions": self.positions, "patches": [self._plain(patch) for patch in self.patches],
            "questions": {"clean": self.example.question, "corrupt": str(frame[question])},
            "canUndo": bool(self._before), "options": options,
            "distribution": distribution.to_dict("records"),
            "answers": {run: self.outcome.answer(run) for run in self.outcome.logits},
            "logitDiff": {run: self.outcome.logit_diff(run) for run in self.outcome.logits},
            "effect": _number(self.outcome.patching_effect),
        }  # fmt: skip
        with self.canvas.hold_sync():
            # Traits that stay the same are not sent again.
            other = self.example.image if image == "clean_image" else self.example.other_image
            self.canvas.picture, self.canvas.other = png(self.example.image), png(other)
            self.canvas.state = state

    def _plain(self, patch: Patch) -> dict[str, Any]:
        tokens = self.example.tokens(patch.block).set_index("position")["token"]
        where = (
            "everywhere"
            if patch.positions is None
            else "at " + ", ".join(f"{tokens[i]} ({i})" for i in patch.positions)
        )
        heads = "" if patch.heads is None else ", head " + ", ".join(f"{patch.layer}.{head}" for head in patch.heads)
        text = f"{readable(patch.block)}, {readable(patch.module)}, layer {patch.layer}{heads}, {where}"
        return {**patch._asdict(), "text": text}

    # Exports --------------------------------------------------------

    def figure(self) -> Figure:
        """The maps that are shown, and the three distributions of the answer."""
        return _draw(self)

    def code(self) -> str:
        """Lines that do the same intervention."""
        lines = [f"    {patch!r}," for patch in self.patches]
        return self.preamble("from vlmtrace.methods.patching.intervention import Patch, intervene") + "\n".join(
            [
                *self.missing_columns(),
                "patches = [",
                *lines,
                "]",
                f"outcome = intervene(model, pair, patches, corruption={self.corruption!r})",
                "print(outcome)",
                "outcome.table()",
                "",
            ]
        )


def _worth_showing(table: pd.DataFrame, options: list[int], least: float = 0.005) -> pd.DataFrame:
    """The tokens that have a share in any run, and the two options whatever theirs; at most six."""
    share = table[["clean", "corrupt", "patched"]].max(axis=1)
    return table[(share >= least) | table["token_id"].isin(options)].head(6)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _by_layer(effects: pd.DataFrame, columns: str, n_layers: int) -> list[list[float | None]]:
    """Layer × position or head; None where a layer lacks the module, or has fewer heads than others."""
    matrix = effects.pivot(index="layer", columns=columns, values="patching_effect").sort_index(axis=1)
    return [[_number(value) for value in row] for row in matrix.reindex(range(n_layers)).to_numpy()]


@paper_style
def _draw(view: Patching) -> Figure:
    """The maps that are shown, and the three distributions."""
    heads, effects = view.head_effects(), view.effects()
    text = ~shows_image(effects["token_role"])
    effects = effects[text] if text.sum() > 1 else effects
    matrix = effects.pivot(index="layer", columns="position", values="patching_effect")
    tokens = effects.drop_duplicates("position")["token"].tolist()
    figure = new_figure(height=3.4)
    axes = figure.subplots(1, 2 if heads is None else 3)
    shown = (
        [matrix] if heads is None else [matrix, heads.pivot(index="layer", columns="head", values="patching_effect")]
    )
    limit = effect_limit(np.concatenate([part.to_numpy().ravel() for part in shown]))
    effect_panel(axes[0], matrix, tokens if len(tokens) <= 24 else [""] * len(tokens), limit)
    if heads is not None:
        head_panel(axes[1], shown[1], limit)
    values = [value for part in shown for value in part.to_numpy().ravel()]
    signed_colorbar(figure, list(axes[:-1]), limit, values, "this pair alone (n = 1)")
    outcome = view.outcome
    assert outcome is not None  # made when the maps were
    table = outcome.table(5).iloc[::-1]
    places = np.arange(len(table))
    for shift, run in zip((0.27, 0, -0.27), outcome.logits, strict=True):
        axes[-1].barh(places + shift, table[run], height=0.25, label=run)
    axes[-1].set(yticks=places, yticklabels=table["token"], xlabel="probability", xlim=(0, 1))
    axes[-1].legend()
    axes[-1].set_title("; ".join(map(str, view.patches))[:80] or "nothing patched")
    figure.suptitle(f"{view.example.question}: {readable(view.place[1])} of the {readable(view.place[0])}")
    return figure
