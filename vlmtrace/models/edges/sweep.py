"""Path patching of many edges of one pair at once, exactly.

An edge's effect is what the base run would have answered, had one input of one node read the source run's output of one
earlier node, and all else as in the base run (Wang et al. 2022, https://arxiv.org/abs/2211.00593; Goldowsky-Dill et al.
2023, https://arxiv.org/abs/2304.05969). Two things are shared:

1. What a sender writes goes up the residual stream past the nodes between, which give what they give in the base run:
   one such stream for each sender serves all of its edges, and one call of a module reads all of its heads.
2. What a receiver then gives differs from the base run at one node. Such states climb together, as those of a sweep
   over heads do: each joins at its receiver's layer.

Shapes: S senders, N states, T positions, D width of the residual stream, O width of a module's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vlmtrace.models.edges.layers import Stream
from vlmtrace.models.edges.nodes import HEAD_INPUTS, IMAGE, ONLY_INPUT, THE_OUTPUT, Node, Receiver
from vlmtrace.models.edges.stacks import Stack
from vlmtrace.models.products import by_fast_products
from vlmtrace.models.types import Readout


class Sender(NamedTuple):
    """A node whose output is another run's.

    Attributes:
        node: which
        position: of its output; None: all of them
    """

    node: Node
    position: int | None = None


@torch.no_grad()
@by_fast_products
def sweep_edges(
    stacks: Sequence[Stack], senders: Sequence[Sender], edges: Sequence[tuple[int, Receiver]], base: Readout, memory: int
) -> Readout:
    """Answer every edge of one pair.

    Args:
        stacks: in the order in which information flows
        senders: whose outputs are the source run's
        edges: each the number of a sender, and what reads it
        base: readout (1,) of the base run
        memory: bytes that states may take

    Returns:
        Readout (edge,)
    """
    found = _Found(base, len(edges))
    order = {stack.wiring.block: i for i, stack in enumerate(stacks)}
    by_start = sorted(range(len(senders)), key=lambda i: _start(senders[i].node, order))
    budget = _Budget(stacks, memory)
    for begin in range(0, len(by_start), budget.senders):
        chosen = by_start[begin : begin + budget.senders]
        place = {number: i for i, number in enumerate(chosen)}
        mine = [(place[sender], receiver, i) for i, (sender, receiver) in enumerate(edges) if sender in place]
        _Pass(stacks, [senders[i] for i in chosen], mine, found, budget.states).run()
    return found.readout


class _Budget:
    """How many senders and states are in memory at once."""

    def __init__(self, stacks: Sequence[Stack], memory: int):
        each = max(stack.layers.state_bytes() for stack in stacks)
        self.states = max(1, memory // (2 * each))
        self.senders = max(1, memory // (2 * each))


class _Found:
    """What has been read out so far; an edge that changes nothing has the base run's."""

    def __init__(self, base: Readout, n: int):
        self._columns = [column.repeat(n) for column in (base.correct, base.incorrect, base.log_normalizer)]

    def put(self, edges: Sequence[int], readout: Readout) -> None:
        """Keep the readout (1, N) of some edges."""
        for column, new in zip(
            self._columns, (readout.correct, readout.incorrect, readout.log_normalizer), strict=True
        ):
            column[list(edges)] = new[0].to(column.device)

    @property
    def readout(self) -> Readout:
        """Of all edges."""
        return Readout(*self._columns)


