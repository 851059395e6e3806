"""Cards of what is selected: what a head or a module does here and over a run, and what the answer is without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display.canvas import BrowserCanvas, png
from vlmtrace.display.in_code import missing_columns, preamble
from vlmtrace.display.scripts import script
from vlmtrace.display.style import new_figure, paper_style
from vlmtrace.display.wording import head_name, readable
from vlmtrace.methods.circuits.head_attention import HeadAttention, draw_attention, head_attention
from vlmtrace.methods.circuits.module_facts import module_facts
from vlmtrace.methods.circuits.place_card import PlaceCard, records
from vlmtrace.methods.circuits.run_facts import run_facts
from vlmtrace.methods.patching import Patch

#: The imports of the code that a card gives.
IMPORTS = (
    "import pandas as pd",
    "from vlmtrace.display import Example",
    "from vlmtrace.methods.patching import DIRECTIONS, Patch, ablate, intervene",
)

#: So many positions are drawn in a figure, those with the largest effects.
MOST_DRAWN = 16


class HeadCanvas(BrowserCanvas):
    """The card of a head: image and tokens, numbers, buttons."""

    _esm = script(Path(__file__).with_suffix(".js"))

    weights = traitlets.Bytes(b"").tag(sync=True)
    numbers = traitlets.Dict().tag(sync=True)
    query = traitlets.Int(-1).tag(sync=True)


class ModuleCanvas(BrowserCanvas):
    """The card of a module: effects at each token and patch, numbers, buttons."""

    _esm = script(Path(__file__).with_name("module_card.js"))

    numbers = traitlets.Dict().tag(sync=True)


class HeadCard(PlaceCard):
    """What is known of the head that is selected.

    Attributes:
        canvas: query: the row that is looked from; −1: the mean over all
        found: the head's attention; None: none is selected, or it has none
    """

    title, name, order = "Head", "head", 10
    kinds = ("head",)
    canvas: HeadCanvas

    def new_canvas(self) -> HeadCanvas:
        """The canvas of a head."""
        self.found: HeadAttention | None = None
        return HeadCanvas()

    def load(self) -> None:
        """Show attention and what the run says at once, then the effects here."""
        self.found, self.numbers, self.knocked_out = None, {}, None
        chosen = self.selected
        if chosen is None or chosen.kind != "head":
            self.canvas.numbers = {}
            self.canvas.state = {"title": "Head", "say": "Click a head in any view: its card opens here."}
            return
        state: dict[str, Any] = {
            "title": head_name(chosen.module, self.patch.layer, self._number), "label": chosen.label,
            "block": readable(chosen.block), "say": "", "refused": "", "queries": [], "keys": [], "patches": [],
            "boxes": [], "example": f"{id(self.example)}",
        }  # fmt: skip
        try:
            self.found = found = self._attention()
        except VlmtraceError as error:
            state["refused"] = str(error)
        else:
            state |= {
                "queries": found.queries["token"].astype(str).tolist(),
                "keys": found.keys["token"].astype(str).tolist(),
                "patches": found.patches.tolist(), "boxes": found.boxes.round(6).tolist(),
            }  # fmt: skip
        with self.canvas.hold_sync():
            self.canvas.numbers = {}
            self.canvas.query = -1
            self.canvas.weights = b"" if self.found is None else self.found.weights.astype("<f4").tobytes()
            self.canvas.picture = png(self.example.image)
            self.canvas.state = state
        self.tell(self._over_the_run() | self.here())

    @property
    def patch(self) -> Patch:
        """The selected head at all positions."""
        chosen = self.computed(self.selected)
        assert chosen.layer is not None and chosen.head is not None  # it is a head
        return Patch(chosen.block, chosen.module, chosen.layer, None, (chosen.head,))

    @property
    def _number(self) -> int:
        return (self.patch.heads or (0,))[0]

    def _attention(self) -> HeadAttention:
        return self.example.keep(("head card", self.patch), lambda: head_attention(self.session, self.selected))

    def rivals(self) -> list[Patch]:
        """All heads of the module, in all layers, each at all positions together."""
        block, module = self.patch.block, self.patch.module
        every = self.session.model.blocks[block].every_head
        return [Patch(block, module, layer, None, (number,)) for layer, number in every]

    def _over_the_run(self) -> dict[str, Any]:
        head, run = self.patch, self.session.run
        place = (head.block, head.module, head.layer, self._number)
        try:
            facts = run_facts(run, self.session.model.name, place)
        except VlmtraceError as error:
            return {"runRefused": str(error)}
        return {
            "runRefused": facts.refused, "run": "" if run is None else run.name, "means": records(facts.effects),
            "functions": records(facts.functions), "pairs": self.pairs_to_open(facts.pairs),
        }  # fmt: skip

    # Exports --------------------------------------------------------

    @property
    def table(self) -> pd.DataFrame:
        """One row per query and key: query, query_token, key, key_token, attention."""
        found = self.computed(self.found)
        query, key = (index.ravel() for index in np.indices(found.weights.shape))
        columns = {"position": "", "token": "_token"}
        table = {f"query{end}": found.queries[name].to_numpy()[query] for name, end in columns.items()}
        table |= {f"key{end}": found.keys[name].to_numpy()[key] for name, end in columns.items()}
        return pd.DataFrame(table | {"attention": found.weights.ravel()})

    def figure(self) -> Figure:
        """Attention from each token of the text to each key, the image's patches in sum."""
        title = f"{self.example.question}: {self.computed(self.selected).label}"
        return draw_attention(self.computed(self.found), title)

    def code(self) -> str:
        """Lines that give the head's attention, its effects in this pair, and the answer without it."""
        head = self.patch
        lines = [
            *missing_columns(self.example),
            f"head = {head!r}",
            "weights = model.attention(Example(model, pair).inputs(), head.block, head.module)"
            f"[{head.layer}, 0, {self._number}]",
            *self.code_of_effects("head"),
        ]
        return preamble(self.example, *IMPORTS) + "\n".join(lines)


