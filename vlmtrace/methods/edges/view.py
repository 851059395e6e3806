"""Edges: the strongest edges of one example as a graph; a click on one patches it, a click on a node opens it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from vlmtrace.core.arguments import Count, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.display.canvas import BrowserCanvas, png
from vlmtrace.display.example import Example
from vlmtrace.display.in_code import missing_columns, preamble
from vlmtrace.display.scripts import script
from vlmtrace.display.view import View
from vlmtrace.methods.edges.drawing import drawn_circuit
from vlmtrace.methods.edges.drawn_numbers import alone_as_circuit, together, tokens_below
from vlmtrace.methods.edges.figures import edge_circuit
from vlmtrace.methods.edges.in_address import from_address, in_address
from vlmtrace.methods.edges.in_code import code_of
from vlmtrace.methods.edges.intervention import EdgeOutcome, sent_by, word_of
from vlmtrace.methods.edges.opened import opened_node, plain
from vlmtrace.methods.edges.over_pairs import OverPairs, edges_of_pairs, edges_of_run
from vlmtrace.methods.edges.pair_edges import IMAGE, PairEdges, every_edge, has_few
from vlmtrace.methods.edges.view_state import chosen_state, drawn_state, patched
from vlmtrace.models.edges.nodes import THE_OUTPUT

#: Edges whose effects are shown: of this pair, or the mean over a run's pairs.
SCOPES = ("pair", "run")


class EdgeCanvas(BrowserCanvas):
    """The graph to click on, and beside it what the chosen edges do and what the opened node attends to."""

    _esm = script(Path(__file__).with_suffix(".js"))


class EdgeView(View):
    """Exact effects of single edges as a graph, edges patched together by clicking, nodes that open.

    Attributes:
        corruption: whose run is patched
        scope: "pair": effects in this pair; "run": means over the run's pairs, or a few of the explorer's
        n: how many edges are drawn, the strongest
        patches: of the image, those that are put into the corrupt run together
        chosen: (sender, receiver) of the edges that are patched together
        opened: the node that is open; "": none
        query: the position from which the opened head looks; None: the mean over all
        outcome: what the chosen edges do
    """

    title, name, order, home = "Circuit", "edges", 5, True
    note = (
        "From the image's patches through heads and tokens to the answer. An edge is what one node writes as one later "
        "node reads it. Red: with the clean run's value in it, the corrupt run comes closer to the clean answer; blue: "
        "farther away."
    )

    def build(self) -> list[Any]:
        """Make the canvas; compute nothing yet."""
        self.corruption, self.n, self.scope = "image", 30, SCOPES[0]
        self.patches: list[int] = []
        self._restored: tuple[Example, list[tuple[str, str]], list[int]] | None = None
        self._over: dict[tuple[str, Any], OverPairs] = {}
        self.chosen: list[tuple[str, str]] = []
        self.opened = ""
        self.query: int | None = None
        self.outcome: EdgeOutcome | None = None
        self.canvas = EdgeCanvas()
        self.canvas.on_msg(self._receive)
        return [self.canvas]

    def load(self) -> None:
        """Compute the edges of the example, keeping edges that were chosen and what is opened."""
        example, self.query, self.patches, self.outcome = self.example, None, [], None
        every_edge(example)  # refuses a model whose edges are not known before it is run
        self.corruption = example.corruption_to_patch(self.corruption)
        # A word is chosen by its place in this question: it is none of another one's.
        if self._shown is not None and self._shown is not example:
            self.chosen = [(sender, receiver) for sender, receiver in self.chosen if word_of(sender)[1] is None]
        if self._restored is not None and self._restored[0] is example:
            _, self.chosen, self.patches = self._restored
        self._restored = None
        if self.corruption != IMAGE:
            self.patches = []
        example.runs(self.corruption)  # where this pair has nothing to patch, what is chosen is kept for the next
        try:
            self._run()
        except Exception:
            # What fails here may be what is chosen, and would fail in every other pair, too.
            self.chosen, self.patches, self.opened = [], [], ""
            raise

    @property
    def settings(self) -> dict[str, str]:
        """Corrupt run, scope, number of edges, patched edges and patches of the image, where not as at first."""
        found = {"corruption": self.corruption, "scope": self.scope, **in_address(self.n, self.chosen, self.patches)}
        first = {"corruption": next(iter(self.example.corruptions), "image"), "scope": SCOPES[0], "n": "30"}
        return {key: value for key, value in found.items() if value != first.get(key, "")}

    @checked
    def restore(self, settings: Mapping[str, str]) -> None:
        """Choose what an address says.

        Args:
            settings: as `settings` gave them
        Raises:
            VlmtraceError: a value means nothing here; everything stays as it was
        """
        example = self.example
        # Patches of the image are of the run with the other image, which need not be named where it is the first.
        asked = settings.get("corruption", IMAGE if settings.get("patches") else None)
        known = f"corruption of {example.name}"
        corruption = self.corruption if asked is None else one_of(asked, example.corruptions, known)
        scope = one_of(settings.get("scope", self.scope), SCOPES, "scope")
        n, edges, patches = from_address(example, {"n": str(self.n), **settings}, corruption)
        if self._shown is example:
            self._change(corruption=corruption, scope=scope, n=n, chosen=edges, patches=patches)
        else:
            self.corruption, self.scope, self.n = corruption, scope, n
            self._restored = (example, edges, patches)

    # What can be done --------------------------------------------------------

    @checked
    def choose(self, corruption: str | None = None, n: Count | None = None, scope: str | None = None) -> None:
        """Show the edges of another corrupt run, another number of edges, or means over pairs.

        Args:
            corruption: whose run is patched; None: the same as before
            n: how many edges, the strongest; None: the same as before
            scope: "pair" or "run"; None: the same as before
        Raises:
            VlmtraceError: the example has no such run, or there is no such scope
        """
        new: dict[str, Any] = {} if n is None else {"n": n}
        if scope is not None:
            new["scope"] = one_of(scope, SCOPES, "scope")
        if corruption is not None:
            new["corruption"] = one_of(corruption, self.example.corruptions, f"corruption of {self.example.name}")
            if corruption != IMAGE:
                new["patches"] = []  # they would do nothing there
        self._change(**new)

    @checked
    def toggle(self, sender: str, receiver: str) -> None:
        """Patch an edge together with those that are patched already, or no longer.

        Args:
            sender: as `vt.edges` names it
            receiver: the same
        Raises:
            VlmtraceError: the model has no such edge
        """
        before, edge = self.chosen, (sender, receiver)
        others = [other for other in before if other != edge]
        self._change(chosen=others if edge in before else [*before, edge])

    @checked
    def patch_image(self, patches: list[int]) -> None:
        """Put patches of the clean image into the corrupt run, all together.

        Args:
            patches: as rows of the image's places; none: none
        Raises:
            VlmtraceError: there is no such patch, or no second image
        """
        self._change(patches=sorted(set(patches)))

    def clear(self) -> None:
        """Patch nothing."""
        self._change(chosen=[], patches=[])

    @checked
    def open(self, node: str, query: int | None = None) -> None:
        """Open a node: what enters it, what reads it, and of a head what it attends to.

        Args:
            node: as `vt.edges` names it, without a head's input; "": close
            query: the position from which a head looks; None: the mean over all
        Raises:
            VlmtraceError: the model has no such node
        """
        if node and node not in {edge.sender.label for edge in every_edge(self.example)} | {THE_OUTPUT.label}:
            raise VlmtraceError(f"{self.session.model.name} has no node {node!r}: vt.edges(model) lists them.")
        self._change(opened=node, query=query)

    def _change(self, **new: Any) -> None:
        """Set attributes and draw; where that fails, everything stays as it was."""
        with self.attributes_set(**new):
            self._run()

    def _receive(self, _widget: Any, message: dict, _buffers: Any) -> None:
        with self.busy(str(message.get("activity", "edges"))), self.drawn_again_on_failure():
            match message.get("do"):
                case "choose":
                    self.choose(message.get("corruption"), message.get("n"), message.get("scope"))
                case "patch image":
                    self.patch_image(message["patches"])
                case "toggle":
                    self.toggle(message["sender"], message["receiver"])
                case "open":
                    # What is opened is looked at: a head's card opens, and is there before the graph is drawn anew.
                    self.session.select(message["node"] or None)
                    self.open(message["node"], message.get("query"))
                case "clear":
                    self.clear()

    # Numbers --------------------------------------------------------

    @property
    def numbers(self) -> PairEdges:
        """Effects of the example's edges under the chosen corruption."""
        return PairEdges(self.example, self.corruption)

    def effects(self) -> pd.DataFrame:
        """Exact effects of edges by themselves, see `patch_edges`: all, or what enters the output and opened nodes.

        Returns:
            the edge_patching table of the example
        """
        return self.numbers.whole(self.opened)

    def over_pairs(self) -> OverPairs:
        """Effects of edges in many pairs: those of the run, or of a few pairs of the explorer."""
        model, task = self.session.model, self.example.pair.get("task")
        key = (self.corruption, task)
        if key not in self._over:
            found = edges_of_run(self.session.run, model.name, self.corruption, task)
            into = None if has_few(self.example) else [THE_OUTPUT.label]
            self._over[key] = found or edges_of_pairs(model, self.session.pairs, self.corruption, task, into)
        return self._over[key]

    def _table_drawn(self) -> pd.DataFrame:
        if self.scope == SCOPES[0]:
            return self.numbers.drawn(self.opened)
        return self.over_pairs().table

    @property
    def table(self) -> pd.DataFrame:
        """The edges' effects, and is_patched: whether the edge is one of those that are patched together."""
        effects, chosen = self.numbers.drawn(self.opened), set(self.chosen)
        ends = zip(sent_by(effects["sender"], effects["position"]), effects["receiver"].astype(str), strict=True)
        table = effects if "token" in effects else effects.drop(columns="position")
        return table.assign(is_patched=[edge in chosen for edge in ends])

    # What the browser draws --------------------------------------------------------

    def _run(self) -> None:
        """Compute what is chosen, and only then draw it."""
        example, numbers, scope = self.example, self.numbers, self.scope
        circuit = drawn_circuit(self._table_drawn(), self.n)
        outcome = together(numbers, self.chosen)
        drawn, chosen = drawn_state(numbers, circuit), chosen_state(numbers, self.chosen, self.patches, outcome)
        state = {
            **drawn, **chosen, "image": {**drawn["image"], **chosen["image"]},
            "scope": scope, "source": "" if scope == SCOPES[0] else self.over_pairs().source, "n": self.n,
            "alone": plain(alone_as_circuit(numbers, circuit)),
            "at": tokens_below(numbers, circuit) if scope == SCOPES[0] else {},
            "node": opened_node(example, self.opened, self.query, self.effects()) if self.opened else None,
        }  # fmt: skip
        self.outcome = outcome
        with self.canvas.hold_sync():
            self.canvas.picture = png(example.image)
            self.canvas.state = state
        self._report(state)

    def shown_again(self) -> None:
        """Tell the gauge what is patched here: another view has told its own meanwhile."""
        if self.canvas.state:
            self._report(self.canvas.state)

    def _report(self, state: dict[str, Any]) -> None:
        """Tell the gauge what is patched: patches of the image, or else edges."""
        self.session.report(patched(self.numbers, self.chosen, self.computed(self.outcome), state["image"]))
        self.settings_changed()

    # Exports --------------------------------------------------------

    def figure(self) -> Figure:
        """The graph as `plots.edge_circuit` draws it."""
        correct, _ = self.example.options
        pair = self.example.frame().assign(correct_answer=correct)
        if self.scope != SCOPES[0]:
            return edge_circuit(self.over_pairs().table, None, self.n)
        return edge_circuit(self._table_drawn(), pair, self.n)

    def code(self) -> str:
        """Lines that patch the same edges."""
        tokens = self.numbers.image_tokens() if self.patches else []
        lines = code_of(self.chosen, self.corruption, [tokens[patch] for patch in self.patches])
        imports = "from vlmtrace.methods.edges import intervene_on_edges"
        return preamble(self.example, imports) + "\n".join([*missing_columns(self.example), *lines, ""])
