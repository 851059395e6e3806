"""Head card: what one head looks at, what it does here and over a run, and what becomes of the answer without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display.selection import Selection
from vlmtrace.display.session import Session
from vlmtrace.display.style import ATTENTION, new_figure, paper_style
from vlmtrace.display.view import BrowserCanvas, View, png, script
from vlmtrace.display.wording import head_name, readable
from vlmtrace.methods.circuits.run_facts import run_facts
from vlmtrace.methods.patching import DIRECTIONS, Patch, ablate
from vlmtrace.methods.patching.intervention import intervene_in, patched_readout
from vlmtrace.methods.patching.metrics import patching_effect

#: Attention of more text tokens than this is not sent: a card has no room for it.
MOST_TOKENS = 160

#: What a pairs table says of a pair, an example of one's own does not, and zero ablation does not depend on.
UNKNOWN = {"task": "own", "category": "own", "correct_first": True}


class HeadAttention(NamedTuple):
    """What one head attends to in the clean run, from the tokens of the text.

    Attributes:
        queries: position, token, token_role of the rows; image tokens are left out
        keys: position, token, token_role of the columns
        weights: (query, key), float32; rows sum to 1
        patches: (patch,), the keys that stand for a place in the image; empty where the head does not see the image
        boxes: (patch, 4): top, left, bottom, right in fractions of the image
    """

    queries: pd.DataFrame
    keys: pd.DataFrame
    weights: np.ndarray
    patches: np.ndarray
    boxes: np.ndarray


class HeadCanvas(BrowserCanvas):
    """The card: image and tokens, numbers, buttons."""

    _esm = script(Path(__file__).with_suffix(".js"))

    weights = traitlets.Bytes(b"").tag(sync=True)
    numbers = traitlets.Dict().tag(sync=True)
    query = traitlets.Int(-1).tag(sync=True)


class HeadCard(View):
    """What is known of the head that is selected.

    Attributes:
        canvas: query: the row that is looked from; −1: the mean over all
        found: the head's attention; None: none is selected, or it has none
        numbers: what it does here, as the browser shows it
        knocked_out: the head's row of `ablate` with nothing in its place; None: not asked for
    """

    title, name, order, pane = "Head", "head", 10, "card"
    kinds = ("head",)

    def build(self) -> list[Any]:
        """Make the canvas; nothing is selected yet."""
        self.canvas = HeadCanvas()
        self.canvas.on_msg(self._receive)
        self.found: HeadAttention | None = None
        self.numbers: dict[str, Any] = {}
        self.knocked_out: dict[str, Any] | None = None
        return [self.canvas]

    def selection_changed(self) -> None:
        """Show the head that is selected now."""
        with self.busy("head" if self.selected is None else f"head {self.selected.short}"):
            self.load()

    def load(self) -> None:
        """Show attention and what the run says at once, then the effects here."""
        self.found, self.numbers, self.knocked_out = None, {}, None
        chosen = self.selected
        if chosen is None or chosen.kind != "head":
            self.canvas.numbers = {}
            self.canvas.state = {"title": "Head", "say": "Click a head in any view: its card opens here."}
            return
        state: dict[str, Any] = {
            "title": head_name(chosen.module, self._head.layer, self._number), "label": chosen.label,
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
        self.numbers = self._over_the_run() | self._here()
        self.canvas.numbers = self.numbers

    # Numbers --------------------------------------------------------

    @property
    def _head(self) -> Patch:
        """The selected head as a patch at all positions."""
        chosen = self.computed(self.selected)
        assert chosen.layer is not None and chosen.head is not None  # it is a head
        return Patch(chosen.block, chosen.module, chosen.layer, None, (chosen.head,))

    @property
    def _number(self) -> int:
        return (self._head.heads or (0,))[0]

    def _attention(self) -> HeadAttention:
        head = self._head
        return self.example.keep(("head card", head), lambda: head_attention(self.session, self.selected))

    @property
    def corruption(self) -> str:
        """The corruption whose gap effects are shares of: that of what is patched, otherwise the example's first."""
        patched = self.session.patched
        offered = self.example.corruptions
        if patched is not None and patched.corruption in offered:
            return patched.corruption
        return next(iter(offered), "image")

    def _here(self) -> dict[str, Any]:
        """Effect of the head in this pair, in both directions, and its rank among the heads of its module."""
        try:
            runs = self.example.runs(self.corruption)
        except VlmtraceError as error:
            return {"hereRefused": str(error)}
        model, head = self.session.model, self._head
        effects = {way: intervene_in(model, runs, [head], way).patching_effect for way in DIRECTIONS}
        every = self.effects_of_module()
        mine = (every["layer"] == head.layer) & (every["head"] == self._number)
        rank = every["patching_effect"].abs().rank(ascending=False, method="min")[mine]
        return {
            "effects": {way: float(effect) if np.isfinite(effect) else None for way, effect in effects.items()},
            "rank": int(rank.iloc[0]) if rank.notna().all() else None, "nHeads": len(every),
            "corruption": self.corruption, "module": readable(head.module), "ofBlock": readable(head.block),
        }  # fmt: skip

    def effects_of_module(self) -> pd.DataFrame:
        """Effects in this pair of each head of the selected one's module, at all positions together.

        Returns:
            one row per head: layer, head, patching_effect
        """
        head, corruption = self._head, self.corruption
        runs, model = self.example.runs(corruption), self.session.model

        def compute() -> pd.DataFrame:
            places = model.blocks[head.block].every_head
            sets = [[Patch(head.block, head.module, layer, None, (number,))] for layer, number in places]
            differences = patched_readout(model, runs, sets).logit_diff.flatten().cpu().numpy()
            clean, corrupt = (float(r.logit_diff) for r in (runs.clean_readout, runs.corrupt_readout))
            table = pd.DataFrame(places, columns=["layer", "head"])
            return table.assign(patching_effect=patching_effect(differences, clean, corrupt))

        return self.example.keep(("heads of a module", corruption, head.block, head.module), compute)

    def _over_the_run(self) -> dict[str, Any]:
        head = self._head
        try:
            facts = run_facts(
                self.session.run,
                self.session.model.name,
                (head.block, head.module, head.layer, self._number),
            )
        except VlmtraceError as error:
            return {"runRefused": str(error)}
        return {
            "runRefused": facts.refused, "run": "" if self.session.run is None else self.session.run.name,
            "means": _records(facts.effects), "functions": _records(facts.functions),
            "pairs": [row | {"opens": self._opens(row)} for row in _records(facts.pairs)],
        }  # fmt: skip

    def _opens(self, row: dict[str, Any]) -> str | None:
        """The session's name of a pair of the run; None where the explorer does not offer it."""
        known = set(self.session.pairs["sample_id"].astype(str))
        return next(
            (name for name in (f"{row['task']}/{row['sample_id']}", str(row["sample_id"])) if name in known), None
        )

    def knock_out(self) -> None:
        """Take the head away from the clean run, with nothing in its place, and show what becomes of the answer."""
        correct, incorrect = self.example.options
        frame = self.example.frame().assign(correct_answer=correct, incorrect_answer=incorrect)
        frame = frame.assign(**{key: value for key, value in UNKNOWN.items() if key not in frame})
        row = ablate(self.session.model, frame, [self._head], method="zero", corruption=self.corruption).iloc[0]
        clean = float(self.example.runs(self.corruption).clean_readout.logit_diff)
        self.knocked_out = {
            "before": clean, "after": clean + float(row["logit_diff"]), "pCorrect": float(row["p_correct"]),
            "effect": float(row["patching_effect"]) if np.isfinite(row["patching_effect"]) else None,
        }  # fmt: skip
        self.numbers = {**self.numbers, "knockedOut": self.knocked_out}
        self.canvas.numbers = self.numbers

    def _receive(self, _widget: Any, message: dict, _buffers: Any) -> None:
        with self.busy(str(message.get("activity", "head"))):
            label = self.computed(self.selected).label
            match message.get("do"):
                case "knock out":
                    self.knock_out()
                case "patch":
                    self._open("Patch", {"also": label})
                case "attention":
                    self._open("Attention", {"head": label})
                case "pair":
                    self.session.choose(str(message["pair"]))

    def _open(self, title: str, settings: dict[str, str]) -> None:
        if not self.session.open(title, settings):
            raise VlmtraceError(f"There is no view {title} beside this card: open the explorer (app.explorer).")

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
        return _draw(self.computed(self.found), f"{self.example.question}: {self.computed(self.selected).label}")

    def code(self) -> str:
        """Lines that give the head's attention, its effects in this pair, and the answer without it."""
        head, imports = self._head, ("import pandas as pd", "from vlmtrace.display import Example")
        lines = [
            *self.missing_columns(),
            f"head = {head!r}",
            "weights = model.attention(Example(model, pair).inputs(), head.block, head.module)"
            f"[{head.layer}, 0, {self._number}]",
            f"run = {{'corruption': {self.corruption!r}}}",
            "outcomes = {way: intervene(model, pair, [head], direction=way, **run) for way in DIRECTIONS}",
            "effects = {way: outcome.patching_effect for way, outcome in outcomes.items()}",
            f"frame = pd.DataFrame([{UNKNOWN!r} | pair])",
            "knocked_out = ablate(model, frame, [head], method='zero', **run)",
            "print(effects)",
            "knocked_out",
            "",
        ]
        return self.preamble(*imports, "from vlmtrace.methods.patching import DIRECTIONS, Patch, ablate, intervene") + (
            "\n".join(lines)
        )


