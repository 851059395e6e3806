"""What some nodes write, carried up the residual stream past the nodes between.

Those give what they give in the base run. One stream for each sender serves all of its edges.

Shapes: S senders, n of them that have started, T positions, M positions of what cross-attention looks at, D width of
the residual stream, O width of a module's output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vlmtrace.models.edges.layers import Stream
from vlmtrace.models.edges.nodes import EVERYTHING, IMAGE, THE_OUTPUT, Node, Receiver, inputs_at
from vlmtrace.models.edges.stacks import Stack


class Sender(NamedTuple):
    """A node whose output is another run's.

    Attributes:
        node: which
        position: of its output; None: all of them
    """

    node: Node
    position: int | None = None


class Reading(NamedTuple):
    """What enters one input of a module's nodes by some edges.

    Attributes:
        kind: the input
        stream: with each sender's output in it, (sender, T, D)
        senders: of each edge, the row of its sender in `stream`
        heads: of each edge, the head that reads it; 0 for an mlp
        edges: their numbers
    """

    kind: str
    stream: Stream
    senders: list[int]
    heads: list[int]
    edges: list[int]


def in_order(stacks: Sequence[Stack], senders: Sequence[Sender]) -> list[int]:
    """The numbers of senders, in the order in which they start.

    Args:
        stacks: in the order in which information flows
        senders: in any order
    """
    order = {stack.wiring.block: i for i, stack in enumerate(stacks)}
    return sorted(range(len(senders)), key=lambda i: _start(senders[i].node, order))


class Carried(ABC):
    """Some senders' way through all stacks: what they write, as it stands before every node that reads it.

    Attributes:
        stacks: in the order in which information flows
        senders: in the order in which they start
        active: numbers of the senders whose output differs between the runs
    """

    def __init__(
        self,
        stacks: Sequence[Stack],
        senders: Sequence[Sender],
        edges: Sequence[tuple[int, Receiver, int]],
    ):
        """Prepare to go up.

        Args:
            stacks: from `stacks_of`
            senders: in the order of `in_order`
            edges: each the number of its sender, what reads it, and the edge's own number
        """
        self.stacks, self.senders = stacks, senders
        self._order = {stack.wiring.block: i for i, stack in enumerate(stacks)}
        self.active: set[int] = set()
        # By block, module, layer and input: sender, head and number of each edge.
        self._wanted: dict[tuple[str, str, int, str], list[tuple[int, int, int]]] = {}
        self._into_output: list[tuple[int, int]] = []
        for sender, receiver, edge in edges:
            node = receiver.node
            if node == THE_OUTPUT:
                self._into_output.append((sender, edge))
                continue
            assert node.layer is not None, "only the output is in no layer"
            key = (node.block, node.module, node.layer, receiver.input)
            self._wanted.setdefault(key, []).append((sender, node.head or 0, edge))

    @abstractmethod
    def receive(self, stack: Stack, module: str, layer: int, given: Reading) -> None:
        """Deal with all edges into one input of the nodes of a module.

        Args:
            stack: whose module it is
            module: which
            layer: of which layer
            given: the edges, and what their senders make of the input
        """

    @abstractmethod
    def read_out(self, stack: Stack, edges: Sequence[int], final: Tensor) -> None:
        """Deal with edges into the output, given what leaves the last stack with their sender's output in it."""

    def begin(self, stack: Stack, layer: int) -> None:  # noqa: B027 - not all have something to do
        """Called before a layer's modules receive."""

    def finish(self, stack: Stack) -> None:  # noqa: B027 - not all have something to do
        """Called when all modules of a stack have received."""

    def run(self) -> None:
        """Go up through all stacks."""
        streams: dict[str, Tensor] = {}  # by stack, what leaves it with each sender's output in it
        for stack in self.stacks:
            streams[stack.wiring.block] = self._through(stack, streams)
        chosen = [(sender, edge) for sender, edge in self._into_output if sender in self.active]
        if chosen:
            final = streams[self.stacks[-1].wiring.block][[sender for sender, _ in chosen]]
            self.read_out(self.stacks[-1], [edge for _, edge in chosen], final)

    def _through(self, stack: Stack, streams: dict[str, Tensor]) -> Tensor:
        """One stack: what leaves it (S, T, D), past its nodes, with each sender's output in it."""
        layers, mine = stack.layers, self._order[stack.wiring.block]
        starts = [_start(one.node, self._order) for one in self.senders]
        n = sum(start < (mine, 0) for start in starts)  # senders come in the order in which they start
        entering = self._entering(stack, n)
        elsewhere: dict[Node | str | int, Tensor] = {}  # what keys and values are made of, beside the stream
        for layer in range(layers.block.n_layers):
            self.begin(stack, layer)
            joining = sum(start == (mine, layer) for start in starts)
            entering = torch.cat([entering, layers.entering(layer).expand(joining, -1, -1)])  # (n, T, D)
            n += joining
            entering = self._with_everything(entering, stack.entering[layer])
            if layer in stack.wiring.keys_at.values():
                elsewhere[layer] = entering
            outputs = {module: self._outputs(stack, module, layer, n) for module in layers.modules}
            for module in layers.modules:
                at = stack.wiring.keys_of(module, layer)
                if at is not None and at not in elsewhere:
                    elsewhere[at] = self._looked_at(stack, module, layer, streams)
                seen = {} if stack.wiring.is_parallel else {one: outputs[one] for one in layers.before(module)}
                own = Stream(entering, {**layers.stream(module, layer).outputs, **seen})
                for kind in inputs_at(layers.block, module, layer):
                    wanted = self._wanted.get((stack.wiring.block, module, layer, kind), [])
                    given = self._reading(kind, wanted, own if at is None or kind == "query" else Stream(elsewhere[at]))
                    if given is not None:
                        self.receive(stack, module, layer, given)
            if n:
                entering = self._left(stack, layer, entering, outputs)
        self.finish(stack)
        entering = self._with_everything(entering, stack.source_final)
        return torch.cat([entering, layers.final().expand(len(self.senders) - n, -1, -1)])

    def _reading(self, kind: str, wanted: list[tuple[int, int, int]], given: Stream) -> Reading | None:
        """The edges of active senders among those that are wanted; None: there are none."""
        rows = sorted({sender for sender, _, _ in wanted} & self.active)
        if not rows:
            return None
        place = {sender: row for row, sender in enumerate(rows)}
        kept = [(place[sender], head, edge) for sender, head, edge in wanted if sender in place]
        outputs = {name: value[rows] if len(value) > 1 else value for name, value in given.outputs.items()}
        return Reading(kind, Stream(given.entering[rows], outputs), *(list(part) for part in zip(*kept, strict=True)))

    def _with_everything(self, stream: Tensor, source: Tensor) -> Tensor:
        """A stream in which all nodes' outputs together are the source run's, where that is what is sent."""
        rows = [i for i, one in enumerate(self.senders[: len(stream)]) if one.node == EVERYTHING]
        if rows:
            stream = stream.clone()
            stream[rows] = source
            self.active.update(rows)
        return stream

    def _entering(self, stack: Stack, n: int) -> Tensor:
        """What enters layer 0 with the output of each of the first n senders in it."""
        found = stack.layers.entering(0).repeat(n, 1, 1)
        for i, (node, position) in enumerate(self.senders[:n]):
            if node in stack.inputs:
                self._put(found, i, stack.inputs[node], position, stack.first)
        return found

    def _looked_at(self, stack: Stack, module: str, layer: int, streams: dict[str, Tensor]) -> Tensor:
        """What a module's keys and values are made of, with each sender's output in it."""
        at, base = stack.wiring.keys_of(module, layer), stack.layers.looked_at(module, layer)
        assert base is not None, "the module looks at something else than its own stream"
        if isinstance(at, str):
            return self._with_everything(streams[at], stack.looked_at[module])
        found = base.repeat(len(self.senders), 1, 1)
        for i, (node, position) in enumerate(self.senders):
            if node == at:
                self._put(found, i, stack.looked_at[module], position, 0)
        return self._with_everything(found, stack.looked_at[module])

    def _outputs(self, stack: Stack, module: str, layer: int, n: int) -> Tensor:
        """What a module gives, with the output of each of the first n senders in it, where it is the module's."""
        base = stack.layers.output(module, layer)
        place = (stack.wiring.block, module, layer)
        mine = [i for i in range(n) if self.senders[i].node[:3] == place]
        source = stack.source[module, layer]
        if not mine:
            return self._with_everything(base.expand(n, -1, -1), source)
        found = base.repeat(n, 1, 1)
        width = found.shape[-1] // (1 if module == "mlp" else stack.layers.block.heads_at(layer))
        for i in mine:
            node, position = self.senders[i]
            columns = slice((node.head or 0) * width, ((node.head or 0) + 1) * width)
            self._put(found[..., columns], i, source[..., columns], position, stack.first)
        return self._with_everything(found, source)

    def _put(self, found: Tensor, row: int, source: Tensor, position: int | None, first: int) -> None:
        """Set one sender's output, at one or all positions, to the source's; it is active if that changes anything."""
        at = _rows_at(position, first)
        if not torch.equal(found[row, at], source[0, at]):
            self.active.add(row)
            found[row, at] = source[0, at]

    def _left(self, stack: Stack, layer: int, entering: Tensor, outputs: dict[str, Tensor]) -> Tensor:
        embedded = stack.layers.embedded(layer)
        if layer in stack.embedded and embedded is not None:
            embedded = embedded.repeat(len(entering), 1, 1)
            for i, (node, position) in enumerate(self.senders[: len(entering)]):
                if node in stack.embedded[layer]:
                    self._put(embedded, i, stack.embedded[layer][node], position, stack.first)
        left = stack.layers.leave(layer, entering, outputs, embedded)
        if layer in stack.later:
            for i, (node, position) in enumerate(self.senders[: len(left)]):
                if node == IMAGE:
                    at = _rows_at(position, stack.first)
                    left[i, at] += stack.later[layer][0, at]
        return left


def _rows_at(position: int | None, first: int) -> slice:
    """The rows of one position or all; none of a position before the first that is computed, where both runs agree."""
    if position is None:
        return slice(None)
    return slice(max(0, position - first), max(0, position - first + 1))


def _start(node: Node, order: dict[str, int]) -> tuple[int, int]:
    """Where a node's output enters the stream: the number of the stack and the layer."""
    return (order.get(node.block, -1), -1 if node.layer is None else node.layer)
