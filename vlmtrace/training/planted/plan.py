"""Heads as what they look for and what they move, and what distracts: weights that do it.

Shapes: D width of the stream, E width of a head, F width of an mlp.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vlmtrace.models.edges.nodes import Node
from vlmtrace.training.planted.stream import HEAD_WIDTH, LARGE, ROWS, WIDTH

#: How much a full match adds to an attention score, and how much the first token has in any case: what finds no match
#: looks there.
SHARPNESS, REST = 40.0, 10.0


@dataclass(frozen=True)
class Head:
    """What a head does.

    Attributes:
        node: which head
        query: the rows that it compares by
        key: the rows that they are compared with, as many
        reads: the rows that it moves
        writes: the rows that it moves them to
        factor: by which they are multiplied
        name: what it is called in circuit.json; "": it distracts
        does: the same in a sentence
    """

    node: Node
    query: str
    key: str
    reads: str
    writes: str
    factor: float = 1.0
    name: str = ""
    does: str = ""


@dataclass(frozen=True)
class Mlp:
    """A planted mlp.

    Attributes:
        node: which
        clears: whether it makes clear colors of found ones; otherwise it compares moved color and options
        steps: up to which share a color counts as not there, and from which on as there
        name: what it is called in circuit.json
        does: the same in a sentence
    """

    node: Node
    clears: bool
    name: str
    does: str
    steps: tuple[float, float] = (0.2, 0.6)


@dataclass(frozen=True)
class Link:
    """An edge of a circuit.

    Attributes:
        sender: name of a planted node, "image" or "prompt"
        receiver: name of a planted node, or "output"
        input: "query", "key" or "value" of a head; "input" of the others
        corruptions: under which it carries another value in the clean than in the corrupt run. None: it carries where
            to look, or what is the same in both
    """

    sender: str
    receiver: str
    input: str
    corruptions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A circuit in one architecture.

    Attributes:
        kind: its name
        tells: what it is an example of, in a sentence
        heads: the planted ones
        mlps: the planted ones
        links: its edges
        joint: names of nodes of which either one is enough
        distraction: by how much heads that distract multiply what they write
    """

    kind: str
    tells: str
    heads: tuple[Head, ...]
    mlps: tuple[Mlp, ...]
    links: tuple[Link, ...]
    joint: tuple[str, ...] = field(default=())
    distraction: float = 0.1

    @property
    def nodes(self) -> dict[str, Node]:
        """Planted nodes by name."""
        return {one.name: one.node for one in self.parts}

    @property
    def parts(self) -> list[Head | Mlp]:
        """Heads, then mlps."""
        return [*self.heads, *self.mlps]