class _Pass:
    """Some senders' way through all stacks."""

    def __init__(
        self,
        stacks: Sequence[Stack],
        senders: Sequence[Sender],
        edges: Sequence[tuple[int, Receiver, int]],
        found: _Found,
        most: int,
    ):
        self.stacks, self.senders, self.found, self.most = stacks, senders, found, most
        self.order = {stack.wiring.block: i for i, stack in enumerate(stacks)}
        self.active: set[int] = set()  # senders whose output differs between the runs
        # By block, module, layer and input: sender, head and number of each edge.
        self.wanted: dict[tuple[str, str, int, str], list[tuple[int, int, int]]] = {}
        self.read_out: list[tuple[int, int]] = []
        for sender, receiver, edge in edges:
            node = receiver.node
            if node == THE_OUTPUT:
                self.read_out.append((sender, edge))
                continue
            assert node.layer is not None, "only the output is in no layer"
            key = (node.block, node.module, node.layer, receiver.input)
            self.wanted.setdefault(key, []).append((sender, node.head or 0, edge))

    def run(self) -> None:
        """Go up through all stacks and answer every edge."""
        streams: dict[str, Tensor] = {}  # by stack, what leaves it with each sender's output in it
        for stack in self.stacks:
            streams[stack.wiring.block] = self._through(stack, streams)
        chosen = [(sender, edge) for sender, edge in self.read_out if sender in self.active]
        if chosen:
            final = streams[self.stacks[-1].wiring.block][[sender for sender, _ in chosen]]
            self.found.put([edge for _, edge in chosen], self.stacks[-1].layers.read(final))

    def _through(self, stack: Stack, streams: dict[str, Tensor]) -> Tensor:
        """One stack: what leaves it (S, T, D), past its nodes, with each sender's output in it."""
        layers, climbing = stack.layers, _Climbing(stack, self.found, self.most)
        starts = [_start(one.node, self.order) for one in self.senders]
        mine = self.order[stack.wiring.block]
        n = sum(start < (mine, 0) for start in starts)  # senders come in the order in which they start
        entering = self._entering(stack, n)
        looked_at = {module: self._looked_at(stack, module, streams) for module in stack.wiring.looked_at}
        for layer in range(layers.block.n_layers):
            climbing.advance(layer)
            joining = sum(start == (mine, layer) for start in starts)
            entering = torch.cat([entering, layers.entering(layer).expand(joining, -1, -1)])  # (n, T, D)
            n += joining
            outputs = {module: self._outputs(stack, module, layer, n) for module in layers.modules}
            for module in layers.modules:
                seen = {} if stack.wiring.is_parallel else {one: outputs[one] for one in layers.before(module)}
                own = Stream(entering, {**layers.stream(module, layer).outputs, **seen})
                for kind in (ONLY_INPUT,) if module == "mlp" else HEAD_INPUTS:
                    other = looked_at.get(module) if kind in ("key", "value") else None
                    self._receive(climbing, module, layer, kind, own if other is None else Stream(other))
            if n:
                entering = self._left(stack, layer, entering, outputs)
        climbing.finish()
        return torch.cat([entering, layers.final().expand(len(self.senders) - n, -1, -1)])

    def _entering(self, stack: Stack, n: int) -> Tensor:
        """What enters layer 0 with the output of each of the first n senders in it."""
        found = stack.layers.entering(0).repeat(n, 1, 1)
        for i, (node, position) in enumerate(self.senders[:n]):
            if node in stack.inputs:
                self._put(found, i, stack.inputs[node], position, stack.first)
        return found

    def _looked_at(self, stack: Stack, module: str, streams: dict[str, Tensor]) -> Tensor:
        """What a module's keys and values are made of, with each sender's output in it."""
        at, base = stack.wiring.looked_at[module], stack.layers.looked_at(module)
        assert base is not None, "the module looks at something else than its own stream"
        if isinstance(at, str):
            return streams[at]
        found = base.repeat(len(self.senders), 1, 1)
        for i, (node, position) in enumerate(self.senders):
            if node == at:
                self._put(found, i, stack.looked_at[module], position, 0)
        return found

    def _outputs(self, stack: Stack, module: str, layer: int, n: int) -> Tensor:
        """What a module gives, with the output of each of the first n senders in it, where it is the module's."""
        base = stack.layers.output(module, layer)
        place = (stack.wiring.block, module, layer)
        mine = [i for i in range(n) if self.senders[i].node[:3] == place]
        if not mine:
            return base.expand(n, -1, -1)
        found, source = base.repeat(n, 1, 1), stack.source[module, layer]
        width = found.shape[-1] // (1 if module == "mlp" else stack.layers.block.heads_at(layer))
        for i in mine:
            node, position = self.senders[i]
            columns = slice((node.head or 0) * width, ((node.head or 0) + 1) * width)
            self._put(found[..., columns], i, source[..., columns], position, stack.first)
        return found

    def _put(self, found: Tensor, row: int, source: Tensor, position: int | None, first: int) -> None:
        """Set one sender's output, at one or all positions, to the source's; it is active if that changes anything."""
        at = slice(None) if position is None else slice(position - first, position - first + 1)
        if not torch.equal(found[row, at], source[0, at]):
            self.active.add(row)
            found[row, at] = source[0, at]

    def _left(self, stack: Stack, layer: int, entering: Tensor, outputs: dict[str, Tensor]) -> Tensor:
        left = stack.layers.leave(layer, entering, outputs)
        if layer in stack.later:
            for i, (node, position) in enumerate(self.senders[: len(left)]):
                if node == IMAGE:
                    at = slice(None) if position is None else slice(position - stack.first, position - stack.first + 1)
                    left[i, at] += stack.later[layer][0, at]
        return left

    def _receive(self, climbing: _Climbing, module: str, layer: int, kind: str, given: Stream) -> None:
        """Compute what a module gives with one of its inputs changed, and let its nodes' states join those that climb.

        Args:
            climbing: they join it
            module: which
            layer: of which layer
            kind: the input
            given: the input with each sender's output in it, (n, …)
        """
        all_wanted = self.wanted.get((climbing.stack.wiring.block, module, layer, kind), [])
        rows = sorted({sender for sender, _, _ in all_wanted} & self.active)
        if not rows:
            return
        place = {sender: row for row, sender in enumerate(rows)}
        wanted = [(place[sender], head, edge) for sender, head, edge in all_wanted if sender in place]
        outputs = {name: value[rows] if len(value) > 1 else value for name, value in given.outputs.items()}
        stream = Stream(given.entering[rows], outputs)
        layers = climbing.stack.layers
        made, own = layers.compute(module, layer, **{kind: stream}), layers.output(module, layer)
        n_heads = 1 if module == "mlp" else layers.block.heads_at(layer)
        by_head = made.unflatten(-1, (n_heads, -1))  # (n, T, H, O/H)
        own_by_head = own.unflatten(-1, (n_heads, -1))
        for begin in range(0, len(wanted), self.most):
            part = wanted[begin : begin + self.most]
            senders = torch.tensor([sender for sender, _, _ in part], device=made.device)
            heads = torch.tensor([head for _, head, _ in part], device=made.device)
            states = own_by_head.repeat(len(part), 1, 1, 1)  # (N, T, H, O/H)
            each = torch.arange(len(part), device=made.device)
            states[each, :, heads] = by_head[senders, :, heads]
            climbing.join(module, layer, states.flatten(-2), [edge for _, _, edge in part])


