"""Which tokens an answer depends on: searched along causal graphs of a layer's heads, tested against random tokens.

The graphs are those of `causal_graph`. Their nodes are the answer, at the position where the model reads it, and the
tokens of image and question that a head attends to from there. Special tokens and what a chat template adds are left
out, which FCI allows: they may be common causes that are not seen. `token_masking` says what masking means, and which
matrix is taken for BLIP.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from vlmtrace.core.arguments import Count, Natural, NotNegative, Probability, Seed, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.types import Array
from vlmtrace.methods.explanation.causal_graph import (
    MAX_TESTS,
    candidate_sets,
    graph_distances,
    learn_graph,
    token_correlations,
    token_tiers,
)
from vlmtrace.methods.explanation.masked_sets import blind_sets, random_sets, smallest_change
from vlmtrace.methods.explanation.token_masking import (
    TOKEN_COLUMNS,
    MaskableQuestion,
    attention_paid,
    joint_attention,
)
from vlmtrace.models import VLM
from vlmtrace.models.several_images import Images


class NoGraph(VlmtraceError):
    """The attention of no head that was looked at can be made a causal graph."""


@checked
@dataclass(frozen=True)
class GraphOptions:
    """How a causal graph is learnt from a head's attention.

    Attributes:
        alpha: level of the independence tests, not corrected for their number; higher: more edges
        threshold: attention from the answer at or above which a token enters
        max_tokens: how many enter at most, those with the most attention first
        n_samples: how many samples the correlations count as. A test has n_samples − (tokens conditioned on) − 3
            degrees of freedom. None: the width of the language side, each of whose dimensions is one observation of
            all tokens, as in the authors' code; the width of one head is the stricter choice
        radius: the farthest distance from the answer that is searched
        paths: along which it is measured, "any" or "d-separators" (see `graph_distances`)
        max_tests: independence tests before a graph is given up, which bounds the time: about a millisecond each
    """

    alpha: Probability = 0.01
    threshold: NotNegative = 0.01
    max_tokens: Count = 12
    n_samples: Count | None = None
    radius: Natural | None = 3
    paths: str = "any"
    max_tests: Natural = MAX_TESTS


DEFAULTS = GraphOptions()


@dataclass(frozen=True)
class HeadGraph:
    """The causal graph of one head.

    Attributes:
        layer: of the head
        head: of the layer
        tokens: one row per node: node, kind ("image", "text", "answer"), position (in its own sequence), cell (row of
            `VLM.image_cells` of `VLM.image_block`, missing for text), token, word, member (row of
            `MaskableQuestion.tokens`, -1 for the answer), attention (from the answer), distance (from the answer, inf:
            out of reach). The answer is the last node
        correlations: (node, node)
        edges: source, target (nodes), source_mark, target_mark ("tail", "arrow", "circle")
        n_tests: independence tests done
        n_samples: how many samples the correlations counted as
    """

    layer: int
    head: int
    tokens: pd.DataFrame
    correlations: Array
    edges: pd.DataFrame
    n_tests: int
    n_samples: int


@dataclass(frozen=True)
class Explanation:
    """The fewest tokens found whose masking changes an answer's token, and what masking others does.

    Attributes:
        answer: the token explained
        probability: of that token, with nothing masked
        graphs: by head
        refused: by head, why it has no graph, as a sentence
        head: whose graph led to the set; None: no set was found
        masked: the first set found, one row per token: kind, position, cell, token, word
        becomes: the token that the model then gives
        minimal: all sets of its size within reach that change the answer, rows of `tried`; `masked` is the first
        tried: one row per set in the order tried, up to the last of the size found: head, size, distance (summed over
            the set), tokens, answer, probability (of the token explained), changed
        untried: sets within reach, no larger than those found, that `max_sets` left out
        random: one row per draw of as many other tokens of the same kinds: tokens, answer, probability, changed
        blind: one row per set of a search without graphs, as many tokens of the same kinds as `masked` has, drawn from
            all tokens: tokens, answer, probability, changed. All such sets, where there are no more than were asked for
        n_blind: how many such sets there are
        seconds: in all
    """

    answer: str
    probability: float
    graphs: dict[int, HeadGraph]
    refused: dict[int, str]
    head: int | None
    masked: pd.DataFrame
    becomes: str | None
    minimal: pd.DataFrame
    tried: pd.DataFrame
    untried: int
    random: pd.DataFrame
    blind: pd.DataFrame
    n_blind: int
    seconds: float

    @property
    def random_share(self) -> float:
        """Share of the random draws that change the answer; NaN where there was none."""
        return float(self.random["changed"].mean()) if len(self.random) else float("nan")

    @property
    def nearest(self) -> pd.Series | None:
        """The row of `tried` that takes most of the answer's probability; None where nothing was tried."""
        if self.tried.empty:
            return None
        return self.tried.loc[self.tried["probability"].idxmin()]

    @property
    def tries(self) -> int | None:
        """How many sets were tried until one changed the answer, that one included; None: none did."""
        return None if self.head is None else int(self.tried["changed"].to_numpy().argmax()) + 1

    @property
    def blind_chance(self) -> float:
        """Probability that a search without graphs finds such a set in as many tries.

        It masks sets of the size and kinds of the set found, in random order, and is thereby given what the search
        along graphs had to find out. Hypergeometric where all such sets were masked; otherwise 1 − (1 − share)^tries,
        an estimate from those in `blind`. NaN where no set was found.
        """
        if self.tries is None or not len(self.blind):
            return float("nan")
        hits = int(self.blind["changed"].sum())
        if len(self.blind) == self.n_blind:
            return float(1 - hypergeom.pmf(0, self.n_blind, hits, min(self.tries, self.n_blind)))
        return float(1 - (1 - hits / len(self.blind)) ** self.tries)

    def __str__(self) -> str:
        """The finding in sentences, beside what random sets and a search without graphs do."""
        if self.head is None:
            more = f" ({self.untried} sets were left untried)" if self.untried else ""
            said = f"None of {len(self.tried)} sets within reach changes {self.answer!r} when masked{more}."
            nearest = self.nearest
            if nearest is None:
                return said
            return (
                f"{said} The nearest comes from {self.probability:.3f} to {nearest['probability']:.3f}, "
                f"by masking {nearest['tokens']}."
            )
        names = ", ".join(self.masked["kind"] + " " + self.masked["token"])
        n, of_size = len(self.minimal), int((self.tried["size"] == len(self.masked)).sum())
        others = f", the first of {n} such sets among {of_size}" if n > 1 else f", alone among {of_size} sets"
        control = (
            f"{self.random['changed'].sum()} of {len(self.random)} draws of as many other tokens change it too"
            if len(self.random)
            else "there are too few other tokens to compare with"
        )
        return (
            f"Masking {names} changes {self.answer!r} to {self.becomes!r} (try {self.tries}{others} of its size); "
            f"{control}. A random search of as many tries finds such a set with probability {self.blind_chance:.2f}."
        )


