"""Causal graph: tokens around the answer in a layer's attention, and the fewest whose masking changes the answer."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import traitlets
from matplotlib.figure import Figure

from vlmtrace.display.canvas import BrowserCanvas, png
from vlmtrace.display.in_code import preamble
from vlmtrace.display.panels import image_panel
from vlmtrace.display.scripts import script
from vlmtrace.display.style import new_figure, paper_style
from vlmtrace.display.view import View
from vlmtrace.inputs.pictures import given_images
from vlmtrace.methods.explanation.search import Explanation, GraphOptions, explain

#: What the sliders offer.
ALPHAS = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.2)
THRESHOLDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
RADII = (1, 2, 3, 4, 5)


class CausalCanvas(BrowserCanvas):
    """The image with the tokens of a head's graph, the graph, and what masking does."""

    _esm = script(Path(__file__).with_suffix(".js"))

    head = traitlets.Int(0).tag(sync=True)


class CausalView(View):
    """The causal graph of a layer's attention, and the explanation that it leads to (`search`).

    Attributes:
        layer, step, options: what is computed; None: the last layer
        found: the graphs of all heads and the explanation; None before the view is shown
    """

    title, name, order, more = "Causal graph", "causal", 30, True
    note = (
        "Tokens that are linked in one head's attention (after CLEANN, Rohekar et al. 2023; by FCI, where the paper "
        "uses ICD). From the answer outwards, sets of them are masked until the model's answer changes; then as many "
        "others are, at random. A random search says whether the graph was needed to find the set. The graph describes "
        "an attention matrix; only the masking is a finding about the model."
    )

    def build(self) -> list[Any]:
        """Make the canvas of the image, the graph and the table of maskings."""
        self.canvas = CausalCanvas()
        self.canvas.on_msg(self._receive)
        self.layer = self.session.model.head_block.n_layers - 1
        self.step = 0
        self.options = GraphOptions()
        self.found: Explanation | None = None
        return [self.canvas]

    def load(self) -> None:
        """Show the image and the settings; the graphs take seconds, and are computed when they are asked for."""
        self.found = None
        self.step = min(self.step, len(self.example.answer().ids) - 1)
        if self._key in self._asked:
            self.compute()
        else:
            self._send(waits=True)

    def compute(self, **changed: Any) -> Explanation:
        """Compute with other settings.

        Args:
            changed: layer, step, or fields of `options` (see `GraphOptions`)

        Returns:
            the explanation, also in `found`
        Raises:
            VlmtraceError: no head of the layer has a graph
        """
        example = self.example
        self.layer, self.step = (int(changed.pop(name, getattr(self, name))) for name in ("layer", "step"))
        self.options = replace(self.options, **changed)
        self.found = None
        self._send()  # the picture and what is being computed, before the graphs are there
        try:
            self.found = example.keep(
                self._key,
                lambda: explain(
                    example.model,
                    given_images(example.pair),
                    example.question,
                    answer=example.answer().ids,
                    step=self.step,
                    layer=self.layer,
                    options=self.options,
                ),
            )
        except Exception:
            self._send(waits=True)  # nothing is being computed any more
            raise
        self._asked.add(self._key)
        if self.canvas.head not in self.found.graphs:
            self.canvas.head = min(self.found.graphs)
        if self.found.head is not None:
            self.canvas.head = self.found.head
        self._send()
        return self.found

    @property
    def _asked(self) -> set[tuple[Any, ...]]:
        """What has been computed of the example."""
        return self.example.keep("causal graphs that were asked for", set)

    @property
    def _key(self) -> tuple[Any, ...]:
        return ("causal graph", self.layer, self.step, *asdict(self.options).values())

    def _receive(self, _widget: Any, message: dict, _buffers: Any) -> None:
        with self.busy("causal graph"):
            self.compute(**{key: value for key, value in message.items() if key != "do"})

    def _send(self, waits: bool = False) -> None:
        """Draw what is there.

        Args:
            waits: nothing is being computed, until somebody asks for it
        """
        example, found = self.example, self.found
        boxes = example.cells(example.model.image_block)
        placed = ~np.isnan(boxes).any(axis=1)
        state: dict[str, Any] = {
            "example": f"{id(example)}", "answer": example.answer().tokens, "step": self.step,
            "layer": self.layer, "layers": example.model.head_block.n_layers,
            "alpha": self.options.alpha, "threshold": self.options.threshold, "radius": self.options.radius,
            "alphas": ALPHAS, "thresholds": THRESHOLDS, "radii": RADII,
            "boxes": np.where(placed[:, None], boxes, 0).round(6).tolist(), "graphs": None, "waits": waits,
        }  # fmt: skip
        if found is not None:
            state |= {
                "graphs": {str(head): _graph(graph) for head, graph in found.graphs.items()},
                "refused": {str(head): why for head, why in found.refused.items()},
                "nearest": _nearest(found), "masked": _names(found.masked),
                "becomes": found.becomes, "sentence": str(found),
                "probability": found.probability, "tried": len(found.tried), "untried": found.untried,
                "randomChanged": int(found.random["changed"].sum()) if len(found.random) else 0,
                "random": len(found.random), "tokens": found.masked["kind"].tolist(),
                "after": None if found.head is None else float(found.minimal["probability"].iloc[0]),
                "minimal": found.minimal["tokens"].tolist(), "tries": found.tries,
                "blindChance": None if np.isnan(found.blind_chance) else found.blind_chance,
                "randomMean": float(found.random["probability"].mean()) if len(found.random) else None,
            }  # fmt: skip
        with self.canvas.hold_sync():
            self.canvas.picture = png(example.image)
            self.canvas.state = state

    # Numbers --------------------------------------------------------

    @property
    def table(self) -> pd.DataFrame:
        """What was masked and what came of it.

        One row per masking: part ("none", "search", "random"), head, size, distance, tokens, answer, probability (of
        the answer explained), changed.
        """
        found = self.computed(self.found)
        none = {"part": "none", "size": 0, "answer": found.answer, "probability": found.probability, "changed": False}
        parts = [pd.DataFrame([none])]
        parts += [
            table.assign(part=part)
            for part, table in (("search", found.tried), ("random", found.random.assign(size=len(found.masked))))
            if len(table)
        ]
        columns = ["part", "head", "size", "distance", "tokens", "answer", "probability", "changed"]
        table = pd.concat(parts, ignore_index=True).reindex(columns=columns)
        return table.astype({"head": "Int64", "size": "Int64"})

    @property
    def edges(self) -> pd.DataFrame:
        """Edges of all heads' graphs.

        One row per edge: layer, head, source, target (tokens' names), source_mark, target_mark ("tail", "arrow",
        "circle").
        """
        parts = []
        for head, graph in self.computed(self.found).graphs.items():
            names = graph.tokens["kind"] + " " + graph.tokens["token"]
            edges = graph.edges.assign(layer=graph.layer, head=head)
            parts.append(edges.assign(source=edges["source"].map(names), target=edges["target"].map(names)))
        columns = ["layer", "head", "source", "target", "source_mark", "target_mark"]
        return pd.concat(parts, ignore_index=True)[columns]

    def figure(self) -> Figure:
        """The image with the tokens of the chosen head's graph, and the probability under each masking."""
        return _draw(self)

    def code(self) -> str:
        """Lines that run the same search."""
        options = ", ".join(f"{name}={value!r}" for name, value in asdict(self.options).items())
        return preamble(self.example, "from vlmtrace.methods.explanation.search import GraphOptions, explain") + (
            f"options = GraphOptions({options})\n"
            f'found = explain(\n    model, {self.example.images_in_code}, pair["clean_prompt"],\n'
            f"    answer={self.example.answer().ids}, step={self.step}, layer={self.layer}, options=options,\n)\n"
            "print(found)\nfound.tried\n"
        )