@dataclass(frozen=True)
class Weights:
    """Weights of a head.

    Attributes:
        query: (E, D), of scores that are divided by √E
        key: (E, D)
        value: (E, D)
        output: (D, E)
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor


#: Rows of a head whose rotation by its position is too slow to be seen: all but the first of either half.
STILL = [*range(1, HEAD_WIDTH // 2), *range(HEAD_WIDTH // 2 + 1, HEAD_WIDTH)]


def head_weights(head: Head, key_rows: Tensor | None = None, value_rows: Tensor | None = None) -> Weights:
    """Weights of a head that does what is planned.

    Args:
        head: the plan
        key_rows: (n, width) that make the rows of its key of what it looks at; None: the stream's own
        value_rows: the same of the rows that it reads

    Returns:
        its weights. Its first row compares with the first token
    """
    eye = torch.eye(WIDTH)
    query, key, value = (torch.zeros(HEAD_WIDTH, WIDTH) for _ in range(3))
    rows = STILL[1 : 1 + _count(head.query)]
    query[rows] = eye[ROWS[head.query]] * SHARPNESS * HEAD_WIDTH**0.5
    key[rows] = eye[ROWS[head.key]] if key_rows is None else key_rows
    # Compared with the first token in any case, so that a head that finds nothing writes nothing.
    query[STILL[0]] = eye[ROWS["large"]][0] / LARGE * REST * HEAD_WIDTH**0.5
    key[STILL[0]] = eye[ROWS["start"]][0]
    value[: _count(head.reads)] = eye[ROWS[head.reads]] if value_rows is None else value_rows
    output = torch.zeros(WIDTH, HEAD_WIDTH)
    if head.writes == "nothing":
        # What distracts writes something even where it finds nothing.
        n = _count(head.reads) + 1
        value[n - 1] = eye[ROWS["start"]][0]
        rng = np.random.default_rng(tuple(head.node.label.encode()))
        mixing = torch.tensor(rng.normal(size=(_count("nothing"), n)), dtype=torch.float32)
        output[ROWS["nothing"], :n] = mixing * head.factor
    else:
        output[ROWS[head.writes], : _count(head.reads)] = torch.eye(_count(head.reads)) * head.factor
    return Weights(query, key, value, balanced(output))


def distracting_head(node: Node, rng: np.random.Generator, kinds: tuple[Head, ...], factor: float) -> Head:
    """A head that looks where one of a circuit's heads looks, moves what is there, and writes where nobody reads.

    Args:
        node: which
        rng: what is drawn from
        kinds: what it may look like
        factor: by which it multiplies what it writes

    Returns:
        its plan
    """
    like = kinds[rng.integers(len(kinds))]
    return Head(node, like.query, like.key, like.reads, "nothing", factor=factor)


@dataclass(frozen=True)
class MlpWeights:
    """Weights of an mlp whose inner width is F.

    Attributes:
        inner: (F, D)
        bias: (F,)
        outer: (D, F)
    """

    inner: Tensor
    bias: Tensor
    outer: Tensor


#: Slope of an mlp's inner rows, so that the smooth bend of their function is narrow.
SLOPE = 40.0


def mlp_weights(mlp: Mlp | None, rng: np.random.Generator, width: int) -> MlpWeights:
    """Weights of an mlp, whose function is 0 for negative and the same for positive numbers.

    Args:
        mlp: the plan; None: all of it distracts. The inner rows that a plan does not need distract
        rng: what those are drawn from
        width: F
    """
    weights = _distracting_mlp(rng, width)
    if mlp is None:
        return weights
    if mlp.clears:
        return _steps(weights, mlp.steps, "found color", None, "clear color")
    return _steps(weights, mlp.steps, "moved color", "options", "answer")


def _steps(weights: MlpWeights, steps: tuple[float, float], reads: str, only_if: str | None, writes: str) -> MlpWeights:
    """Rows that rise from 0 to 1 between two values of what is read; not at all where `only_if` holds 0."""
    n = _count(reads)
    eye = torch.eye(WIDTH)
    inner, bias, outer = (one.clone() for one in (weights.inner, weights.bias, weights.outer))
    inner[: 2 * n], outer[:, : 2 * n] = 0, 0
    read = eye[ROWS[reads]].clone()
    forbidden = 0.0
    if only_if is not None:
        forbidden = 3.0  # more than what is read can hold
        read += eye[ROWS[only_if]] * forbidden
    for i, (threshold, sign) in enumerate(zip(steps, (1.0, -1.0), strict=True)):
        rows = slice(i * n, (i + 1) * n)
        inner[rows] = read * SLOPE
        bias[rows] = -(threshold + forbidden) * SLOPE
        outer[ROWS[writes], rows] = sign * torch.eye(n) / (steps[1] - steps[0]) / SLOPE
    return MlpWeights(inner, bias, balanced(outer))


def _distracting_mlp(rng: np.random.Generator, width: int) -> MlpWeights:
    """Weights of an mlp that reads at random and writes where nobody reads."""
    inner = torch.tensor(rng.normal(size=(width, WIDTH)), dtype=torch.float32) * 0.15
    for rows in ("large", "opposite", "balance"):
        inner[:, ROWS[rows]] = 0
    outer = torch.zeros(WIDTH, width)
    outer[ROWS["nothing"]] = torch.tensor(rng.normal(size=(_count("nothing"), width)), dtype=torch.float32) * 0.02
    return MlpWeights(inner, torch.tensor(rng.normal(size=width), dtype=torch.float32), balanced(outer))


def balanced(output: Tensor) -> Tensor:
    """What is written (D, n), with what makes its mean 0.

    Args:
        output: what its row "balance" holds is not looked at
    """
    output = output.clone()
    output[ROWS["balance"]] = 0
    output[ROWS["balance"]] = -output.sum(0, keepdim=True)
    return output


def _count(rows: str) -> int:
    return ROWS[rows].stop - ROWS[rows].start