def causal_graph(
    model: VLM,
    image: Images,
    prompt: str,
    head: int,
    layer: int | None = None,
    answer: Sequence[int] | None = None,
    step: int = 0,
    options: GraphOptions = DEFAULTS,
) -> HeadGraph:
    """Learn the graph of one head, without a search.

    Args:
        model: the model that is asked
        image: a path or a picture, or a list of several
        prompt: the question as a pairs table holds it, before a chat template
        head: of the layer
        layer: of the language side; None: the last
        answer: ids of the answer's tokens; None: the model's own greedy answer
        step: which of them is the graph's root, from 0
        options: how the graph is learnt
    Raises:
        VlmtraceError: there is no such layer, head or step, or the head has no graph (see `learn_graph`)
    """
    question = MaskableQuestion(model, image, prompt, answer, step)
    layer, _ = _existing(model, layer, [head])
    return _head_graph(question, layer, head, joint_attention(model, question.inputs, layer), options)


@checked
def explain(
    model: VLM,
    image: Images,
    prompt: str,
    answer: Sequence[Natural] | None = None,
    step: Natural = 0,
    layer: Natural | None = None,
    heads: Sequence[Natural] | None = None,
    options: GraphOptions = DEFAULTS,
    max_size: Count = 3,
    max_sets: Natural = 256,
    n_random: Natural = 20,
    n_blind: Natural = 128,
    seed: Seed = 0,
) -> Explanation:
    """Search for the fewest tokens whose masking changes a token of the answer.

    After CLEANN (Rohekar et al. 2023, https://arxiv.org/abs/2310.20307): sets of tokens are tried from the answer's
    node outwards, the smaller and nearer first, until all sets of the size of the first that changes the answer have
    been tried. Two comparisons stand beside them: as many other tokens, drawn at random, and a search without graphs.

    Time: at most max_tests independence tests a head, and max_sets + n_random + n_blind runs of the model in batches of
    `BATCH`.

    Args:
        model: the model that is asked
        image: a path or a picture, or a list of several
        prompt: the question as a pairs table holds it, before a chat template
        answer: ids of the answer's tokens; None: the model's own greedy answer
        step: which of them is explained, from 0
        layer: whose attention; None: the last
        heads: whose graphs are searched, together; None: all of the layer
        options: how the graphs are learnt
        max_size: of a set
        max_sets: how many are tried, smaller before larger, nearer before farther
        n_random: draws of as many other tokens of the same kinds
        n_blind: sets that a search without graphs is judged by (see `Explanation.blind_chance`)
        seed: of the draws
    Returns:
        the set, what the model answers without it, the sets that were tried, the random draws, how likely a search
        without graphs does as well, and the graphs
    Raises:
        NoGraph: no head has a graph
        VlmtraceError: there is no such layer, head or step, or the model gives another token

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.methods.explanation import explain
        >>> model = vt.load_model("tiny-blip")
        >>> pair = vt.load_pairs("rendered_states", n=1).iloc[0]
        >>> found = explain(model, pair["clean_image"], pair["clean_prompt"])
        >>> list(found.tried.columns)
        ['head', 'size', 'distance', 'tokens', 'answer', 'probability', 'changed']
    """
    start = time.perf_counter()
    question = MaskableQuestion(model, image, prompt, answer, step)
    layer, heads = _existing(model, layer, heads)
    attention = joint_attention(model, question.inputs, layer)
    graphs, refused = {}, {}
    for head in heads:
        try:
            graphs[head] = _head_graph(question, layer, head, attention, options)
        except VlmtraceError as error:
            refused[head] = str(error)
    if not graphs:
        raise NoGraph(f"No head of layer {layer} has a graph. Head {heads[0]}: {refused[heads[0]]}")
    (unmasked_answer,), (probability,) = question.answers([()])
    if unmasked_answer != question.target:
        raise VlmtraceError(
            f"{model.name} gives {unmasked_answer!r} and not {question.target!r}: explain what it does give."
        )
    found, tried, untried = smallest_change(
        question.answers, unmasked_answer, _candidates(question, graphs, max_size), max_sets
    )
    chosen = found if found is not None else ()
    kinds = question.tokens["kind"].to_numpy()
    blind, possible = blind_sets(kinds, chosen, n_blind, seed)
    tried = tried.assign(tokens=[question.names(masked) for masked in tried["tokens"]])
    minimal = tried[tried["changed"]].reset_index(drop=True)
    first = minimal.iloc[0] if len(minimal) else None
    return Explanation(
        unmasked_answer,
        probability,
        graphs,
        refused,
        None if first is None else int(first["head"]),
        question.tokens.loc[list(chosen), TOKEN_COLUMNS],
        None if first is None else first["answer"],
        minimal,
        tried,
        untried,
        _masked(question, random_sets(kinds, chosen, n_random, seed), unmasked_answer),
        _masked(question, blind, unmasked_answer),
        possible,
        time.perf_counter() - start,
    )


