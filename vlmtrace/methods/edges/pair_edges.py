"""Effects of the edges of one example, as its view shows them: whole edges, single words, single positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display.example import Example
from vlmtrace.inputs.token_roles import shows_image, token_table
from vlmtrace.methods.edges.drawing import place_of
from vlmtrace.methods.edges.image_patches import image_patch_effects
from vlmtrace.methods.edges.intervention import word_of
from vlmtrace.methods.edges.listing import chosen_edges, edge_table
from vlmtrace.methods.edges.opened import block_of, placed_boxes, plain, tokens_of, words_and_patches
from vlmtrace.methods.edges.path_patching import edge_readout, effects_of_pair
from vlmtrace.methods.patching.run_sweep import default_memory, memory_for_states
from vlmtrace.models.edges.carried import Sender
from vlmtrace.models.edges.nodes import PROMPT, THE_OUTPUT, Edge
from vlmtrace.models.edges.wiring import edges_of

#: A model with more edges shows at first what enters its output; what enters a node is computed when it is clicked.
MOST_EDGES = 20_000

#: The corruption that changes the prompt's words, and the one that changes the image's patches.
TEXT, IMAGE = "text", "image"


def every_edge(example: Example) -> list[Edge]:
    """All edges of an example's model.

    Args:
        example: any

    Raises:
        VlmtraceError: the model's layers are not known node by node
    """
    return example.keep("edges", lambda: edges_of(example.model))


def has_few(example: Example) -> bool:
    """Whether the effects of all edges are computed at once.

    Args:
        example: of a model whose edges are known
    """
    return len(every_edge(example)) <= MOST_EDGES


def check_patches(corruption: str, patches: Sequence[int]) -> None:
    """Check that patches of the clean image, put into the corrupt run, change it.

    Args:
        corruption: of that run
        patches: of the image

    Raises:
        VlmtraceError: there are some, and both runs have the same image
    """
    if patches and corruption != IMAGE:
        raise VlmtraceError("Patches of the image do nothing to the other question: choose the other image.")


class PairEdges:
    """Exact effects of the edges of one example, each computed once.

    Attributes:
        example: whose runs are patched
        corruption: the corrupt run
    """

    def __init__(self, example: Example, corruption: str):
        """Compute nothing yet.

        Args:
            example: of a model whose edges are known
            corruption: "image" or "text"
        """
        self.example, self.corruption = example, corruption

    def drawn(self, opened: str = "") -> pd.DataFrame:
        """Effects of edges by themselves: all, or what enters the output and nodes that were opened.

        Words of the question are apart where the corrupt run has another question.

        Args:
            opened: a node, of which a large model computes what enters it; "": none

        Returns:
            the edge_patching table of the example; with words apart, position, token and token_role are those of the
            prompt's rows, and missing in all others
        """
        if has_few(self.example):
            return self._entering(None)
        every = every_edge(self.example)
        nodes = self.example.keep(("opened", self.corruption), lambda: [THE_OUTPUT.label])
        tables = [self._entering(node) for node in nodes]
        if opened and opened not in nodes and any(edge.receiver.node.label == opened for edge in every):
            tables.append(self._entering(opened))
            # A node that could not be computed is not computed again with every other.
            nodes.append(opened)
        return pd.concat(tables, ignore_index=True)

    def whole(self, opened: str = "") -> pd.DataFrame:
        """The same with all words of the question together, as all other edges have their positions together.

        Args:
            opened: as in `drawn`

        Returns:
            the edge_patching table of the example
        """
        drawn = self.drawn(opened)
        if self.corruption != TEXT:
            return drawn
        found = set(drawn.loc[drawn["sender"] == PROMPT.label, "receiver"])
        edges = [edge for edge in self._of_prompt() if edge.receiver.label in found]

        def compute() -> pd.DataFrame:
            return self.of([Sender(PROMPT)], [(0, edge) for edge in edges])

        together = self.example.keep(("effects of the prompt", len(edges)), compute)
        others = drawn[drawn["sender"] != PROMPT.label].drop(columns=["token", "token_role"])
        return pd.concat([others, together], ignore_index=True)

    def _of_prompt(self) -> list[Edge]:
        return [edge for edge in every_edge(self.example) if edge.sender == PROMPT]

    def _entering(self, node: str | None) -> pd.DataFrame:
        def compute() -> pd.DataFrame:
            chosen = chosen_edges(self.example.model, None, None if node is None else [node])
            words = tokens_of(self.example, PROMPT) if self.corruption == TEXT else None
            places = [] if words is None else words["position"].tolist()
            numbers: dict[Sender, int] = {}
            edges: list[tuple[int, Edge]] = []
            for edge in chosen:
                apart = words is not None and edge.sender == PROMPT
                for position in places if apart else [None]:
                    edges.append((numbers.setdefault(Sender(edge.sender, position), len(numbers)), edge))
            table = self.of(list(numbers), edges)
            if words is None:
                return table
            of_word = words.set_index("position")[["token", "token_role"]].astype(str)
            return table.join(of_word, on="position")

        return self.example.keep(("effects of edges", self.corruption, node), compute)

    def of(self, senders: list[Sender], edges: list[tuple[int, Edge]]) -> pd.DataFrame:
        """Effects of some edges.

        Args:
            senders: whose output is sent, at which position
            edges: each with the number of its sender

        Returns:
            rows of the edge_patching table, one per edge
        """
        model, runs = self.example.model, self.example.runs(self.corruption)
        readout = edge_readout(model, runs, senders, edges, memory_for_states(default_memory(model), runs))
        rows = edge_table([edge for _, edge in edges]).assign(position=[senders[i].position for i, _ in edges])
        rows["position"] = rows["position"].astype("Int64")
        return effects_of_pair(self.example.frame(), runs, self.corruption, rows, readout)

    def by_position(self, sender: str, receiver: str) -> pd.DataFrame:
        """The effect of one edge, position by position of what is sent.

        Args:
            sender: as `vt.edges` names it
            receiver: the same

        Returns:
            one row per position: position, token, token_role, patching_effect
        """

        def compute() -> pd.DataFrame:
            edge = chosen_edges(self.example.model, [sender], [receiver])[0]
            tokens = tokens_of(self.example, edge.sender)
            senders = [Sender(edge.sender, int(position)) for position in tokens["position"]]
            effects = self.of(senders, [(i, edge) for i in range(len(senders))])
            return tokens.assign(patching_effect=effects["patching_effect"].to_numpy())

        return self.example.keep(("positions of an edge", self.corruption, sender, receiver), compute)

    def where_it_acts(self, sender: str, receiver: str) -> dict[str, Any]:
        """At which words and patches of the image one edge acts, see `words_and_patches`.

        Args:
            sender: as `intervene_on_edges` takes it; of a word of the prompt, all words are told
            receiver: the same
        """
        sender, _ = word_of(sender)
        found = self.by_position(sender, receiver)
        block = block_of(self.example, chosen_edges(self.example.model, [sender], [receiver])[0].sender)
        amounts = words_and_patches(self.example, block, found, found["patching_effect"].to_numpy())
        return {"of": [sender, receiver], **amounts}

    def tokens_that_count(self, drawn: pd.DataFrame) -> dict[str, str]:
        """At which token what a head or mlp sends does most: that of the strongest edge that is drawn of it.

        Args:
            drawn: edges of a `DrawnCircuit`, the strongest first

        Returns:
            by sending node the token's text; without nodes of which no token does half of what all positions do (they
            act at the image, or at many tokens), and those whose output has but one position outside the image
        """
        known = {(edge.sender.label, edge.receiver.label): edge for edge in every_edge(self.example)}
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
        size = self.of(senders, edges)["patching_effect"].abs().to_numpy()
        found = found.assign(size=size).sort_values("size", kind="stable")
        found = found[found["size"] >= found["all"] / 2]
        return dict(found.drop_duplicates("sender", keep="last")[["sender", "token"]].itertuples(index=False))

    def other_words(self) -> dict[int, str]:
        """By position of the prompt, what stands there in the run with the other question; nothing where both agree."""
        if self.corruption != TEXT:
            return {}
        example, block = self.example, block_of(self.example, PROMPT)
        pair = {**example.pair, "clean_prompt": example.pair["corrupt_prompt"]}
        other = token_table(example.model, pair, block, example.inputs(TEXT))
        both = zip(example.tokens(block).itertuples(), other["token"].astype(str), strict=True)
        return {int(own.position): token for own, token in both if str(own.token) != token}

    # Patches of the image --------------------------------------------------------

    def image_tokens(self) -> list[int]:
        """The image token of each of `placed_boxes`."""
        return [int(i) for i in np.flatnonzero(placed_boxes(self.example)[0])]

    def image_effects(self) -> list[float | None]:
        """Effect of each patch of the image by itself; none where the image is the same in both runs."""
        if self.corruption != IMAGE:
            return []
        positions = self.image_tokens()

        def compute() -> list[float | None]:
            try:
                found = image_patch_effects(self.example, [[position] for position in positions])
            except VlmtraceError:
                return []  # edges can be shown all the same
            return [plain(effect) for effect in found.effects]

        return self.example.keep("effects of image patches", compute)

    def patched_image(self, patches: list[int]) -> dict[str, Any] | None:
        """What some patches of the clean image do together in the corrupt run.

        Args:
            patches: as rows of the image's places; none: none

        Returns:
            effect (None where clean and corrupt run do not differ) and answer; None where no patch is given

        Raises:
            VlmtraceError: there is no such patch, or no second image
        """
        if not patches:
            return None
        check_patches(self.corruption, patches)
        tokens = self.image_tokens()
        if patches[-1] >= len(tokens):
            raise VlmtraceError(f"There is no patch {patches[-1]}: choose among 0 to {len(tokens) - 1}.")
        found = image_patch_effects(self.example, [[tokens[patch] for patch in patches]])
        return {"effect": plain(found.effects[0]), "answer": found.answers[0]}
