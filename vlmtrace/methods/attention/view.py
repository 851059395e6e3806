"""Where each head looks, and who looks at a patch: the view that the browser draws by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display.example import AttentionRecord, Example
from vlmtrace.display.view import BrowserCanvas, View, png, script
from vlmtrace.inputs.image_regions import on_image
from vlmtrace.methods.attention.figures import attention_gallery

#: Attention is sent to the browser once, in this many steps between 0 and the largest weight (16 bits).
LEVELS = 2**16 - 1

#: The browser is sent no more than this; beyond it the view says so.
LARGEST_BYTES = 64 * 2**20


class AttentionCanvas(BrowserCanvas):
    """Tokens, image, map of heads and gallery. What is chosen is known to Python too."""

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
        self.record: AttentionRecord | None = None
        return [self.canvas]

    def load(self) -> None:
        """Read the attention of the example and send it, in steps of 16 bits."""
        record = self.example.attention()
        question, through = self.example.answer_attention()
        chosen: dict[str, Any] = {"layer": 0, "head": 0, "queries": [_first_query(record)], "patches": []}
        before = self.record
        if before is not None and before.weights.shape[:2] == record.weights.shape[:2]:
            # The same head of another example: what one compares when one goes through pairs.
            chosen |= {"layer": self.canvas.layer, "head": self.canvas.head}
        else:
            strongest = record.weights[:, :, chosen["queries"][0], record.patches].sum(-1)
            chosen["layer"], chosen["head"] = map(int, np.unravel_index(strongest.argmax(), strongest.shape))
            # Cross-attention goes to the image and nowhere else but [CLS]: its sum tells heads hardly apart.
            chosen["measure"] = "image" if record.block == self.example.model.image_block else "peak"
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
            "regions": _regions(self.example),
            "patches": record.patches.tolist(), "boxes": record.boxes.round(6).tolist(),
            "steps": question.queries["token"].tolist(), "words": question.keys["token"].tolist(),
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
        """(patch,): attention of the chosen head to each patch, mean over the chosen tokens."""
        record, canvas = self.computed(self.record), self.canvas
        return record.weights[canvas.layer, canvas.head][list(canvas.queries)][:, record.patches].mean(axis=0)

    def figure(self) -> Figure:
        """The heads of the chosen layer by image attention, from the chosen tokens; at most six."""
        record, canvas = self.computed(self.record), self.canvas
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
        return self.preamble("from vlmtrace.display import Example") + (
            "record = Example(model, pair).attention()\n"
            f"rows = record.weights[{canvas.layer}, {canvas.head}][{list(canvas.queries)}]\n"
            "row = rows[:, record.patches].mean(axis=0)\n"
            + (f"print(row[{list(canvas.patches)}].sum())  # on the chosen patches\n" if canvas.patches else "")
            + "print(row.sum())  # on the image\n"
        )


def _regions(example: Example) -> dict[str, list[int]]:
    """Patches that show the object asked about and the distractor, where masks tell."""
    model = example.model
    placed = ~np.isnan(example.cells(model.image_block)).any(axis=1)
    found = {name: example.regions.get(name) for name in ("object", "distractor")}
    return {name: chosen[placed].nonzero()[0].tolist() for name, chosen in found.items() if chosen is not None}


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
