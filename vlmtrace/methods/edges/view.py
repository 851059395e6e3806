"""Edges: the strongest edges of one example as a graph; a click on one patches it, a click on a node opens it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from vlmtrace.core.arguments import Count, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.display.session import Patched
from vlmtrace.display.view import BrowserCanvas, View, png, script
from vlmtrace.inputs.token_roles import shows_image
from vlmtrace.methods.edges.drawing import DrawnCircuit, as_records, drawn_circuit, place_of
from vlmtrace.methods.edges.figures import edge_circuit
from vlmtrace.methods.edges.image_patches import image_patch_effects
from vlmtrace.methods.edges.in_address import from_address
from vlmtrace.methods.edges.intervention import EdgeOutcome, intervene_on_edges_in
from vlmtrace.methods.edges.listing import chosen_edges, edge_table, sender_nodes
from vlmtrace.methods.edges.opened import (
    attention_of_drawn,
    block_of,
    opened_node,
    placed_boxes,
    plain,
    tokens_of,
    words_and_patches,
)
from vlmtrace.methods.edges.over_pairs import OverPairs, edges_of_pairs, edges_of_run
from vlmtrace.methods.edges.path_patching import edge_readout, effects_of_pair
from vlmtrace.methods.patching.run_sweep import default_memory, memory_for_states
from vlmtrace.models.edges.carried import Sender
from vlmtrace.models.edges.nodes import THE_OUTPUT, Edge
from vlmtrace.models.edges.wiring import edges_of

#: A model with more edges shows at first what enters its output; what enters a node is computed when it is clicked.
MOST_EDGES = 20_000

#: Edges whose effects are shown: of this pair, or the mean over a run's pairs.
SCOPES = ("pair", "run")

#: What a corruption is called where people choose it.
CORRUPTION = {"image": "the other image", "text": "the other question"}


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
        self._restored: list[int] = []
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
        self.query, self.patches, self._restored = None, self._restored, []
        if self.corruption not in self.example.corruptions:
            self.corruption = next(iter(self.example.corruptions), "image")
        self._run()

    @property
    def settings(self) -> dict[str, str]:
        """Corrupt run, scope, number of edges, patched edges and patches of the image, where not as at first."""
        found = {
            "corruption": self.corruption, "scope": self.scope, "n": str(self.n),
            "edges": ",".join(">".join(edge) for edge in self.chosen), "patches": ",".join(map(str, self.patches)),
        }  # fmt: skip
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
        corruption = settings.get("corruption", self.corruption)
        if "corruption" in settings:
            one_of(corruption, example.corruptions, f"corruption of {example.name}")
        scope = one_of(settings.get("scope", self.scope), SCOPES, "scope")
        n, edges, patches = from_address(example, {"n": str(self.n), **settings})
        self.corruption, self.scope, self.n = corruption, scope, n
        self.chosen = edges
        self._restored = patches
        if self._shown is example:
            self.patches, self._restored = patches, []
            self._run()

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
        if scope is not None:
            self.scope = one_of(scope, SCOPES, "scope")
        if corruption is not None:
            self.corruption = one_of(corruption, self.example.corruptions, f"corruption of {self.example.name}")
        self.n = n or self.n
        self._run()

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
        self.chosen = [other for other in before if other != edge] if edge in before else [*before, edge]
        try:
            self._run()
        except VlmtraceError:
            self.chosen = before
            raise

    @checked
    def patch_image(self, patches: list[int]) -> None:
        """Put patches of the clean image into the corrupt run, all together.

        Args:
            patches: as rows of the image's places; none: none
        Raises:
            VlmtraceError: there is no such patch, or no second image
        """
        before, self.patches = self.patches, sorted(set(patches))
        try:
            self._run()
        except VlmtraceError:
            self.patches = before
            raise

    def clear(self) -> None:
        """Patch nothing."""
        self.chosen, self.patches = [], []
        self._run()

    @checked
    def open(self, node: str, query: int | None = None) -> None:
        """Open a node: what enters it, what reads it, and of a head what it attends to.

        Args:
            node: as `vt.edges` names it, without a head's input; "": close
            query: the position from which a head looks; None: the mean over all
        Raises:
            VlmtraceError: the model has no such node
        """
        if node and node not in self._nodes:
            raise VlmtraceError(f"{self.session.model.name} has no node {node!r}: vt.edges(model) lists them.")
        self.opened, self.query = node, query
        self._run()

    def _receive(self, _widget: Any, message: dict, _buffers: Any) -> None:
        with self.busy(str(message.get("activity", "edges"))):
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
    def _nodes(self) -> set[str]:
        found = self.example.keep("edges", lambda: edges_of(self.session.model))
        return {edge.sender.label for edge in found} | {THE_OUTPUT.label}

    def effects(self) -> pd.DataFrame:
        """Exact effects of edges by themselves, see `patch_edges`: all, or what enters the output and opened nodes.

        Returns:
            the edge_patching table of the example
        """
        model = self.session.model
        every = self.example.keep("edges", lambda: edges_of(model))
        if len(every) <= MOST_EDGES:
            return self._entering(None)
        opened = self.example.keep(("opened", self.corruption), lambda: [THE_OUTPUT.label])
        if self.opened and self.opened not in opened and any(e.receiver.node.label == self.opened for e in every):
            opened.append(self.opened)
        return pd.concat([self._entering(node) for node in opened], ignore_index=True)

    def over_pairs(self) -> OverPairs:
        """Effects of edges in many pairs: those of the run, or of a few pairs of the explorer."""
        model, task = self.session.model, self.example.pair.get("task")
        key = (self.corruption, task)
        if key not in self._over:
            run = self.session.run
            found = edges_of_run(run, model.name, self.corruption, task)
            few = len(self.example.keep("edges", lambda: edges_of(model))) <= MOST_EDGES
            self._over[key] = found or edges_of_pairs(
                model, self.session.pairs, self.corruption, task, None if few else [THE_OUTPUT.label]
            )
        return self._over[key]

    def image_effects(self) -> list[float | None]:
        """Effect of each patch of the image by itself; none where the image is the same in both runs."""
        if self.corruption != "image":
            return []
        positions = self._image_tokens()

        def compute() -> list[float | None]:
            try:
                found = image_patch_effects(self.example, [[position] for position in positions])
            except VlmtraceError:
                return []  # edges can be shown all the same
            return [plain(effect) for effect in found.effects]

        return self.example.keep("effects of image patches", compute)

    def _carried_at(self, drawn: pd.DataFrame) -> dict[str, str]:
        """At which token what a head or mlp sends does most: that of the strongest edge that is drawn of it.

        Args:
            drawn: edges of a `DrawnCircuit`, the strongest first

        Returns:
            by sending node the token's text; without nodes of which no token does half of what all positions do (they
            act at the image, or at many tokens), and those whose output has but one position outside the image
        """
        every = self.example.keep("edges", lambda: edges_of(self.session.model))
        known = {(edge.sender.label, edge.receiver.label): edge for edge in every}
        senders: list[Sender] = []
        edges: list[tuple[int, Edge]] = []
        rows: list[tuple[str, str, float]] = []
        strongest = drawn.drop_duplicates("sender_node")[["sender", "receiver", "effect"]]
        for sender, receiver, effect in strongest.itertuples(index=False):
            edge = known[sender, receiver]
            if not place_of(sender).block:
                continue
            tokens = tokens_of(self.example, edge.sender)
            tokens = tokens[~shows_image(tokens["token_role"])]
            if len(tokens) < 2:
                continue
            for position, token in tokens[["position", "token"]].itertuples(index=False):
                edges.append((len(senders), edge))
                senders.append(Sender(edge.sender, int(position)))
                rows.append((sender, str(token), abs(effect)))
        if not edges:
            return {}
        found = pd.DataFrame(rows, columns=["sender", "token", "all"])
        size = self._effects(senders, edges)["patching_effect"].abs().to_numpy()
        found = found.assign(size=size).sort_values("size", kind="stable")
        found = found[found["size"] >= found["all"] / 2]
        return dict(found.drop_duplicates("sender", keep="last")[["sender", "token"]].itertuples(index=False))

    def _image_tokens(self) -> list[int]:
        """The image token of each of `placed_boxes`."""
        return [int(i) for i in placed_boxes(self.example)[0].nonzero()[0]]

    def _entering(self, node: str | None) -> pd.DataFrame:
        def compute() -> pd.DataFrame:
            edges = chosen_edges(self.session.model, None, None if node is None else [node])
            senders = sender_nodes(edges)
            numbers = {sender: i for i, sender in enumerate(senders)}
            return self._effects([Sender(one) for one in senders], [(numbers[edge.sender], edge) for edge in edges])

        return self.example.keep(("effects of edges", self.corruption, node), compute)

    def _effects(self, senders: list[Sender], edges: list[tuple[int, Edge]]) -> pd.DataFrame:
        model, runs = self.session.model, self.example.runs(self.corruption)
        readout = edge_readout(model, runs, senders, edges, memory_for_states(default_memory(model), runs))
        rows = edge_table([edge for _, edge in edges]).assign(position=[senders[i].position for i, _ in edges])
        return effects_of_pair(self.example.frame(), runs, self.corruption, rows, readout)

    @checked
    def by_position(self, sender: str, receiver: str) -> pd.DataFrame:
        """The effect of one edge, position by position of what is sent.

        Args:
            sender: as `vt.edges` names it
            receiver: the same

        Returns:
            one row per position: position, token, token_role, patching_effect
        """

        def compute() -> pd.DataFrame:
            edge = chosen_edges(self.session.model, [sender], [receiver])[0]
            tokens = tokens_of(self.example, edge.sender)
            senders = [Sender(edge.sender, int(position)) for position in tokens["position"]]
            effects = self._effects(senders, [(i, edge) for i in range(len(senders))])
            return tokens.assign(patching_effect=effects["patching_effect"].to_numpy())

        return self.example.keep(("positions of an edge", self.corruption, sender, receiver), compute)

    @property
    def table(self) -> pd.DataFrame:
        """The edges' effects, and is_patched: whether the edge is one of those that are patched together."""
        effects = self.effects()
        chosen = set(self.chosen)
        ends = zip(effects["sender"].astype(str), effects["receiver"].astype(str), strict=True)
        return effects.drop(columns="position").assign(is_patched=[edge in chosen for edge in ends])

    # What the browser draws --------------------------------------------------------

    def _run(self) -> None:
        model, example = self.session.model, self.example
        try:
            runs = example.runs(self.corruption)
            table = self.effects().drop(columns="position") if self.scope == SCOPES[0] else self.over_pairs().table
            circuit = drawn_circuit(table, self.n)
            self.outcome = example.keep(
                ("edges together", self.corruption, tuple(self.chosen)),
                lambda: intervene_on_edges_in(model, runs, self.chosen),
            )
            drawn = list(zip(circuit.edges["sender"], circuit.edges["receiver"], strict=True))
            alone = example.keep(
                ("circuit of edges", self.corruption, tuple(drawn)),
                lambda: intervene_on_edges_in(model, runs, drawn, as_circuit=True).patching_effect,
            )
            at: dict[str, str] = {}
            if self.scope == SCOPES[0]:
                key = ("tokens of edges", self.corruption, tuple(drawn))
                at = example.keep(key, lambda: self._carried_at(circuit.edges))
            state = self._state(circuit, alone) | {"at": at}
        except VlmtraceError:
            self.canvas.state = {}
            raise
        with self.canvas.hold_sync():
            self.canvas.picture = png(example.image)
            self.canvas.state = state
        self._report(state)

    def _report(self, state: dict[str, Any]) -> None:
        """Tell the gauge what is patched: patches of the image, or else edges."""
        outcome, image = self.computed(self.outcome), state["image"]["outcome"]
        if image is not None:
            found = Patched(image["effect"], image["answer"], "image", f"patches of the image: {len(self.patches)}")
        elif self.chosen:
            correct, incorrect = self.example.options
            answer = correct if outcome.logit_diff() > 0 else incorrect
            text = "; ".join(" → ".join(edge) for edge in self.chosen)
            found = Patched(outcome.patching_effect, answer, self.corruption, text)
        else:
            found = None
        self.session.report(found)
        self.settings_changed()

    def _image(self) -> dict[str, Any]:
        """Patches of the image: what each does, which are put in together, and what that does."""
        outcome = None
        if self.patches:
            if self.corruption != "image":
                raise VlmtraceError("Patches of the image do nothing to the other question: choose the other image.")
            tokens = self._image_tokens()
            if self.patches[-1] >= len(tokens):
                raise VlmtraceError(f"There is no patch {self.patches[-1]}: choose among 0 to {len(tokens) - 1}.")
            found = image_patch_effects(self.example, [[tokens[patch] for patch in self.patches]])
            outcome = {"effect": float(found.effects[0]), "answer": found.answers[0]}
        return {"effects": self.image_effects(), "chosen": self.patches, "outcome": outcome}

    def _state(self, circuit: DrawnCircuit, alone: float) -> dict[str, Any]:
        example, outcome = self.example, self.outcome
        assert outcome is not None  # made before the state is
        return {
            "example": f"{id(example)}", "corruption": self.corruption,
            "corruptions": {name: CORRUPTION[name] for name in example.corruptions},
            "scope": self.scope, "source": "" if self.scope == SCOPES[0] else self.over_pairs().source,
            "image": self._image(), "attention": attention_of_drawn(example, circuit.nodes),
            "n": self.n, "edges": as_records(circuit.edges.drop(columns="at")),
            "nodes": as_records(circuit.nodes.drop(columns="at")), "rows": circuit.rows, "nEdges": circuit.n_edges,
            "answer": example.options[0], "question": example.question,
            "chosen": [list(edge) for edge in self.chosen], "boxes": placed_boxes(example)[1].round(6).tolist(),
            "result": as_records(outcome.table()), "effect": plain(outcome.patching_effect),
            "alone": plain(alone), "places": self._places(),
            "node": opened_node(example, self.opened, self.query, self.effects()),
        }  # fmt: skip

    def _places(self) -> dict[str, Any] | None:
        """Where the edge that was chosen last carries what counts: by word, and by patch of the image."""
        if not self.chosen:
            return None
        sender, receiver = self.chosen[-1]
        found = self.by_position(sender, receiver)
        block = block_of(self.example, chosen_edges(self.session.model, [sender], [receiver])[0].sender)
        amounts = words_and_patches(self.example, block, found, found["patching_effect"].to_numpy())
        return {"of": [sender, receiver], **amounts}

    # Exports --------------------------------------------------------

    def figure(self) -> Figure:
        """The graph as `plots.edge_circuit` draws it."""
        correct, _ = self.example.options
        pair = self.example.frame().assign(correct_answer=correct)
        if self.scope != SCOPES[0]:
            return edge_circuit(self.over_pairs().table, None, self.n)
        return edge_circuit(self.effects().drop(columns="position"), pair, self.n)

    def code(self) -> str:
        """Lines that patch the same edges."""
        lines = [f"    {edge!r}," for edge in self.chosen]
        return self.preamble("from vlmtrace.methods.edges import intervene_on_edges") + "\n".join(
            [
                *self.missing_columns(),
                "edges = [",
                *lines,
                "]",
                f"outcome = intervene_on_edges(model, pair, edges, corruption={self.corruption!r})",
                "print(outcome)",
                "outcome.table()",
                *self._code_of_patches(),
                "",
            ]
        )

    def _code_of_patches(self) -> list[str]:
        if not self.patches:
            return []
        tokens = self._image_tokens()
        return [
            "from vlmtrace.display import Example",
            "from vlmtrace.methods.edges import image_patch_effects",
            f"patched = image_patch_effects(Example(model, pair), [{[tokens[patch] for patch in self.patches]}])",
            "print(patched.effects)",
        ]