def _masked(question: MaskableQuestion, sets: Sequence[tuple[int, ...]], unmasked_answer: str) -> pd.DataFrame:
    """What masking each set does: tokens, answer, probability, changed."""
    names, chances = question.answers(sets)
    tokens = [question.names(chosen) for chosen in sets]
    table = pd.DataFrame({"tokens": tokens, "answer": names, "probability": chances})
    return table.assign(changed=table["answer"] != unmasked_answer)


def _candidates(
    question: MaskableQuestion, graphs: dict[int, HeadGraph], max_size: int
) -> list[tuple[tuple[int, ...], int, float]]:
    """Sets of all heads, each once, by size and then distance."""
    nearest: dict[tuple[int, ...], tuple[float, int]] = {}
    for head, graph in graphs.items():
        distances = graph.tokens["distance"].to_numpy()
        for chosen in candidate_sets(distances, max_size):
            members = tuple(sorted(int(i) for i in graph.tokens["member"].iloc[list(chosen)]))
            found = float(distances[list(chosen)].sum()), head
            nearest[members] = min(nearest.get(members, found), found)
    order = sorted(nearest, key=lambda members: (len(members), *nearest[members], members))
    return [(members, nearest[members][1], nearest[members][0]) for members in order]


# From attention to graphs ------------------------------------------------------------


