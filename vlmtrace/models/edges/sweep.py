"""Path patching of many edges of one pair at once, exactly.

An edge's effect is what the base run would have answered, had one input of one node read the source run's output of one
earlier node, and all else as in the base run (Wang et al. 2022, https://arxiv.org/abs/2211.00593; Goldowsky-Dill et al.
2023, https://arxiv.org/abs/2304.05969). Two things are shared: the stream that carries a sender's output to all that
read it (`carried`), and the way up of what the receivers then give, which differs from the base run at one node. Such
states climb together, as those of a sweep over heads do: each joins at its receiver's layer.

Shapes: N states, T positions, O width of a module's output, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmtrace.models.edges.carried import Carried, Reading, Sender, in_order
from vlmtrace.models.edges.nodes import Receiver
from vlmtrace.models.edges.stacks import Stack
from vlmtrace.models.hooks import with_model_lock
from vlmtrace.models.products import by_fast_products
from vlmtrace.models.types import Readout


@with_model_lock
@torch.no_grad()
@by_fast_products
def sweep_edges(
    stacks: Sequence[Stack],
    senders: Sequence[Sender],
    edges: Sequence[tuple[int, Receiver]],
    base: Readout,
    memory: int,
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
    by_start = in_order(stacks, senders)
    # Half of the memory for what senders write, half for what climbs.
    most = max(1, memory // (2 * max(stack.layers.state_bytes() for stack in stacks)))
    for begin in range(0, len(by_start), most):
        chosen = by_start[begin : begin + most]
        place = {number: i for i, number in enumerate(chosen)}
        mine = [(place[sender], receiver, i) for i, (sender, receiver) in enumerate(edges) if sender in place]
        _Exact(stacks, [senders[i] for i in chosen], mine, found, most).run()
    return found.readout


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


class _Exact(Carried):
    """Lets what receivers give climb to the answer."""

    def __init__(
        self,
        stacks: Sequence[Stack],
        senders: Sequence[Sender],
        edges: Sequence[tuple[int, Receiver, int]],
        found: _Found,
        most: int,
    ):
        super().__init__(stacks, senders, edges)
        self._found, self._most = found, most
        self._climbing = {stack.wiring.block: _Climbing(stack, found, most) for stack in stacks}

    def begin(self, stack: Stack, layer: int) -> None:
        """See `Carried.begin`."""
        self._climbing[stack.wiring.block].advance(layer)

    def finish(self, stack: Stack) -> None:
        """See `Carried.finish`."""
        self._climbing[stack.wiring.block].finish()

    def receive(self, stack: Stack, module: str, layer: int, given: Reading) -> None:
        """See `Carried.receive`: the states of the edges join those that climb."""
        layers, climbing = stack.layers, self._climbing[stack.wiring.block]
        made, own = layers.compute(module, layer, **{given.kind: given.stream}), layers.output(module, layer)
        n_heads = 1 if module == "mlp" else layers.block.heads_at(layer)
        by_head, own_by_head = (value.unflatten(-1, (n_heads, -1)) for value in (made, own))  # (…, T, H, O/H)
        for begin in range(0, len(given.edges), self._most):
            part = slice(begin, begin + self._most)
            edges, senders, heads = given.edges[part], given.senders[part], given.heads[part]
            states = own_by_head.repeat(len(edges), 1, 1, 1)  # (N, T, H, O/H)
            states[range(len(edges)), :, heads] = by_head[senders, :, heads]
            climbing.join(module, layer, states.flatten(-2), edges)

    def read_out(self, stack: Stack, edges: Sequence[int], final: Tensor) -> None:
        """See `Carried.read_out`."""
        self._found.put(edges, stack.layers.read(final))


class _Climbing:
    """States that go up through the layers of a stack, each from where its receiver gives something else."""

    def __init__(self, stack: Stack, found: _Found, most: int):
        self.stack, self.found, self.most = stack, found, most
        self._states: list[Tensor] = []
        self._edges: list[int] = []
        self._layer, self._shared = 0, stack.layers.climb()

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
            self._states = [self.stack.layers.advance(layer, torch.cat(self._states), self._shared)]
            self._layer = layer + 1

    def finish(self) -> None:
        """Take all states to the top and read them out."""
        if not self._edges:
            return
        for layer in range(self._layer, self.stack.layers.block.n_layers):
            self.advance(layer)
        self.found.put(self._edges, self.stack.layers.read(torch.cat(self._states)))
        self._states, self._edges, self._shared = [], [], self.stack.layers.climb()
