"""Which inputs of nodes read the same residual stream in a run of circuits.

Every input of every node may read a stream of its own, since each of its edges carries what it is told. Most edges
carry what most others do, though: inputs whose edges all carry the same read one stream, and a stack of thirty layers
goes up with a few streams instead of hundreds.

Shapes: C circuits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlmtrace.models.edges.nodes import IMAGE, THE_OUTPUT, Edge, Node, Receiver, inputs_at, nodes_at
from vlmtrace.models.edges.stacks import Stack

#: By receiver, the positions of the prompt that its edge carries; those that are not named carry all of it.
Words = Mapping[Receiver, Sequence[int]]

#: By sender, what its edge carries in each circuit: (C,).
_Carried = dict[Node, Tensor]


@dataclass
class Streams:
    """The streams of one stack.

    Attributes:
        carried: by stream, what the edge of each sender carries to it
        of: the stream that each receiver reads
        own: by layer and module, the inputs of its nodes that read the stack's own streams, input by input
        others: by layer, the keys and values of higher layers' heads that are made of what enters this layer
        later: what reads the final states: inputs of later stacks' nodes, or the output
        last: by stream, the last layer that it has to enter; above all layers, where final states are read
        words: by stream, the positions of the prompt that its edge carries, where these are not all
        of_image: by receiver whose keys or values are made of an input node, what that edge carries
        nothing: (C,) zeros: of edges that are not there
    """

    carried: list[_Carried]
    of: dict[Receiver, int]
    own: list[dict[str, list[Receiver]]]
    others: list[list[Receiver]]
    later: list[Receiver]
    last: list[int]
    words: dict[int, Sequence[int]]
    of_image: dict[Receiver, _Carried]
    nothing: Tensor

    @property
    def n_circuits(self) -> int:
        """C."""
        return len(self.nothing)

    def of_circuits(self, chosen: slice) -> Streams:
        """The same for some of the circuits."""
        return replace(
            self,
            carried=[{node: column[chosen] for node, column in one.items()} for one in self.carried],
            of_image={
                receiver: {node: column[chosen] for node, column in one.items()}
                for receiver, one in self.of_image.items()
            },
            nothing=self.nothing[chosen],
        )


def streams_of(stack: Stack, above: Sequence[Stack], edges: Sequence[Edge], carried: Tensor, words: Words) -> Streams:
    """Find the streams of a stack.

    Args:
        stack: whose streams
        above: the stacks that come later
        edges: all edges of the model
        carried: (C, edge), what each edge carries
        words: of the prompt's edges that do not carry all of it

    Returns:
        as few streams as there are ways to be told what to carry
    """
    layers = stack.layers
    columns = carried.T.to(layers.final().device, torch.int8)  # (edge, C)
    by_receiver: dict[Receiver, _Carried] = {}
    for edge, column in zip(edges, columns, strict=True):
        by_receiver.setdefault(edge.receiver, {})[edge.sender] = column
    n_layers = layers.block.n_layers
    own = [{module: _own(stack, module, layer) for module in layers.modules} for layer in range(n_layers)]
    others, later = [_of_others(stack, layer) for layer in range(n_layers)], _reading(stack, above)
    usual = _usual(by_receiver)
    numbers: dict[object, int] = {}
    found = Streams(
        [], {}, own, others, later, [], {}, {}, torch.zeros(len(carried), dtype=torch.int8).to(columns.device)
    )
    for receiver, layer, before in _in_order(stack, own, others, later):
        mine, key = _told(by_receiver.get(receiver, {}), before, usual, receiver)
        key = (key, tuple(words.get(receiver, ())), receiver in words)
        number = numbers.setdefault(key, len(numbers))
        if number == len(found.carried):
            found.carried.append(mine)
            found.last.append(layer)
            if receiver in words:
                found.words[number] = words[receiver]
        found.of[receiver] = number
        found.last[number] = max(found.last[number], layer)
    for layer in range(n_layers):
        for module in layers.modules:
            if isinstance(stack.wiring.keys_of(module, layer), Node):
                for kind in ("key", "value"):
                    for node in nodes_at(layers.block, module, layer):
                        found.of_image[Receiver(node, kind)] = by_receiver.get(Receiver(node, kind), {})
    return found


def _usual(by_receiver: Mapping[Receiver, _Carried]) -> _Carried:
    """What most edges of each sender carry."""
    columns: dict[Node, list[Tensor]] = {}
    for carried in by_receiver.values():
        for sender, column in carried.items():
            columns.setdefault(sender, []).append(column)
    found = {}
    for sender, given in columns.items():
        numbers = [_as_bytes(column) for column in given]
        most = Counter(numbers).most_common(1)[0][0]
        found[sender] = given[numbers.index(most)]
    return found


def _told(mine: _Carried, before: set[Node], usual: _Carried, receiver: Receiver) -> tuple[_Carried, object]:
    """What a receiver's stream carries, and what tells it from others: edges that carry something unusual."""
    if set(mine) != before:
        # Some node writes into the stream that this receiver does not read: nobody can share it.
        return mine, receiver
    unusual = {node: column for node, column in mine.items() if _as_bytes(column) != _as_bytes(usual[node])}
    return usual | unusual, frozenset((node, _as_bytes(column)) for node, column in unusual.items())


def _as_bytes(column: Tensor) -> bytes:
    return column.cpu().numpy().tobytes()


def _in_order(
    stack: Stack, own: list[dict[str, list[Receiver]]], others: list[list[Receiver]], later: list[Receiver]
) -> Iterator[tuple[Receiver, int, set[Node]]]:
    """Each receiver, the layer that its stream enters, and the nodes that have written into the stream before it."""
    layers = stack.layers
    written = set(stack.inputs)
    for embedded in stack.embedded.values():
        written |= set(embedded)
    if stack.later:
        written.add(IMAGE)
    for layer, modules in enumerate(own):
        for module, receivers in modules.items():
            earlier = {node for name in layers.before(module) for node in nodes_at(layers.block, name, layer)}
            for receiver in receivers:
                yield receiver, layer, written | earlier
        for receiver in others[layer]:
            yield receiver, layer, written
        written = written | {node for name in layers.modules for node in nodes_at(layers.block, name, layer)}
    for receiver in later:
        yield receiver, len(own), written


def _reading(stack: Stack, above: Sequence[Stack]) -> list[Receiver]:
    """What reads the final states of a stack: inputs of later stacks' nodes, or the output."""
    if not above:
        return [Receiver(THE_OUTPUT)]
    return [
        receiver
        for other in above
        for module, at in other.wiring.looked_at.items()
        if at == stack.wiring.block
        for layer in range(other.layers.block.n_layers)
        for node in nodes_at(other.layers.block, module, layer)
        for receiver in (Receiver(node, "key"), Receiver(node, "value"))
    ]


def _own(stack: Stack, module: str, layer: int) -> list[Receiver]:
    """The inputs of a module's nodes that read the stack's own stream, input by input."""
    block, wiring = stack.layers.block, stack.wiring
    kinds = inputs_at(block, module, layer) if wiring.keys_of(module, layer) is None else ("query",)
    return [Receiver(node, kind) for kind in kinds for node in nodes_at(block, module, layer)]


def _of_others(stack: Stack, layer: int) -> list[Receiver]:
    """The keys and values of higher layers' heads that are made of what enters this layer."""
    return [
        Receiver(node, kind)
        for reader, at in stack.wiring.keys_at.items()
        if at == layer
        for kind in ("key", "value")
        for node in nodes_at(stack.layers.block, stack.layers.modules[0], reader)
    ]
