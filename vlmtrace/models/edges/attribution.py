"""First-order estimates of what edges do, from gradients.

An edge moves one input of one node by what its sender writes. To first order the answer then moves by the gradient with
respect to that input, taken in some run, times that movement (edge attribution patching: Syed, Rager and Conmy 2023,
https://arxiv.org/abs/2310.10348). Which run, and whether the receiver is computed instead of linearised, is what the
methods differ in.

Shapes: S senders, E edges, H heads, T positions, D width of the residual stream, O width of a module's output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmtrace.models.edges.carried import Carried, Reading, Sender, in_order
from vlmtrace.models.edges.layers import NodeLayers, Stream
from vlmtrace.models.edges.nodes import Receiver, nodes_at
from vlmtrace.models.edges.stacks import Stack
from vlmtrace.models.types import Site


@dataclass(frozen=True)
class GradientRun:
    """A run in which gradients are taken.

    Attributes:
        layers: by block, the run taken apart
        outputs: by site, the gradient with respect to what a module gives in it, (1, T, O)
        final: the gradient with respect to what leaves the last layer of the last stack, (1, T, D)
    """

    layers: Mapping[str, NodeLayers]
    outputs: Mapping[Site, Tensor]
    final: Tensor


def attribute_edges(
    stacks: Sequence[Stack],
    senders: Sequence[Sender],
    edges: Sequence[tuple[int, Receiver]],
    runs: Sequence[GradientRun],
    computes_receivers: bool = False,
) -> Tensor:
    """Estimate what each edge of one pair adds to what the gradients are of.

    Args:
        stacks: in the order in which information flows
        senders: whose outputs are the source run's
        edges: each the number of a sender, and what reads it
        runs: over which the estimates are averaged
        computes_receivers: compute what a receiver then gives, in the base run, and take only what follows to first
            order: what a softmax does to its scores is then exact

    Returns:
        (edge,), float32
    """
    found = torch.zeros(len(edges))
    order = in_order(stacks, senders)
    place = {number: i for i, number in enumerate(order)}
    mine = [(place[sender], receiver, i) for i, (sender, receiver) in enumerate(edges)]
    for run in runs:
        kind = _Computed if computes_receivers else _Linear
        kind(stacks, [senders[i] for i in order], mine, run, found, 1 / len(runs)).run()
    return found


class _FirstOrder(Carried):
    """Puts together what enters receivers and gradients."""

    def __init__(
        self,
        stacks: Sequence[Stack],
        senders: Sequence[Sender],
        edges: Sequence[tuple[int, Receiver, int]],
        run: GradientRun,
        found: Tensor,
        weight: float,
    ):
        super().__init__(stacks, senders, edges)
        self._run, self._found, self._weight = run, found, weight

    def put(self, edges: Sequence[int], values: Tensor) -> None:
        """Add to the estimates (E,) of some edges."""
        self._found[list(edges)] += self._weight * values.float().cpu()

    def read_out(self, stack: Stack, edges: Sequence[int], final: Tensor) -> None:
        """See `Carried.read_out`."""
        with torch.no_grad():
            self.put(edges, ((final - stack.layers.final()) * self._run.final).sum((-1, -2)))


class _Linear(_FirstOrder):
    def receive(self, stack: Stack, module: str, layer: int, given: Reading) -> None:
        """See `Carried.receive`: the movement of the input times the gradient of each head with respect to it."""
        gradient = input_gradient(self._run, stack.wiring.block, module, layer, given.kind)
        base = stack.layers.stream(module, layer)
        other = stack.layers.looked_at(module, layer) if given.kind in ("key", "value") else None
        with torch.no_grad():
            moved = given.stream.entering - (base.entering if other is None else other)  # (S, T, D)
            total = torch.einsum("std,htd->sh", moved, gradient.entering)
            for name, of_output in gradient.outputs.items():
                if name in given.stream.outputs:
                    total = total + torch.einsum(
                        "sto,hto->sh", given.stream.outputs[name] - base.outputs[name], of_output
                    ).expand_as(total)
            self.put(given.edges, total[given.senders, given.heads])


class _Computed(_FirstOrder):
    @torch.no_grad()
    def receive(self, stack: Stack, module: str, layer: int, given: Reading) -> None:
        """See `Carried.receive`: the movement of what a head gives times the gradient with respect to that."""
        made = stack.layers.compute(module, layer, **{given.kind: given.stream})
        moved = (made - stack.layers.output(module, layer)) * self._run.outputs[Site(stack.wiring.block, module, layer)]
        n_heads = len(nodes_at(stack.layers.block, module, layer))
        total = moved.unflatten(-1, (n_heads, -1)).sum((-1, 1))  # (S, H)
        self.put(given.edges, total[given.senders, given.heads])


def input_gradient(run: GradientRun, block: str, module: str, layer: int, kind: str) -> Stream:
    """The gradient with respect to one input of each node of a module, in a run.

    Args:
        run: in which
        block: whose module
        module: which
        layer: of which layer
        kind: the input

    Returns:
        of what enters the layer (H, T, D), and of the outputs of the layer's earlier modules (H, T, O): for each head
        what goes through this head alone; H is 1 for an mlp
    """
    layers = run.layers[block]
    n_heads = len(nodes_at(layers.block, module, layer))
    stream = layers.stream(module, layer)
    looked_at = layers.looked_at(module, layer) if kind in ("key", "value") else None
    if looked_at is not None:
        stream = Stream(looked_at)

    def leaf(value: Tensor) -> Tensor:
        return value.detach().repeat(n_heads, 1, 1).requires_grad_()

    with torch.enable_grad():
        given = Stream(leaf(stream.entering), {name: leaf(value) for name, value in stream.outputs.items()})
        made = layers.compute(module, layer, **{kind: given})  # (H, T, O)
        by_head = (made * run.outputs[Site(block, module, layer)]).unflatten(-1, (n_heads, -1)).sum((1, -1))
        leaves = [given.entering, *given.outputs.values()]
        found = torch.autograd.grad(by_head.diagonal().sum(), leaves, allow_unused=True)
    filled = [torch.zeros_like(one) if g is None else g for one, g in zip(leaves, found, strict=True)]
    return Stream(filled[0], dict(zip(given.outputs, filled[1:], strict=True)))
