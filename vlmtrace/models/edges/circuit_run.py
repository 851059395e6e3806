"""Run a pair with many edges set at once: a circuit of edges, or paths from one run into another.

Each edge carries what its sender gives in the base run, in this very run, or in the source run. A circuit run is that
with what this run gives inside, and the base run's outside.

The circuit run of Wang et al. 2022 (https://arxiv.org/abs/2211.00593), Conmy et al. 2023
(https://arxiv.org/abs/2304.14997) and MIB (Mueller et al. 2025, https://arxiv.org/abs/2504.13151): input nodes give
what they give in the source run, every other node computes its output from what its own edges carry. With all edges
inside that is the source run, with none the base run.

Every input of every node has a residual stream of its own. All of them go up together.

Shapes: C circuits, R receivers, T positions, D width of the residual stream, O width of a module's output, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from vlmtrace.models.edges.layers import Stream
from vlmtrace.models.edges.nodes import IMAGE, PROMPT, THE_OUTPUT, Edge, Node, Receiver, inputs_at, nodes_at
from vlmtrace.models.edges.stacks import Stack
from vlmtrace.models.products import by_fast_products
from vlmtrace.models.types import Readout

#: By stack, or by layer, the streams of those that read it.
_Read = dict[str | int, dict[Receiver, Tensor]]

#: What an edge carries: what its sender gives in the base run, in the very run that goes on, or in the source run.
OF_BASE, OF_RUN, OF_SOURCE = 0, 1, 2

#: By receiver, the positions of the prompt that its edge carries; those that are not named carry all of it.
Words = Mapping[Receiver, Sequence[int]]
NO_WORDS: Words = MappingProxyType({})


@torch.no_grad()
@by_fast_products
def run_circuits(
    stacks: Sequence[Stack], edges: Sequence[Edge], carried: Tensor, memory: int, words: Words = NO_WORDS
) -> Readout:
    """Run one pair with each of several circuits.

    Args:
        stacks: from `stacks_of`
        edges: all edges of the model
        carried: (C, edge) bool, or `OF_BASE`, `OF_RUN` or `OF_SOURCE`: what each edge carries. Edges of input nodes
            carry what the source run has as soon as it is not `OF_BASE`
        memory: bytes that streams may take
        words: of the prompt's edges that do not carry all of it

    Returns:
        Readout (1, C)
    """
    layers = stacks[-1].layers
    return Readout.cat([layers.read(final) for final in _final_states(stacks, edges, carried, memory, words)], dim=1)


@torch.no_grad()
@by_fast_products
def divergences(stacks: Sequence[Stack], edges: Sequence[Edge], carried: Tensor, whole: Tensor, memory: int) -> Tensor:
    """How far the answers of circuits are from those of the whole model: KL(whole model ‖ circuit).

    Args:
        stacks: from `stacks_of`
        edges: all edges of the model
        carried: as in `run_circuits`
        whole: (vocabulary,) logits of the whole model where the answer begins
        memory: bytes that streams may take

    Returns:
        (C,) float64, in nats: of the distributions over the token with which an answer begins
    """
    layers, expected = stacks[-1].layers, whole.double().log_softmax(-1)
    parts = []
    for final in _final_states(stacks, edges, carried, memory):
        found = layers.logits(final)[0, :, 0].double().log_softmax(-1)  # (C, vocabulary)
        wanted = expected.to(found.device)
        parts.append((wanted.exp() * (wanted - found).masked_fill(wanted == -torch.inf, 0)).sum(-1))
    return torch.cat(parts)


def _final_states(
    stacks: Sequence[Stack], edges: Sequence[Edge], carried: Tensor, memory: int, words: Words = NO_WORDS
) -> Iterator[Tensor]:
    """What leaves the last layer (C, T, D), of some circuits after the other."""
    receivers = len({edge.receiver for edge in edges})
    size = max(1, memory // (receivers * max(stack.layers.state_bytes() for stack in stacks)))
    for begin in range(0, len(carried), size):
        yield _Run(stacks, edges, carried[begin : begin + size], words).final()


class _Run:
    def __init__(self, stacks: Sequence[Stack], edges: Sequence[Edge], carried: Tensor, words: Words):
        self.stacks, self.n, self.words = stacks, len(carried), words
        device = stacks[0].layers.final().device
        columns = carried.T.to(device, torch.int8)  # (edge, C)
        self._nothing = torch.zeros(self.n, dtype=torch.int8, device=device)
        # By receiver and sender, what their edge carries in each circuit: (C,).
        self.carried: dict[Receiver, dict[Node, Tensor]] = {}
        for edge, column in zip(edges, columns, strict=True):
            self.carried.setdefault(edge.receiver, {})[edge.sender] = column

    def final(self) -> Tensor:
        """Go up through all stacks: what leaves the last, (C, T, D)."""
        # By stack, what reads its final states; by layer, what in layers above reads what enters it: (C, T, D) each.
        final: _Read = {}
        for i, stack in enumerate(self.stacks):
            later = self._reading(stack, self.stacks[i + 1 :])
            final[stack.wiring.block] = self._through(stack, later, final)
        return final[self.stacks[-1].wiring.block][Receiver(THE_OUTPUT)]

    def _reading(self, stack: Stack, above: Sequence[Stack]) -> list[Receiver]:
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

    def _own(self, stack: Stack, module: str, layer: int) -> list[Receiver]:
        """The inputs of a module's nodes that read the stack's own stream, input by input."""
        block, wiring = stack.layers.block, stack.wiring
        kinds = inputs_at(block, module, layer) if wiring.keys_of(module, layer) is None else ("query",)
        return [Receiver(node, kind) for kind in kinds for node in nodes_at(block, module, layer)]

    def _of_others(self, stack: Stack, layer: int) -> list[Receiver]:
        """The keys and values of higher layers' heads that are made of what enters this layer."""
        return [
            Receiver(node, kind)
            for reader, at in stack.wiring.keys_at.items()
            if at == layer
            for kind in ("key", "value")
            for node in nodes_at(stack.layers.block, stack.layers.modules[0], reader)
        ]

    def _through(self, stack: Stack, later: list[Receiver], final: _Read) -> dict[Receiver, Tensor]:
        layers = stack.layers
        by_layer = [
            {module: self._own(stack, module, layer) for module in layers.modules}
            for layer in range(layers.block.n_layers)
        ]
        of_others = [self._of_others(stack, layer) for layer in range(layers.block.n_layers)]
        waiting = [
            receiver
            for own, others in zip(by_layer, of_others, strict=True)
            for some in (*own.values(), others)
            for receiver in some
        ]
        waiting += later
        entering = self._with_inputs(layers.entering(0), stack.inputs, waiting, stack.first)  # (R, C, T, D)
        assert entering is not None, "something enters the lowest layer"
        for layer, own in enumerate(by_layer):
            made: dict[str, Tensor] = {}  # by module, what the circuits' runs give: (C, T, O)
            begin = 0
            for module in layers.modules:
                receivers = own[module]
                rows = slice(begin, begin + len(receivers))
                begin += len(receivers)
                outputs = {
                    name: self._chosen(stack, name, layer, made[name], receivers) for name in layers.before(module)
                }
                made[module] = self._made(stack, module, layer, receivers, entering[rows], outputs, final)
            others = of_others[layer]
            final[layer] = dict(zip(others, entering[begin : begin + len(others)], strict=True))
            begin += len(others)
            waiting, entering = waiting[begin:], entering[begin:]
            outputs = {name: self._chosen(stack, name, layer, made[name], waiting) for name in layers.modules}
            embedded = self._with_inputs(layers.embedded(layer), stack.embedded.get(layer, {}), waiting, stack.first)
            left = layers.leave(
                layer,
                entering.flatten(0, 1),
                {name: value.flatten(0, 1) for name, value in outputs.items()},
                None if embedded is None else embedded.flatten(0, 1),
            )
            entering = left.view(entering.shape)
            if layer in stack.later:
                entering = entering + (self._mask(IMAGE, waiting) > OF_BASE)[..., None, None] * stack.later[layer]
        return dict(zip(waiting, entering, strict=True))

    def _mask(self, sender: Node, receivers: Sequence[Receiver]) -> Tensor:
        """What a sender's edge to each receiver carries in each circuit: (R, C)."""
        return torch.stack([self.carried.get(one, {}).get(sender, self._nothing) for one in receivers])

    def _with_inputs(
        self, base: Tensor | None, sent: Mapping[Node, Tensor], receivers: Sequence[Receiver], first: int
    ) -> Tensor | None:
        """Rows (1, T, …) of the base run, with those of input nodes as they come to each receiver: (R, C, T, …)."""
        if base is None:
            return None
        found = base[None].repeat(len(receivers), self.n, 1, 1)
        for node, value in sent.items():
            carries = (self._mask(node, receivers) > OF_BASE)[..., None, None]  # (R, C, 1, 1)
            if node == PROMPT and self.words:
                carries = carries & self._of_words(receivers, first, base.shape[1]).to(base.device)[:, None, :, None]
            found += carries * (value - base)
        return found

    def _of_words(self, receivers: Sequence[Receiver], first: int, length: int) -> Tensor:
        """Which positions of the prompt each receiver's edge carries, from the first that is computed: (R, T) bool."""
        found = torch.ones(len(receivers), length, dtype=torch.bool)
        for row, receiver in zip(found, receivers, strict=True):
            if receiver in self.words:
                row[:] = False
                row[[at - first for at in self.words[receiver] if at >= first]] = True
        return found

    def _chosen(self, stack: Stack, module: str, layer: int, made: Tensor, receivers: Sequence[Receiver]) -> Tensor:
        """What a module's nodes give to each receiver, whichever run that is of: (R, C, T, O)."""
        nodes = nodes_at(stack.layers.block, module, layer)
        mask = torch.stack([self._mask(node, receivers) for node in nodes], dim=-1)  # (R, C, H)
        mask = mask.repeat_interleave(made.shape[-1] // len(nodes), dim=-1)[:, :, None]  # (R, C, 1, O)
        given = torch.where(mask == OF_RUN, made, stack.layers.output(module, layer))
        return torch.where(mask == OF_SOURCE, stack.source[module, layer], given)

    def _made(
        self,
        stack: Stack,
        module: str,
        layer: int,
        receivers: list[Receiver],
        entering: Tensor,
        outputs: dict[str, Tensor],
        final: _Read,
    ) -> Tensor:
        """What a module gives in each circuit's run: (C, T, O).

        Args:
            stack: whose module it is
            module: which
            layer: of which layer
            receivers: the inputs of its nodes that read the stack's own stream
            entering: what enters the layer for each of them, (R, C, T, D)
            outputs: what the layer's earlier modules give to each of them, (R, C, T, O)
            final: what reads other streams than the layer's own
        """
        n_nodes = len(nodes_at(stack.layers.block, module, layer))
        given = {}
        for i, kind in enumerate(dict.fromkeys(receiver.input for receiver in receivers)):
            rows = slice(i * n_nodes, (i + 1) * n_nodes)
            given[kind] = Stream(
                entering[rows].flatten(0, 1), {name: value[rows].flatten(0, 1) for name, value in outputs.items()}
            )
        if stack.wiring.keys_of(module, layer) is not None:
            for kind in ("key", "value"):
                given[kind] = Stream(self._looked_at(stack, module, layer, kind, final).flatten(0, 1))
        made = stack.layers.compute(module, layer, **given)
        if module == "mlp":
            return made
        by_head = made.unflatten(0, (n_nodes, -1)).unflatten(-1, (n_nodes, -1))  # (H, C, T, H, O/H)
        return by_head.diagonal(dim1=0, dim2=3).movedim(-1, -2).flatten(-2)  # each head of its own inputs' run

    def _looked_at(self, stack: Stack, module: str, layer: int, kind: str, final: _Read) -> Tensor:
        """What keys or values of heads are made of, where that is not the stack's own stream: (H, C, M, D)."""
        receivers = [Receiver(node, kind) for node in nodes_at(stack.layers.block, module, layer)]
        at, base = stack.wiring.keys_of(module, layer), stack.layers.looked_at(module, layer)
        if isinstance(at, (str, int)):
            return torch.stack([final[at][receiver] for receiver in receivers])
        assert at is not None and base is not None, "the module looks at something else than its own stream"
        return torch.where((self._mask(at, receivers) > OF_BASE)[..., None, None], stack.looked_at[module], base)
