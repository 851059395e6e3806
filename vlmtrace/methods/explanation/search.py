"""Which tokens an answer hangs on: looked for along causal graphs of a layer's heads, and tested against random tokens.

The graphs are those of `causal_graph`. Their nodes are the answer, standing where the model reads it from, and
the tokens of image and question that a head attends to from there; special tokens and what a chat template adds are
left out, which FCI allows: they may be common causes that are not seen. What hiding means, and which matrix is taken
for BLIP, is told in `vlmtrace.methods.explanation.token_masking`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.types import Array
from vlmtrace.methods.explanation.causal_graph import (
    MAX_TESTS,
    candidate_sets,
    graph_distances,
    learn_graph,
    token_correlations,
)
from vlmtrace.methods.explanation.token_masking import BATCH, TOKEN, Example, attention_paid, joint_attention
from vlmtrace.models import VLM

#: Given the sets to hide, the answer's token and the probability of the token to be explained, one of each a set.
Answers = Callable[[Sequence[tuple[int, ...]]], tuple[list[str], list[float]]]


@dataclass(frozen=True)
class GraphOptions:
    """How a graph is made.

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

    alpha: float = 0.01
    threshold: float = 0.01
    max_tokens: int = 12
    n_samples: int | None = None
    radius: int | None = 3
    paths: str = "any"
    max_tests: int = MAX_TESTS


DEFAULTS = GraphOptions()