class _Climbing:
    """States that go up through the layers of a stack, each from where its receiver gives something else."""

    def __init__(self, stack: Stack, found: _Found, most: int):
        self.stack, self.found, self.most = stack, found, most
        self._states: list[Tensor] = []
        self._edges: list[int] = []
        self._layer = 0

    def join(self, module: str, layer: int, outputs: Tensor, edges: list[int]) -> None:
        """States whose module gives (N, T, O) join behind this layer."""
        if len(self._edges) + len(edges) > self.most:
            self.finish()
        self._states.append(self.stack.layers.enter(module, layer, outputs))
        self._edges += edges
        self._layer = layer + 1

    def advance(self, layer: int) -> None:
        """Take all states through a layer."""
        if self._edges:
            self._states = [self.stack.layers.advance(layer, torch.cat(self._states))]
            self._layer = layer + 1

    def finish(self) -> None:
        """Take all states to the top and read them out."""
        if not self._edges:
            return
        for layer in range(self._layer, self.stack.layers.block.n_layers):
            self.advance(layer)
        self.found.put(self._edges, self.stack.layers.read(torch.cat(self._states)))
        self._states, self._edges = [], []


def _start(node: Node, order: dict[str, int]) -> tuple[int, int]:
    """Where a node's output enters the stream: the number of the stack and the layer."""
    return (order.get(node.block, -1), -1 if node.layer is None else node.layer)