def _head_graph(question: MaskableQuestion, layer: int, head: int, joint: Array, options: GraphOptions) -> HeadGraph:
    attention = joint[head]
    index = question.tokens["index"].to_numpy()
    n_image = int((question.tokens["kind"] == "image").sum())
    paid = attention_paid(question.model, attention, n_image)[index]
    order = np.argsort(-paid, kind="stable")[: options.max_tokens]
    members = np.sort(order[paid[order] >= options.threshold])
    if not len(members):
        raise VlmtraceError(
            f"In layer {layer}, head {head} the answer gives no token of image or question an attention of "
            f"{options.threshold} or more: lower the threshold."
        )
    nodes = [*index[members], len(attention) - 1]
    correlations = token_correlations(attention[nodes])
    n_samples = options.n_samples or question.model.hf.config.get_text_config().hidden_size
    tokens = question.tokens.iloc[members][TOKEN_COLUMNS].assign(member=members, attention=paid[members])
    answer = {"kind": "answer", "token": question.target, "word": question.target, "member": -1, "attention": np.nan}
    tokens = pd.concat([tokens, pd.DataFrame([answer])], ignore_index=True)
    tokens.insert(0, "node", range(len(tokens)))
    names = list(tokens["kind"] + " " + tokens["token"])
    tiers = token_tiers(joint)[nodes].tolist()
    edges, n_tests = learn_graph(correlations, n_samples, options.alpha, options.max_tests, names, tiers)
    tokens["distance"] = graph_distances(edges, len(nodes), len(nodes) - 1, options.radius, options.paths)
    return HeadGraph(layer, head, tokens, correlations, edges, n_tests, n_samples)


def _existing(model: VLM, layer: int | None, heads: Sequence[int] | None) -> tuple[int, list[int]]:
    block = model.head_block
    layer = block.n_layers - 1 if layer is None else layer
    if not 0 <= layer < block.n_layers:
        raise VlmtraceError(f"Layer {layer} does not exist: {block.name} has layers 0 to {block.n_layers - 1}.")
    n_heads = block.heads_at(layer)
    heads = list(range(n_heads)) if heads is None else list(heads)
    wrong = [head for head in heads if not 0 <= head < n_heads]
    if wrong or not heads:
        place = f"layer {layer} of {block.name}" if block.heads else block.name
        raise VlmtraceError(f"Heads {wrong or heads} do not exist: {place} has heads 0 to {n_heads - 1}.")
    return layer, heads
