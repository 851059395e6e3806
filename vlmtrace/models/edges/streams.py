"""Which inputs of nodes read the same residual stream in a run of circuits.

Every input of every node may read a stream of its own, since each of its edges carries what it is told. Most edges
carry what most others do, though: inputs whose edges all carry the same read one stream, and a stack of thirty layers
goes up with a few streams instead of hundreds.

There are few ways of being told what to carry, for many edges: each gets a number, and numbers are compared.

Shapes: C circuits, W ways of being told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vlmtrace.models.edges.nodes import HEAD_INPUTS, THE_OUTPUT, Edge, Node, Receiver, inputs_at, nodes_at
from vlmtrace.models.edges.stacks import Reader, Stack

#: By receiver, the positions of the prompt that its edge carries; those that are not named carry all of it.
Words = Mapping[Receiver, Sequence[int]]

#: By sender, the number of the way in which its edge is told what to carry.
_Told = dict[Node, int]

#: The number of edges that are not there: they carry nothing in any circuit.
NOTHING = 0


class Inputs(NamedTuple):
    """What the nodes of one module of a layer read.

    Attributes:
        kinds: the inputs that each of them has
        elsewhere: of what keys and values are made, see `Wiring.keys_of`; None: of the stack's stream as all else is
        of_node: by node and input the number of the stream that is read, or, where keys and values are made of an input
            node, of the way in which that edge is told
    """

    kinds: tuple[str, ...]
    elsewhere: Node | str | int | None
    of_node: list[tuple[int, ...]]

    @property
    def own(self) -> list[int]:
        """The stack's own streams that the layer's nodes read as they stand before the module."""
        kept = [at for at, kind in enumerate(self.kinds) if not self.is_elsewhere(kind)]
        return list(dict.fromkeys(numbers[at] for at in kept for numbers in self.of_node))

    @property
    def distinct(self) -> list[tuple[int, ...]]:
        """What nodes read that differs from what others read: as many runs of the module are needed."""
        return list(dict.fromkeys(self.of_node))

    def is_elsewhere(self, kind: str) -> bool:
        """Whether an input is made of something else than the stack's stream before the module."""
        return self.elsewhere is not None and kind in HEAD_INPUTS[1:]


@dataclass
class Streams:
    """The streams of one stack.

    Attributes:
        told: (W, C), what an edge carries that is told in each of the ways; the first of them is `NOTHING`
        carried: by stream, the way in which each sender's edge is told
        of: the stream that each receiver reads
        inputs: by layer and module, what its nodes read
        others: by layer, the streams as they enter it that keys and values of higher layers are made of
        later: the streams whose final states are read
        last: by stream, the last layer that it has to enter; above all layers, where final states are read
        words: by stream, the positions of the prompt that its edge carries, where these are not all
    """

    told: Tensor
    carried: list[_Told]
    of: dict[Receiver, int]
    inputs: list[dict[str, Inputs]]
    others: list[list[int]]
    later: list[int]
    last: list[int]
    words: dict[int, Sequence[int]]

    @property
    def n_circuits(self) -> int:
        """C."""
        return self.told.shape[1]

    def of_circuits(self, chosen: slice) -> Streams:
        """The same for some of the circuits."""
        return replace(self, told=self.told[:, chosen])

    def mask(self, sender: Node, streams: Sequence[int]) -> Tensor:
        """What a sender's edge to each of some streams carries in each circuit: (stream, C)."""
        return self.told[[self.carried[stream].get(sender, NOTHING) for stream in streams]]


def streams_of(stacks: Sequence[Stack], edges: Sequence[Edge], carried: Tensor, words: Words) -> list[Streams]:
    """Find the streams of each stack.

    Args:
        stacks: in the order in which information flows
        edges: all edges of the model
        carried: (C, edge), what each edge carries
        words: of the prompt's edges that do not carry all of it

    Returns:
        of each stack as few streams as there are ways in which its readers' edges are told
    """
    numbers, told = _numbered(carried)
    by_receiver: dict[Receiver, _Told] = {}
    for edge, number in zip(edges, numbers, strict=True):
        by_receiver.setdefault(edge.receiver, {})[edge.sender] = number
    usual = _usual(by_receiver.values())
    found: dict[str, Streams] = {}
    for i, stack in enumerate(stacks):
        mine = Streams(told.to(stack.layers.final().device), [], {}, [], [], [], [], {})
        later = _reading(stack, stacks[i + 1 :])
        _sort(mine, [*stack.readers, *later], by_receiver, usual, words)
        n_layers = stack.layers.block.n_layers
        mine.inputs = [_inputs(stack, layer, mine, found, by_receiver) for layer in range(n_layers)]
        mine.others = [_streams(mine, stack.read_above(layer)) for layer in range(n_layers)]
        mine.later = _streams(mine, [reader.receiver for reader in later])
        found[stack.wiring.block] = mine
    return list(found.values())