def _nearest(found: Explanation) -> dict[str, Any] | None:
    """How near the search came where it found no set."""
    row = found.nearest
    if row is None or found.head is not None:
        return None
    return {"tokens": str(row["tokens"]), "probability": float(row["probability"])}


def _names(tokens: pd.DataFrame) -> list[str]:
    return [f"{row.kind} {row.token}" for row in tokens.itertuples()]


def _graph(graph: Any) -> dict[str, Any]:
    """A head's graph as the browser draws it; distance null: out of reach."""
    nodes = [
        {
            "kind": row.kind, "token": row.token, "cell": None if pd.isna(row.cell) else int(row.cell),
            "attention": None if pd.isna(row.attention) else float(row.attention),
            "distance": float(row.distance) if np.isfinite(row.distance) else None, "name": f"{row.kind} {row.token}",
        }
        for row in graph.tokens.itertuples()
    ]  # fmt: skip
    columns = ["source", "target", "source_mark", "target_mark"]
    edges = [[int(a), int(b), start, end] for a, b, start, end in graph.edges[columns].itertuples(index=False)]
    return {"nodes": nodes, "edges": edges, "tests": graph.n_tests, "samples": graph.n_samples}


@paper_style
def _draw(view: CausalView) -> Figure:
    """The image with the tokens of the chosen head's graph, and the probability under each masking."""
    found, example = view.computed(view.found), view.example
    figure = new_figure(height=3.2)
    left, right = figure.subplots(1, 2)
    width, height = image_panel(left, example.image)
    graph = found.graphs[view.canvas.head]
    boxes = example.cells(example.model.image_block)
    masked = set(_names(found.masked))
    for row in graph.tokens[graph.tokens["kind"] == "image"].itertuples():
        top, low, bottom, high = boxes[row.cell]
        color = "#d62728" if f"image {row.token}" in masked else "#00e5ff"
        xs, ys = np.array([low, high, high, low, low]) * width, np.array([top, top, bottom, bottom, top]) * height
        left.plot(xs, ys, color=color, linewidth=1.5)
    left.set_title(f"tokens of the graph of head {view.layer}.{view.canvas.head}; red: masked")
    table = view.table
    for part, color in (("search", "0.5"), ("random", "#00a0b0"), ("none", "black")):
        rows = table[table["part"] == part]
        right.plot(rows["size"].astype(float), rows["probability"], "o", color=color, label=part, markersize=4)
    right.set(xlabel="tokens masked", ylabel=f"probability of {found.answer!r}", ylim=(-0.05, 1.05))
    right.legend()
    figure.suptitle(str(found))
    return figure
