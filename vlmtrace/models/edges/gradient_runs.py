"""Runs of one pair between its base run and its source run, with the gradient of the answer at every node.

A run is computed node by node from what enters it: the inputs (or what one module gives) are part of the way from the
base run to the source run. At the base run itself the gradients are those of attribution patching; averaged along the
way they are integrated gradients (Sundararajan, Taly and Yan 2017, https://arxiv.org/abs/1703.01365).

Shapes: N runs, H heads, T positions of a stack from the first one that differs, M positions of what cross-attention
looks at, D width of the residual stream, O width of a module's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vlmtrace.models.edges.layers import Stream
from vlmtrace.models.edges.nodes import IMAGE, Node, inputs_at, nodes_at
from vlmtrace.models.edges.stacks import Stack
from vlmtrace.models.hooks import with_model_lock
from vlmtrace.models.types import AnswerIds, Readout, WholeAnswer

#: Block, module and layer.
ModuleAt = tuple[str, str, int]

#: Block and layer.
LayerAt = tuple[str, int]


@dataclass
class GradientRuns:
    """Some runs of one pair, and the gradients of the answer in each.

    Attributes:
        answers: what the gradients are of, (N,): the logit difference, or the log-probability of a whole answer
        received: by module, what enters each of its inputs, (N, …)
        gradients: by module, the gradient with respect to what it gives, (N, T, O)
        final: the gradient with respect to what leaves the last layer of the last stack, (N, T, D)
    """

    answers: Tensor
    received: dict[ModuleAt, dict[str, Stream]] = field(default_factory=dict)
    gradients: dict[ModuleAt, Tensor] = field(default_factory=dict)
    final: Tensor = field(default_factory=lambda: torch.empty(0))


@with_model_lock
def gradient_runs(
    stacks: Sequence[Stack],
    answer_ids: AnswerIds,
    shares: Sequence[float],
    moved: Node | None = None,
    dropped: LayerAt | None = None,
) -> GradientRuns:
    """Run one pair some parts of the way from the base run to the source run, and backwards.

    Args:
        stacks: of both runs, in the order in which information flows
        answer_ids: what is read out, of one pair
        shares: how far each run is on the way, 0 to 1
        moved: what is moved: an input node, or the module that a node belongs to, all of its heads together; None: all
            input nodes, and what follows of it
        dropped: no gradient goes through the modules of this layer (GradDrop: Kramár et al. 2024,
            https://arxiv.org/abs/2403.00745); None: through all

    Returns:
        the runs; modules that are computed before what is moved are left out
    """
    with torch.enable_grad():
        return _Runs(stacks, torch.tensor(shares), moved, dropped).backwards(answer_ids)


class _Runs:
    def __init__(self, stacks: Sequence[Stack], shares: Tensor, moved: Node | None, dropped: LayerAt | None):
        self.stacks, self.moved, self.dropped = stacks, moved, dropped
        self.shares = shares.to(stacks[0].layers.final())[:, None, None]  # (N, 1, 1)
        names = [stack.wiring.block for stack in stacks]
        if moved is None or moved.layer is None:
            self.start = (0, 0)
        else:
            self.start = (names.index(moved.block), moved.layer)
        self.received: dict[ModuleAt, dict[str, Stream]] = {}
        self.probes: dict[ModuleAt, Tensor] = {}

    def backwards(self, answer_ids: AnswerIds) -> GradientRuns:
        """Run, and take the gradients of the answers."""
        streams: dict[str, Tensor] = {}  # by stack, what leaves it in these runs
        for i, stack in enumerate(self.stacks):
            streams[stack.wiring.block] = self._through(i, stack, streams)
        last = self.stacks[-1]
        # All of it may have been computed before what is moved, or be dropped.
        final = streams[last.wiring.block] + torch.zeros_like(streams[last.wiring.block], requires_grad=True)
        read: Readout = last.layers.read(final)
        answers = (read.correct if isinstance(answer_ids, WholeAnswer) else read.logit_diff)[0]  # (N,)
        # Runs do not touch each other, so the gradient of the sum is each run's own.
        found = torch.autograd.grad(answers.sum(), [final, *self.probes.values()], allow_unused=True)
        return GradientRuns(
            answers.detach(),
            {at: _detached(inputs) for at, inputs in self.received.items()},
            {
                at: torch.zeros_like(probe) if gradient is None else gradient
                for (at, probe), gradient in zip(self.probes.items(), found[1:], strict=True)
            },
            found[0],
        )

    def _moves(self, node: Node) -> bool:
        return self.moved is None or self.moved == node

    def _between(self, base: Tensor, source: Tensor) -> Tensor:
        return torch.lerp(base.expand(len(self.shares), -1, -1), source.to(base), self.shares)

    def _through(self, number: int, stack: Stack, streams: dict[str, Tensor]) -> Tensor:
        layers, name = stack.layers, stack.wiring.block
        if number < self.start[0]:
            return layers.final()
        first = self.start[1] if number == self.start[0] else 0
        elsewhere: dict[Node | str | int, Stream] = {}  # what keys and values are made of, beside the stream
        entering = layers.entering(first).expand(len(self.shares), -1, -1)  # (N, T, D)
        for node, source in stack.inputs.items():
            if first == 0 and self._moves(node):
                entering = entering + self.shares * (source - layers.entering(0))
        for layer in range(first, layers.block.n_layers):
            if layer in stack.wiring.keys_at.values():
                elsewhere[layer] = Stream(entering)
            outputs: dict[str, Tensor] = {}
            for module in layers.modules:
                at = (name, module, layer)
                own = Stream(entering, dict(outputs))
                keys = stack.wiring.keys_of(module, layer)
                if keys is not None and keys not in elsewhere:
                    elsewhere[keys] = Stream(self._looked_at(stack, module, layer, streams))
                self.received[at] = {
                    kind: own if keys is None or kind == "query" else elsewhere[keys]
                    for kind in inputs_at(layers.block, module, layer)
                }
                outputs[module] = self._output(stack, at)
            entering = layers.leave(layer, entering, outputs, self._embedded(stack, layer))
            if layer in stack.later and self._moves(IMAGE):
                entering = entering + self.shares * stack.later[layer]
        return entering

    def _output(self, stack: Stack, at: ModuleAt) -> Tensor:
        """What a module gives in these runs, (N, T, O), behind a probe that reads the gradient."""
        block, module, layer = at
        if self.moved is not None and self.moved[:3] == at:
            made = self._between(stack.layers.output(module, layer), stack.source[module, layer])
        else:
            made = stack.layers.compute(module, layer, **self.received[at])
        self.probes[at] = torch.zeros_like(made, requires_grad=True)
        return made.detach() if self.dropped == (block, layer) else made + self.probes[at]

    def _embedded(self, stack: Stack, layer: int) -> Tensor | None:
        """What a layer is given of the inputs' embeddings beside the stream, (N, T, P)."""
        base = stack.layers.embedded(layer)
        if base is None:
            return None
        total = base.expand(len(self.shares), *base.shape[1:])
        for node, source in stack.embedded.get(layer, {}).items():
            if self._moves(node):
                total = total + self.shares * (source - base)
        return total

    def _looked_at(self, stack: Stack, module: str, layer: int, streams: dict[str, Tensor]) -> Tensor:
        at, base = stack.wiring.keys_of(module, layer), stack.layers.looked_at(module, layer)
        assert base is not None, "the module looks at something else than its own stream"
        if isinstance(at, str):
            return streams[at]
        # What enters a lower layer is the base run's, where that is computed before what is moved.
        return self._between(base, stack.looked_at[module]) if isinstance(at, Node) and self._moves(at) else base


def _detached(inputs: dict[str, Stream]) -> dict[str, Stream]:
    """Without their graph; what was one stream stays one, so that a layer makes keys and values of it at once."""
    kept = {
        id(stream): Stream(stream.entering.detach(), {name: value.detach() for name, value in stream.outputs.items()})
        for stream in inputs.values()
    }
    return {kind: kept[id(stream)] for kind, stream in inputs.items()}


@with_model_lock
def input_gradient(stack: Stack, runs: GradientRuns, module: str, layer: int, kind: str, memory: int) -> Stream:
    """The gradient with respect to one input of each node of a module, averaged over runs.

    Args:
        stack: whose module it is
        runs: in which the gradients are taken
        module: which
        layer: of which layer
        kind: the input
        memory: bytes that states may take

    Returns:
        of what enters the layer (H, T, D), and of the outputs of the layer's earlier modules (H, T, O): for each head
        what goes through this head alone; H is 1 for an mlp
    """
    at = (stack.wiring.block, module, layer)
    n_heads = len(nodes_at(stack.layers.block, module, layer))
    most = max(1, memory // (2 * stack.layers.state_bytes() * len(runs.answers)))
    parts = [
        _input_gradient(stack, runs, at, kind, range(begin, min(begin + most, n_heads)), n_heads)
        for begin in range(0, n_heads, most)
    ]
    names = parts[0].outputs
    return Stream(
        torch.cat([part.entering for part in parts]),
        {name: torch.cat([p.outputs[name] for p in parts]) for name in names},
    )


def _input_gradient(stack: Stack, runs: GradientRuns, at: ModuleAt, kind: str, heads: range, n_heads: int) -> Stream:
    _, module, layer = at
    n_runs, n = len(runs.answers), len(heads)

    def for_heads(value: Tensor) -> Tensor:
        return value.expand(n_runs, -1, -1).repeat(n, 1, 1)  # (h·N, T, D)

    own = runs.received[at]
    others = {
        id(one): Stream(for_heads(one.entering), {name: for_heads(value) for name, value in one.outputs.items()})
        for name, one in own.items()
        if name != kind
    }
    given = {name: others[id(one)] for name, one in own.items() if name != kind}
    with torch.enable_grad():
        stream = own[kind]
        leaves = {
            name: for_heads(value).requires_grad_() for name, value in {"": stream.entering, **stream.outputs}.items()
        }
        given[kind] = Stream(leaves[""], {name: value for name, value in leaves.items() if name})
        made = stack.layers.compute(module, layer, **given).unflatten(0, (n, n_runs))  # (h, N, T, O)
        by_head = (made * runs.gradients[at]).unflatten(-1, (n_heads, -1)).sum((1, 2, -1))  # (h, H)
        total = by_head[range(n), list(heads)].sum()
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    averaged = [
        torch.zeros_like(leaf[:n]) if gradient is None else gradient.unflatten(0, (n, n_runs)).mean(1)
        for leaf, gradient in zip(leaves.values(), found, strict=True)
    ]
    return Stream(averaged[0], dict(zip(list(leaves)[1:], averaged[1:], strict=True)))