def head_attention(session: Session, chosen: Selection | None) -> HeadAttention:
    """Attention of a head in the clean run of a session's example, from the tokens of the text.

    Args:
        session: whose example
        chosen: a head

    Raises:
        VlmtraceError: the head's module gives no attention weights, or the prompt is too long to be drawn
    """
    assert chosen is not None and chosen.layer is not None  # it is a head
    model, example = session.model, session.example
    weights = model.attention(example.inputs(), chosen.block, chosen.module)[chosen.layer, 0, chosen.head].cpu().numpy()
    keys_block = chosen.block
    if chosen.module == "cross_attention":
        # The text encoder looks at the image, and a decoder behind it at what the text encoder made of it.
        keys_block = model.image_block if chosen.block == model.head_block.name else model.head_block.name
    queries, keys = example.tokens(chosen.block), example.tokens(keys_block)
    text = ~example.image_positions(chosen.block)[: len(queries)]
    if text.sum() > MOST_TOKENS:
        raise VlmtraceError(
            f"The prompt has {int(text.sum())} tokens, more than the {MOST_TOKENS} that a card draws: look at it in "
            "Attention."
        )
    at_image = example.image_positions(keys_block)
    patches, boxes = np.empty(0, dtype=int), np.empty((0, 4))
    if at_image.any():
        cells = example.cells(keys_block)
        placed = ~np.isnan(cells).any(axis=1)
        patches, boxes = at_image.nonzero()[0][placed], cells[placed]
    return HeadAttention(queries[text].reset_index(drop=True), keys, weights[text], patches, boxes)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON has them: what is missing is None."""
    plain = table.astype(object).where(table.notna(), None)
    return [
        {key: value.item() if isinstance(value, np.generic) else value for key, value in row.items()}
        for row in plain.to_dict("records")
    ]


@paper_style
def _draw(found: HeadAttention, title: str) -> Figure:
    words = ~np.isin(np.arange(len(found.keys)), found.patches)
    columns = found.keys["token"].astype(str)[words].tolist()
    matrix = found.weights[:, words]
    if len(found.patches):
        matrix = np.column_stack([found.weights[:, found.patches].sum(1), matrix])
        columns = ["image", *columns]
    figure = new_figure(height=3.2)
    axes = figure.subplots()
    shown = axes.imshow(matrix, cmap=ATTENTION, vmin=0, vmax=float(matrix.max()) or 1, aspect="auto")
    axes.set_yticks(range(len(found.queries)), found.queries["token"].astype(str))
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set(xlabel="looked at", ylabel="looks")
    figure.colorbar(shown, ax=axes).set_label("attention")
    figure.suptitle(title)
    return figure