class ModuleCard(PlaceCard):
    """What is known of the module of a layer that is selected, such as an mlp, at the selected positions.

    Attributes:
        effects: one row per position of the block: position, token, token_role, patching_effect; None: none is selected
            or there is nothing to patch
    """

    title, name, order = "Module", "module", 20
    kinds = ("module",)
    canvas: ModuleCanvas

    def new_canvas(self) -> ModuleCanvas:
        """The canvas of a module."""
        self.effects: pd.DataFrame | None = None
        return ModuleCanvas()

    def load(self) -> None:
        """Show what the module does at the selected positions, at each position, and over the run."""
        self.effects, self.numbers, self.knocked_out = None, {}, None
        chosen = self.selected
        if chosen is None or chosen.kind != "module":
            self.canvas.numbers = {}
            self.canvas.state = {"title": "Module", "say": "Click a module in any view: its card opens here."}
            return
        tokens = self.example.tokens(chosen.block)
        lost = [position for position in chosen.positions or () if position >= len(tokens)]
        if lost:
            self.canvas.numbers = {}
            self.canvas.state = {
                "title": "Module",
                "say": f"This question has no position {lost[0]} in the {readable(chosen.block)}: choose another one.",
            }
            return
        state: dict[str, Any] = {
            "title": f"{readable(chosen.module)}, layer {chosen.layer}", "label": chosen.label,
            "block": readable(chosen.block), "say": "", "example": f"{id(self.example)}",
            "at": [f"{tokens['token'].iloc[i]} ({i})" for i in chosen.positions or ()],
            "words": [], "patches": [], "boxes": [],
        }  # fmt: skip
        # Numbers of the place before never stand below the name of this one.
        with self.canvas.hold_sync():
            self.canvas.numbers = {}
            self.canvas.picture = png(self.example.image)
            self.canvas.state = state
        here = self.here()
        if "hereRefused" not in here:
            self.canvas.state = state | self._placed(tokens)
        self.tell(here)
        self.tell(here | self._over_the_run(tokens))

    def _placed(self, tokens: pd.DataFrame) -> dict[str, Any]:
        """The effect at each position by itself: of words, and of patches of the image with their places."""
        patch, example = self.patch, self.example
        single = [patch._replace(positions=(int(position),)) for position in tokens["position"]]
        effects = self.effects_of(single)
        self.effects = tokens.assign(patching_effect=effects)
        at_image = example.image_positions(patch.block)
        plain = [float(effect) if np.isfinite(effect) else None for effect in effects]
        words = np.flatnonzero(~at_image) if at_image.any() else np.arange(len(tokens))
        found = {"words": [[str(tokens["token"].iloc[i]), plain[i]] for i in words], "patches": [], "boxes": []}
        if at_image.any():
            boxes = example.cells(patch.block)
            placed = ~np.isnan(boxes).any(axis=1)
            found["patches"] = [plain[i] for i in at_image.nonzero()[0][placed]]
            found["boxes"] = boxes[placed].round(6).tolist()
        return found

    @property
    def patch(self) -> Patch:
        """The selected module, at the selected positions."""
        chosen = self.computed(self.selected)
        assert chosen.layer is not None  # it is a module of a layer
        return Patch(chosen.block, chosen.module, chosen.layer, chosen.positions)

    def rivals(self) -> list[Patch]:
        """The same module in all layers that have it, at the same positions."""
        patch = self.patch
        block = self.session.model.blocks[patch.block]
        layers = [layer for layer in range(block.n_layers) if block.has(patch.module, layer)]
        return [patch._replace(layer=layer) for layer in layers]

    def _over_the_run(self, tokens: pd.DataFrame) -> dict[str, Any]:
        patch, run = self.patch, self.session.run
        roles = None if patch.indices is None else sorted(set(tokens["token_role"].iloc[list(patch.indices)]))
        try:
            facts = module_facts(run, self.session.model.name, (patch.block, patch.module, patch.layer), roles)
        except VlmtraceError as error:
            return {"runRefused": str(error)}
        return {
            "runRefused": facts.refused, "run": "" if run is None else run.name, "means": records(facts.effects),
            "pairs": self.pairs_to_open(facts.pairs),
        }  # fmt: skip

    # Exports --------------------------------------------------------

    @property
    def table(self) -> pd.DataFrame:
        """One row per position, patched by itself: position, token, token_role, patching_effect."""
        return self.computed(self.effects)

    def figure(self) -> Figure:
        """Effects of the positions where the module does most."""
        title = f"{self.example.question}: {self.computed(self.selected).label}"
        return _draw_effects(self.table, title)

    def code(self) -> str:
        """Lines that give the module's effects in this pair, and the answer without it."""
        lines = [*missing_columns(self.example), f"place = {self.patch!r}", *self.code_of_effects("place")]
        return preamble(self.example, IMPORTS[0], IMPORTS[2]) + "\n".join(lines)


@paper_style
def _draw_effects(effects: pd.DataFrame, title: str) -> Figure:
    strongest = effects["patching_effect"].abs().nlargest(MOST_DRAWN).index
    shown = effects.loc[strongest].sort_values("position", ascending=False)
    figure = new_figure(height=1 + 0.2 * len(shown))
    axes = figure.subplots()
    names = [f"{row.token} ({row.position})" for row in shown.itertuples()]
    axes.barh(range(len(shown)), shown["patching_effect"], color="0.4")
    axes.axvline(0, color="0.2", linewidth=0.8)
    axes.set_yticks(range(len(shown)), names)
    axes.set(xlabel="patching effect at one position", title=title)
    return figure