@dataclass(frozen=True)
class HeadGraph:
    """The causal graph of one head.

    Attributes:
        tokens: one row a node: node, kind ("image", "text", "answer"), position (in its own sequence), cell (row of
            `VLM.image_cells` of `VLM.image_block`, missing for text), token, word, member (row of `Example.tokens`, -1
            for the answer), attention (from the answer), distance (from the answer, inf: out of reach). The answer is
            the last node
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
    """The fewest tokens found whose hiding changes an answer's token, and what hiding others does.

    Attributes:
        answer: the token explained
        probability: the model's, with nothing hidden
        graphs: by head
        refused: by head, why it has no graph, as a sentence
        head: whose graph led to the set; None: no set was found
        hidden: the set, one row a token: kind, position, cell, token, word
        becomes: the token that the model then gives
        tried: one row a set in the order tried: head, size, distance (summed over the set), tokens, answer, probability
            (of the token explained), changed
        untried: sets within reach that `max_sets` left out
        random: one row a draw of as many other tokens of the same kinds: tokens, answer, probability, changed
        seconds: in all
    """

    answer: str
    probability: float
    graphs: dict[int, HeadGraph]
    refused: dict[int, str]
    head: int | None
    hidden: pd.DataFrame
    becomes: str | None
    tried: pd.DataFrame
    untried: int
    random: pd.DataFrame
    seconds: float

    @property
    def random_share(self) -> float:
        """Share of the random draws that change the answer; NaN where there was none."""
        return float(self.random["changed"].mean()) if len(self.random) else float("nan")

    def __str__(self) -> str:
        if self.head is None:
            more = f" ({self.untried} sets were left untried)" if self.untried else ""
            return f"None of {len(self.tried)} sets within reach changes {self.answer!r} when hidden{more}."
        names = ", ".join(self.hidden["kind"] + " " + self.hidden["token"])
        control = (
            f"{self.random['changed'].sum()} of {len(self.random)} draws of as many other tokens change it too"
            if len(self.random)
            else "there are too few other tokens to compare with"
        )
        return f"Hiding {names} changes {self.answer!r} to {self.becomes!r}; {control}."


def causal_graph(
    model: VLM,
    image: Image.Image | str | Path,
    prompt: str,
    head: int,
    layer: int | None = None,
    answer: Sequence[int] | None = None,
    step: int = 0,
    options: GraphOptions = DEFAULTS,
) -> HeadGraph:
    """The graph of one head alone, without a search; arguments as of `explain`.

    Raises:
        VlmtraceError: there is no such layer, head or step, or the head has no graph (see `learn_graph`)
    """
    example = Example(model, image, prompt, answer, step)
    layer = _existing(model, layer, [head])
    return _head_graph(example, layer, head, joint_attention(model, example.inputs, layer)[head], options)


def explain(
    model: VLM,
    image: Image.Image | str | Path,
    prompt: str,
    answer: Sequence[int] | None = None,
    step: int = 0,
    layer: int | None = None,
    heads: Sequence[int] | None = None,
    options: GraphOptions = DEFAULTS,
    max_size: int = 3,
    max_sets: int = 256,
    n_random: int = 20,
    seed: int = 0,
) -> Explanation:
    """Look for the fewest tokens whose hiding changes a token of the answer.

    Time: at most max_tests independence tests a head, and max_sets + n_random runs of the model in batches of `BATCH`.

    Args:
        prompt: the question as a pairs table holds it, before a chat template
        answer: ids of the answer's tokens; None: the model's own greedy answer
        step: which of them is explained
        layer: whose attention; None: the last
        heads: whose graphs are searched, together; None: all of the layer
        max_size: of a set
        max_sets: how many are tried, smaller before larger, nearer before farther
        n_random, seed: draws of as many other tokens of the same kinds
    Raises:
        VlmtraceError: there is no such layer, head or step, the model gives another token, or no head has a graph
    """
    start = time.perf_counter()
    example = Example(model, image, prompt, answer, step)
    n_heads = model.head_block.n_heads
    layer = _existing(model, layer, heads := list(range(n_heads)) if heads is None else list(heads))
    attention = joint_attention(model, example.inputs, layer)
    graphs, refused = {}, {}
    for head in heads:
        try:
            graphs[head] = _head_graph(example, layer, head, attention[head], options)
        except VlmtraceError as error:
            refused[head] = str(error)
    if not graphs:
        raise VlmtraceError(f"No head of layer {layer} has a graph. Head {heads[0]}: {refused[heads[0]]}")
    (now,), (probability,) = example.answers([()])
    if now != example.target:
        raise VlmtraceError(f"{model.name} gives {now!r} and not {example.target!r}: explain what it does give.")
    found, tried, untried = smallest_change(example.answers, now, _candidates(example, graphs, max_size), max_sets)
    chosen = found if found is not None else ()
    others = random_sets(example.tokens["kind"].to_numpy(), chosen, n_random, seed)
    names, chances = example.answers(others)
    random = pd.DataFrame({"tokens": others, "answer": names, "probability": chances})
    last = tried.iloc[-1] if found is not None else None
    return Explanation(
        now,
        probability,
        graphs,
        refused,
        None if last is None else int(last["head"]),
        example.tokens.loc[list(chosen), TOKEN],
        None if last is None else last["answer"],
        tried.assign(tokens=[example.names(chosen) for chosen in tried["tokens"]]),
        untried,
        random.assign(tokens=[example.names(chosen) for chosen in others], changed=random["answer"] != now),
        time.perf_counter() - start,
    )


# The search ------------------------------------------------------------


def smallest_change(
    answers: Answers, now: str, candidates: Sequence[tuple[tuple[int, ...], int, float]], max_sets: int
) -> tuple[tuple[int, ...] | None, pd.DataFrame, int]:
    """The first set whose hiding changes the answer.

    Args:
        answers: what is answered with some tokens hidden
        now: what is answered with none hidden
        candidates: sets in the order to try, each with a head and a distance
        max_sets: how many are tried
    Returns:
        the set, or None; the sets tried, the last of which is that set; how many more there were
    """
    rows: list[tuple] = []
    allowed = candidates[:max_sets]
    for first in range(0, len(allowed), BATCH):
        batch = allowed[first : first + BATCH]
        for (chosen, head, distance), name, chance in zip(batch, *answers([row[0] for row in batch]), strict=True):
            rows.append((head, len(chosen), distance, chosen, name, chance, name != now))
            if name != now:
                return chosen, _tried(rows), 0
    return None, _tried(rows), len(candidates) - len(allowed)


def _tried(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["head", "size", "distance", "tokens", "answer", "probability", "changed"])


def random_sets(kinds: Array, chosen: Sequence[int], n: int, seed: int) -> list[tuple[int, ...]]:
    """Draws of as many tokens of each kind, none of them chosen; no draws where there are not enough others."""
    generator = np.random.default_rng(seed)
    wanted = {kind: sum(kinds[i] == kind for i in chosen) for kind in dict.fromkeys(kinds)}
    others = {kind: np.setdiff1d(np.flatnonzero(kinds == kind), list(chosen)) for kind in wanted}
    if not len(chosen) or any(len(others[kind]) < count for kind, count in wanted.items()):
        return []
    draws = [[generator.choice(others[kind], count, replace=False) for kind, count in wanted.items()] for _ in range(n)]
    return [tuple(sorted(int(i) for part in draw for i in part)) for draw in draws]


def _candidates(
    example: Example, graphs: dict[int, HeadGraph], max_size: int
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


def _head_graph(example: Example, layer: int, head: int, attention: Array, options: GraphOptions) -> HeadGraph:
    if options.max_tokens < 1:
        raise VlmtraceError(f"max_tokens={options.max_tokens} leaves nothing to draw a graph of: allow at least 1.")
    index = example.tokens["index"].to_numpy()
    n_image = int((example.tokens["kind"] == "image").sum())
    paid = attention_paid(example.model, attention, n_image)[index]
    order = np.argsort(-paid, kind="stable")[: options.max_tokens]
    members = np.sort(order[paid[order] >= options.threshold])
    if not len(members):
        raise VlmtraceError(
            f"In layer {layer}, head {head} the answer pays no token of image or question an attention of "
            f"{options.threshold} or more: lower the threshold."
        )
    nodes = [*index[members], len(attention) - 1]
    correlations = token_correlations(attention[nodes])
    n_samples = options.n_samples or example.model.hf.config.get_text_config().hidden_size
    tokens = example.tokens.iloc[members][TOKEN].assign(member=members, attention=paid[members])
    answer = {"kind": "answer", "token": example.target, "word": example.target, "member": -1, "attention": np.nan}
    tokens = pd.concat([tokens, pd.DataFrame([answer])], ignore_index=True)
    tokens.insert(0, "node", range(len(tokens)))
    names = list(tokens["kind"] + " " + tokens["token"])
    edges, n_tests = learn_graph(correlations, n_samples, options.alpha, options.max_tests, names)
    tokens["distance"] = graph_distances(edges, len(nodes), len(nodes) - 1, options.radius, options.paths)
    return HeadGraph(layer, head, tokens, correlations, edges, n_tests, n_samples)


def _existing(model: VLM, layer: int | None, heads: Sequence[int]) -> int:
    block = model.head_block
    layer = block.n_layers - 1 if layer is None else layer
    if not 0 <= layer < block.n_layers:
        raise VlmtraceError(f"Layer {layer} does not exist: {block.name} has layers 0 to {block.n_layers - 1}.")
    wrong = [head for head in heads if not 0 <= head < block.n_heads]
    if wrong or not heads:
        raise VlmtraceError(f"Heads {wrong or heads} do not exist: {block.name} has heads 0 to {block.n_heads - 1}.")
    return layer