def _numbered(carried: Tensor) -> tuple[list[int], Tensor]:
    """Of each edge the number of the way in which it is told what to carry; and all ways that differ, (W, C)."""
    by_edge = np.ascontiguousarray(carried.cpu().numpy().astype(np.int8).T)
    known = {bytes(by_edge.shape[1]): NOTHING}
    numbers = [known.setdefault(row.tobytes(), len(known)) for row in by_edge]
    told = np.frombuffer(b"".join(known), dtype=np.int8).reshape(len(known), -1)
    return numbers, torch.from_numpy(told.copy())


def _usual(all_told: Iterable[_Told]) -> _Told:
    """In which way most edges of each sender are told."""
    found: dict[Node, Counter[int]] = {}
    for told in all_told:
        for sender, number in told.items():
            found.setdefault(sender, Counter())[number] += 1
    return {sender: counted.most_common(1)[0][0] for sender, counted in found.items()}


def _sort(
    found: Streams, readers: Sequence[Reader], by_receiver: Mapping[Receiver, _Told], usual: _Told, words: Words
) -> None:
    """Give each reader its stream, a new one where no other reader's edges are told the same."""
    known: dict[Hashable, int] = {}
    for receiver, layer, before in readers:
        mine = by_receiver.get(receiver, {})
        told, apart = _told(mine, before, usual, receiver)
        of_words = tuple(words[receiver]) if receiver in words else None
        stream = known.setdefault((apart, of_words), len(known))
        if stream == len(found.carried):
            found.carried.append(told)
            found.last.append(layer)
            if of_words is not None:
                found.words[stream] = of_words
        found.of[receiver] = stream
        found.last[stream] = max(found.last[stream], layer)


def _told(mine: _Told, before: frozenset[Node], usual: _Told, receiver: Receiver) -> tuple[_Told, Hashable]:
    """How a receiver's edges are told, and what tells its stream from others: edges that are told something unusual."""
    if mine.keys() != before:
        # Some node writes into the stream that this receiver does not read: nobody can share it.
        return mine, receiver
    unusual = {sender: number for sender, number in mine.items() if number != usual[sender]}
    return usual | unusual, frozenset(unusual.items())


def _inputs(
    stack: Stack, layer: int, mine: Streams, below: Mapping[str, Streams], by_receiver: Mapping[Receiver, _Told]
) -> dict[str, Inputs]:
    """By module of a layer, what its nodes read."""
    block, found = stack.layers.block, {}
    for module in stack.layers.modules:
        at = stack.wiring.keys_of(module, layer)
        one = Inputs(inputs_at(block, module, layer), at, [])
        for node in nodes_at(block, module, layer):
            numbers = []
            for kind in one.kinds:
                receiver = Receiver(node, kind)
                if isinstance(at, Node) and one.is_elsewhere(kind):
                    numbers.append(by_receiver.get(receiver, {}).get(at, NOTHING))
                elif isinstance(at, str) and one.is_elsewhere(kind):
                    numbers.append(below[at].of[receiver])
                else:
                    numbers.append(mine.of[receiver])
            one.of_node.append(tuple(numbers))
        found[module] = one
    return found


def _streams(found: Streams, receivers: Iterable[Receiver]) -> list[int]:
    """The streams that some receivers read, each once."""
    return list(dict.fromkeys(found.of[receiver] for receiver in receivers))


def _reading(stack: Stack, above: Sequence[Stack]) -> list[Reader]:
    """What reads the final states of a stack: inputs of later stacks' nodes, or the output."""
    receivers = [
        Receiver(node, kind)
        for other in above
        for module, at in other.wiring.looked_at.items()
        if at == stack.wiring.block
        for layer in range(other.layers.block.n_layers)
        for node in nodes_at(other.layers.block, module, layer)
        for kind in HEAD_INPUTS[1:]
    ]
    receivers = receivers if above else [Receiver(THE_OUTPUT)]
    return [Reader(receiver, stack.layers.block.n_layers, stack.written) for receiver in receivers]
