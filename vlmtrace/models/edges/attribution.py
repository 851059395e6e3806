"""First-order estimates of what edges do, from gradients.

An edge moves one input of one node by what its sender writes. To first order the answer then moves by the gradient with
respect to that input, taken in some runs, times that movement (edge attribution patching: Syed, Rager and Conmy 2023,
https://arxiv.org/abs/2310.10348). In which runs, and whether the receiver is computed instead of linearised, is what
the methods differ in. The movement is exact: norms on the way to the receiver are computed, as in the base run.

Shapes: S senders, E edges, N runs, H heads, T positions, D width of the residual stream, O width of a module's output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmtrace.models.edges.carried import Carried, Reading, Sender, in_order
from vlmtrace.models.edges.gradient_runs import GradientRuns, input_gradient
from vlmtrace.models.edges.nodes import Receiver, nodes_at
from vlmtrace.models.edges.stacks import Stack
from vlmtrace.models.hooks import with_model_lock


@with_model_lock
def attribute_edges(
    stacks: Sequence[Stack],
    senders: Sequence[Sender],
    edges: Sequence[tuple[int, Receiver]],
    runs: Sequence[GradientRuns],
    memory: int,
    computes_receivers: bool = False,
) -> Tensor:
    """Estimate what each edge of one pair adds to what the gradients are of.

    Args:
        stacks: in the order in which information flows
        senders: whose outputs are the source run's
        edges: each the number of a sender, and what reads it
        runs: over all of which the estimates are averaged
        memory: bytes that states may take
        computes_receivers: compute what a receiver then gives, in the base run, and take only what follows to first
            order: what a softmax does to its scores is then exact

    Returns:
        (edge,), float32
    """
    found = torch.zeros(len(edges))
    order = in_order(stacks, senders)
    kind = _Computed if computes_receivers else _Linear
    n_runs = sum(len(some.answers) for some in runs)
    most = max(1, memory // (2 * max(stack.layers.state_bytes() for stack in stacks)))
    for begin in range(0, len(order), most):
        chosen = order[begin : begin + most]
        place = {number: i for i, number in enumerate(chosen)}
        mine = [(place[sender], receiver, i) for i, (sender, receiver) in enumerate(edges) if sender in place]
        for some in runs:
            weight = len(some.answers) / n_runs
            kind(stacks, [senders[i] for i in chosen], mine, some, found, weight, memory).run()
    return found


class _FirstOrder(Carried):
    """Puts together what enters receivers and gradients."""

    def __init__(
        self,
        stacks: Sequence[Stack],
        senders: Sequence[Sender],
        edges: Sequence[tuple[int, Receiver, int]],
        runs: GradientRuns,
        found: Tensor,
        weight: float,
        memory: int,
    ):
        super().__init__(stacks, senders, edges)
        self._runs, self._found, self._weight, self._memory = runs, found, weight, memory

    @torch.no_grad()
    def run(self) -> None:
        """See `Carried.run`."""
        super().run()

    def put(self, edges: Sequence[int], values: Tensor) -> None:
        """Add to the estimates (E,) of some edges."""
        self._found[list(edges)] += self._weight * values.float().cpu()

    def read_out(self, stack: Stack, edges: Sequence[int], final: Tensor) -> None:
        """See `Carried.read_out`."""
        self.put(edges, ((final - stack.layers.final()) * self._runs.final.mean(0)).sum((-1, -2)))


class _Linear(_FirstOrder):
    def receive(self, stack: Stack, module: str, layer: int, given: Reading) -> None:
        """See `Carried.receive`: the movement of the input times the gradient of each head with respect to it."""
        gradient = input_gradient(stack, self._runs, module, layer, given.kind, self._memory)
        base = stack.layers.stream(module, layer)
        other = stack.layers.looked_at(module, layer) if given.kind in ("key", "value") else None
        moved = given.stream.entering - (base.entering if other is None else other)  # (S, T, D)
        total = torch.einsum("std,htd->sh", moved, gradient.entering)
        for name, of_output in gradient.outputs.items():
            if name in given.stream.outputs:
                total = total + torch.einsum("sto,hto->sh", given.stream.outputs[name] - base.outputs[name], of_output)
        self.put(given.edges, total[given.senders, given.heads])


class _Computed(_FirstOrder):
    def receive(self, stack: Stack, module: str, layer: int, given: Reading) -> None:
        """See `Carried.receive`: the movement of what a head gives times the gradient with respect to that."""
        made = stack.layers.compute(module, layer, **{given.kind: given.stream})
        gradient = self._runs.gradients[stack.wiring.block, module, layer].mean(0)  # (T, O)
        moved = (made - stack.layers.output(module, layer)) * gradient
        n_heads = len(nodes_at(stack.layers.block, module, layer))
        total = moved.unflatten(-1, (n_heads, -1)).sum((-1, 1))  # (S, H)
        self.put(given.edges, total[given.senders, given.heads])
