"""Where each head looks, and who looks at a patch: the view that the browser draws by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display.attention_record import AttentionRecord
from vlmtrace.display.canvas import BrowserCanvas, png
from vlmtrace.display.example import Example
from vlmtrace.display.in_code import preamble
from vlmtrace.display.scripts import script
from vlmtrace.display.selection import Selection, selection
from vlmtrace.display.style import ATTENTION, new_figure, paper_style
from vlmtrace.display.view import View
from vlmtrace.display.wording import readable
from vlmtrace.inputs.image_regions import MASKS, mask_coverage, on_image
from vlmtrace.inputs.pictures import n_images
from vlmtrace.methods.attention.figures import attention_gallery
from vlmtrace.methods.attention.records import places, record_of

#: Attention is sent to the browser once, in this many steps between 0 and the largest weight (16 bits).
LEVELS = 2**16 - 1

#: The browser is sent no more than this; beyond it the view says so.
LARGEST_BYTES = 64 * 2**20

#: A patch shows an object if its mask covers more of the patch than this.
LEAST_COVERED = 0.01


class AttentionCanvas(BrowserCanvas):
    """Tokens, image, map of heads, tokens to tokens, all heads at a glance. What is chosen is known to Python too."""

    _esm = script(Path(__file__).with_suffix(".js"))

    weights = traitlets.Bytes(b"").tag(sync=True)
    matrices = traitlets.Bytes(b"").tag(sync=True)
    layer = traitlets.Int(0).tag(sync=True)
    head = traitlets.Int(0).tag(sync=True)
    queries = traitlets.List(traitlets.Int()).tag(sync=True)
    patches = traitlets.List(traitlets.Int()).tag(sync=True)
    grid = traitlets.Bool(False).tag(sync=True)
    measure = traitlets.Unicode("image").tag(sync=True)


class Attention(View):
    """Attention of every head of the clean run, from any token of prompt and answer, over the image; and back.

    Attributes:
        place: (block, module) whose attention is shown; None: that of the module that looks at the image
        canvas: layer, head, queries (rows of `record.queries`) and patches (rows of `record.boxes`) that are chosen
        record: the arrays, see `Example.attention`
    """

    title, name, order = "Attention", "attention", 10
    note = (
        "Where a head looks in the clean run is what it <i>reads</i>; what that does to the answer is shown by "
        "patching it (view Patch)."
    )

    def build(self) -> list[Any]:
        """Make the canvas of tokens, image, map of heads and gallery."""
        self.canvas = AttentionCanvas()
        self.canvas.on_msg(self._receive)
        self.place: tuple[str, str] | None = None
        self._restored: Selection | None = None
        self.record: AttentionRecord | None = None
        return [self.canvas]

    def load(self) -> None:
        """Read the attention of the example and send it, in steps of 16 bits."""
        example, before = self.example, self.record
        if self._shown is not example:
            self.record = None  # until this example's is read
        main = places(example.model)[0]
        record = record_of(example, *(self.place or main))
        question, through = example.answer_attention()
        is_main = (record.block, record.module) == main
        chosen: dict[str, Any] = {"layer": 0, "head": 0, "queries": [_first_query(record)], "patches": []}
        if before is not None and before[:2] == record[:2] and before.weights.shape[:2] == record.weights.shape[:2]:
            # The same head of another example: what one compares when one goes through pairs.
            chosen |= {"layer": self.canvas.layer, "head": self.canvas.head}
        else:
            strongest = record.weights[:, :, chosen["queries"][0], record.patches].sum(-1)
            chosen["layer"], chosen["head"] = map(int, np.unravel_index(strongest.argmax(), strongest.shape))
            # Cross-attention goes to the image and nowhere else but [CLS]: its sum tells heads hardly apart.
            chosen["measure"] = "image" if is_main and record.block == example.model.image_block else "peak"
        if self._restored is not None:
            chosen |= {"layer": self._restored.layer, "head": self._restored.head}
            self._restored = None
        if record.weights.size * 2 > LARGEST_BYTES:
            raise VlmtraceError(
                f"The attention of {self.example.model.name} has {record.weights.size:,} weights, more than a browser "
                "draws at once: look at single heads with vlmtrace.methods.attention.explorers.attention_explorer."
            )
        scale = float(record.weights.max()) / LEVELS
        weights = np.rint(record.weights / scale).astype("<u2")
        words = question.weights.mean(axis=1)
        state = {
            "example": f"{id(self.example)}",
            "layers": weights.shape[0], "heads": weights.shape[1], "keys": weights.shape[3], "scale": scale,
            "queries": [_token(row) for row in record.queries.to_dict("records")],
            "regions": _regions(example, record.boxes), "keyTokens": record.keys["token"].astype(str).tolist(),
            "places": [[".".join(place), _said(place)] for place in places(example.model)],
            "place": f"{record.block}.{record.module}",
            "patches": record.patches.tolist(), "boxes": record.boxes.round(6).tolist(),
            "steps": question.queries["token"].tolist() if is_main else [],
            "words": question.keys["token"].tolist() if is_main else [],
            "through": question.block != record.block,
        }  # fmt: skip
        matrices = np.concatenate([words.ravel(), through.ravel()]).astype("<f4").tobytes()
        self.record = record
        with self.canvas.hold_sync():
            self.canvas.weights, self.canvas.matrices = weights.tobytes(), matrices
            self.canvas.picture = png(self.example.image)
            for name, value in chosen.items():
                setattr(self.canvas, name, value)
            self.canvas.state = state

    def selection_changed(self) -> None:
        """Go to the head that is selected, if this view shows heads of its kind."""
        chosen = self.selected
        if chosen is None or chosen.layer is None or chosen.head is None:
            return
        if (chosen.block, chosen.module) != self._shown_place:
            if (chosen.block, chosen.module) not in places(self.example.model):
                return
            place = chosen.block, chosen.module
            with self.busy("attention"), self.attributes_set(place=place, _restored=chosen):
                self.load()
        elif (self.canvas.layer, self.canvas.head) != (chosen.layer, chosen.head):
            self.canvas.layer, self.canvas.head = chosen.layer, chosen.head

    @property
    def _shown_place(self) -> tuple[str, str]:
        return self.place or places(self.example.model)[0]

    @property
    def settings(self) -> dict[str, str]:
        """The head that is looked at, where it is of another module than at first."""
        if self.record is None or self.place in (None, places(self.example.model)[0]):
            return {}
        return {"head": ".".join([*self.place, str(self.canvas.layer), str(self.canvas.head)])}

    @checked
    def restore(self, settings: Mapping[str, str]) -> None:
        """Look at the head of an address.

        Args:
            settings: head: its name, as `vt.edges` has it
        Raises:
            VlmtraceError: the model has no such head, or its attention cannot be looked at
        """
        if "head" not in settings:
            return
        chosen = selection(self.session.model, settings["head"])
        known = places(self.session.model)
        if chosen.head is None or (chosen.block, chosen.module) not in known:
            raise VlmtraceError(f"{chosen.label} is no head that attends: give one such as {'.'.join(known[0])}.0.0.")
        with self.attributes_set(place=(chosen.block, chosen.module), _restored=chosen):
            if self._shown is self.example:
                self.load()

    @checked
    def look_at(self, block: str, module: str) -> None:
        """Show the attention of another module, see `records.places`.

        Args:
            block: e.g. "vision_encoder"
            module: e.g. "self_attention"
        Raises:
            VlmtraceError: it cannot be looked at; what was shown stays
        """
        with self.attributes_set(place=(block, module)):
            self.load()
        self.settings_changed()

    def _receive(self, _widget: Any, message: dict, _buffers: Any) -> None:
        with self.busy("attention"), self.drawn_again_on_failure():
            match message.get("do"):
                case "place":
                    block, _, module = str(message["place"]).partition(".")
                    self.look_at(block, module)
                case "select":
                    self.session.select(str(message["place"]))

    # Numbers --------------------------------------------------------

    @property
    def table(self) -> pd.DataFrame:
        """One row per layer, head and query: image_attention and patch_attention.

        image_attention is the share on the image's patches; patch_attention that on the chosen patches, missing where
        none is chosen. Beside them: block, module, layer, head, position, token, token_role (of the query).
        """
        record = self.computed(self.record)
        on_patches = record.weights[..., record.patches].astype(float)
        layer, head, query = (index.ravel() for index in np.indices(on_patches.shape[:3]))
        tokens = record.queries.iloc[query].reset_index(drop=True)
        table = pd.DataFrame({"block": record.block, "module": record.module, "layer": layer, "head": head})
        table = pd.concat([table, tokens], axis=1).assign(image_attention=on_patches.sum(-1).ravel())
        chosen = list(self.canvas.patches)
        return table.assign(patch_attention=on_patches[..., chosen].sum(-1).ravel() if chosen else np.nan)

    @property
    def overlay(self) -> np.ndarray:
        """(patch,) or, without any, (key,): attention of the chosen head, mean over the chosen tokens."""
        record, canvas = self.computed(self.record), self.canvas
        rows = record.weights[canvas.layer, canvas.head][list(canvas.queries)]
        return (rows[:, record.patches] if self._sees_image else rows).mean(axis=0)

    @property
    def _sees_image(self) -> bool:
        return len(self.computed(self.record).patches) > 0

    def figure(self) -> Figure:
        """The heads of the chosen layer by image attention, from the chosen tokens; at most six.

        Of a module that looks at words alone: the chosen head from each token to each.
        """
        record, canvas = self.computed(self.record), self.canvas
        if not self._sees_image:
            title = f"{readable(record.block)} {readable(record.module)} {canvas.layer}.{canvas.head}"
            return _draw_tokens(record, canvas.layer, canvas.head, title)
        rows = record.weights[canvas.layer][:, list(canvas.queries)][..., record.patches].mean(axis=1)
        order = [head for head in rows.sum(-1).argsort()[::-1] if head != canvas.head]
        shown = [canvas.head, *order[:5]]
        grids = on_image(rows[shown], record.boxes)
        pairs = pd.DataFrame([self.example.pair | {"clean_image": self.example.image}])
        names = " + ".join(record.queries["token"].iloc[list(canvas.queries)])
        return attention_gallery(pairs, grids[None], [f"head {canvas.layer}.{head}" for head in shown], [names])

    def code(self) -> str:
        """Lines that give the attention of the chosen head from the chosen tokens."""
        canvas = self.canvas
        imports = ("from vlmtrace.display import Example", "from vlmtrace.methods.attention.records import record_of")
        return preamble(self.example, *imports) + (
            "record = record_of(Example(model, pair), {!r}, {!r})\n".format(*self._shown_place)
            + f"rows = record.weights[{canvas.layer}, {canvas.head}][{list(canvas.queries)}]\n"
            + ("row = rows[:, record.patches].mean(axis=0)\n" if self._sees_image else "row = rows.mean(axis=0)\n")
            + (f"print(row[{list(canvas.patches)}].sum())  # on the chosen patches\n" if canvas.patches else "")
            + (
                "print(row.sum())  # on the image\n"
                if self._sees_image
                else "print(dict(zip(record.keys.token, row)))\n"
            )
        )


@paper_style
def _draw_tokens(record: AttentionRecord, layer: int, head: int, title: str) -> Figure:
    """From each token of the text to each key."""
    matrix = record.weights[layer, head]
    figure = new_figure(height=3.2)
    axes = figure.subplots()
    shown = axes.imshow(matrix, cmap=ATTENTION, vmin=0, vmax=float(matrix.max()) or 1, aspect="auto")
    axes.set_yticks(range(len(record.queries)), record.queries["token"].astype(str))
    keys = record.keys["token"].astype(str)
    axes.set_xticks(range(len(keys)), keys, rotation=45, ha="right", rotation_mode="anchor")
    axes.set(xlabel="looked at", ylabel="looks")
    figure.colorbar(shown, ax=axes).set_label("attention")
    figure.suptitle(title)
    return figure


def _regions(example: Example, boxes: np.ndarray) -> dict[str, list[int]]:
    """Patches that show any of the object asked about, and of the distractor, where masks tell."""
    if not len(boxes) or n_images(example.pair) > 1:
        return {}
    covered = {name: mask_coverage(example.pair, column, boxes) for name, column in MASKS.items()}
    return {
        name: np.flatnonzero(share > LEAST_COVERED).tolist()
        for name, share in covered.items()
        if (share > LEAST_COVERED).any()
    }


def _said(place: tuple[str, str]) -> str:
    """A module as a list of choices names it."""
    block, module = place
    return f"{readable(block)}: {readable(module)}"


def _first_query(record: AttentionRecord) -> int:
    """The token that one looks at first: the correct option, or the last of the prompt."""
    roles = record.queries["token_role"].tolist()
    for role in ("correct", "noun", "last"):
        if role in roles:
            return roles.index(role)
    return len(roles) - 1


def _token(row: dict) -> dict[str, Any]:
    role = "" if row["token_role"] == row["token"] else str(row["token_role"])
    return {
        "text": row["token"], "role": role, "position": int(row["position"]), "gap": role == "answer",
        "title": f"position {row['position']}: {row['token']}" + (f" ({role})" if role else ""),
    }  # fmt: skip
