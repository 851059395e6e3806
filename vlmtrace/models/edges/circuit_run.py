"""Run a pair with many edges set at once: a circuit of edges, or paths from one run into another.

Each edge carries what its sender gives in the base run, in this very run, or in the source run. A circuit run is that
with what this run gives inside, and the base run's outside.

The circuit run of Wang et al. 2022 (https://arxiv.org/abs/2211.00593), Conmy et al. 2023
(https://arxiv.org/abs/2304.14997) and MIB (Mueller et al. 2025, https://arxiv.org/abs/2504.13151): input nodes give
what they give in the source run, every other node computes its output from what its own edges carry. With all edges
inside that is the source run, with none the base run.

Every input of every node reads a residual stream. Those to which all edges carry the same have one stream in common
(`streams`), and all streams go up together.

Shapes: C circuits, S streams, T positions, D width of the residual stream, O width of a module's output, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from vlmtrace.models.edges.layers import Stream
from vlmtrace.models.edges.nodes import IMAGE, PROMPT, THE_OUTPUT, Edge, Node, Receiver, nodes_at
from vlmtrace.models.edges.stacks import Stack
from vlmtrace.models.edges.streams import Streams, Words, streams_of
from vlmtrace.models.hooks import with_model_lock
from vlmtrace.models.products import by_fast_products
from vlmtrace.models.types import Readout

#: By stack the final states that are read in later ones, by layer what enters it and is read in higher ones: by stream,
#: (C, T, D) each.
_Read = dict[str | int, dict[int, Tensor]]

#: What an edge carries: what its sender gives in the base run, in the very run that goes on, or in the source run.
OF_BASE, OF_RUN, OF_SOURCE = 0, 1, 2

NO_WORDS: Words = MappingProxyType({})


@with_model_lock
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


@with_model_lock
@torch.no_grad()
@by_fast_products
def run_to_answer(
    stacks: Sequence[Stack], edges: Sequence[Edge], carried: Tensor, memory: int, words: Words = NO_WORDS
) -> tuple[Readout, Tensor]:
    """Run one pair with one circuit, and read the first token of the answer, too.

    Args:
        stacks: as in `run_circuits`
        edges: the same
        carried: the same, (1, edge)
        memory: the same
        words: the same

    Returns:
        Readout (1, 1), and the most probable token where an answer begins: (1,) of the vocabulary's ids
    """
    (final,) = _final_states(stacks, edges, carried, memory, words)
    layers = stacks[-1].layers
    logits = layers.logits(final)  # (1, 1, U, vocabulary)
    return Readout.of_last(logits, layers.answer_ids), logits[0, :, 0].argmax(-1)


@with_model_lock
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
    streams = streams_of(stacks, edges, carried, words)
    size = max(1, memory // circuit_bytes(stacks, streams))
    for begin in range(0, len(carried), size):
        yield _final(stacks, [one.of_circuits(slice(begin, begin + size)) for one in streams])


def circuit_bytes(stacks: Sequence[Stack], streams: Sequence[Streams]) -> int:
    """What one circuit occupies at most.

    Args:
        stacks: in the order in which information flows
        streams: of each of them

    Returns:
        of the stack that needs most: its streams, and as many states of a module as are computed together; and what
        stays of all stacks until it is read
    """
    stay = 0
    for stack, mine in zip(stacks, streams, strict=True):
        stay += (len(mine.later) + sum(map(len, mine.others))) * stack.layers.entering(0).nbytes
    return stay + max(
        len(mine.carried) * stack.layers.state_bytes() + _computed_bytes(stack, mine)
        for stack, mine in zip(stacks, streams, strict=True)
    )


def _computed_bytes(stack: Stack, streams: Streams) -> int:
    """What the states occupy at most that a module computes of one circuit."""
    layers, found = stack.layers, 0
    for layer, modules in enumerate(streams.inputs):
        for module, inputs in modules.items():
            looked_at = layers.looked_at(module, layer)
            # What keys and what values are made of, where that is apart from the stream, and both.
            each = layers.state_bytes() + (0 if looked_at is None else 4 * looked_at.nbytes)
            found = max(found, len(inputs.distinct) * each)
    return found


def _final(stacks: Sequence[Stack], streams: Sequence[Streams]) -> Tensor:
    """Go up through all stacks: what leaves the last, (C, T, D)."""
    read: _Read = {}
    for stack, mine in zip(stacks, streams, strict=True):
        read[stack.wiring.block] = _Way(stack, mine, read).up()
    return read[stacks[-1].wiring.block][streams[-1].of[Receiver(THE_OUTPUT)]]


class _Way:
    """The streams of one stack, layer by layer.

    Attributes:
        stack: through which they go
        streams: what each carries, and who reads it
        read: what is read elsewhere than in the layer that it enters
    """

    def __init__(self, stack: Stack, streams: Streams, read: _Read):
        self.stack, self.streams, self.read, self.n = stack, streams, read, streams.n_circuits

    def up(self) -> dict[int, Tensor]:
        """The final states that are read, by stream: (C, T, D) each."""
        stack, layers, streams = self.stack, self.stack.layers, self.streams
        going = list(range(len(streams.carried)))
        entering = self._with_inputs(layers.entering(0), stack.inputs, going)  # (S, C, T, D)
        assert entering is not None, "something enters the lowest layer"
        for layer in range(layers.block.n_layers):
            place = {stream: row for row, stream in enumerate(going)}
            made: dict[str, Tensor] = {}  # by module, what the circuits' runs give: (C, T, O)
            for module in layers.modules:
                own = streams.inputs[layer][module].own
                outputs = {name: self._chosen(name, layer, made[name], own) for name in layers.before(module)}
                rows = entering[[place[stream] for stream in own]]
                made[module] = self._made(module, layer, rows, outputs)
            self.read[layer] = _by_stream(streams.others[layer], place, entering)
            kept = [stream for stream in going if streams.last[stream] > layer]
            if len(kept) < len(going):
                going, entering = kept, entering[[place[stream] for stream in kept]]
            outputs = {name: self._chosen(name, layer, made[name], going) for name in layers.modules}
            embedded = self._with_inputs(layers.embedded(layer), stack.embedded.get(layer, {}), going)
            left = layers.leave(
                layer,
                entering.flatten(0, 1),
                {name: value.flatten(0, 1) for name, value in outputs.items()},
                None if embedded is None else embedded.flatten(0, 1),
            )
            entering = left.view(entering.shape)
            if layer in stack.later:
                entering = entering + (streams.mask(IMAGE, going) > OF_BASE)[..., None, None] * stack.later[layer]
        return _by_stream(streams.later, {stream: row for row, stream in enumerate(going)}, entering)

    def _with_inputs(self, base: Tensor | None, sent: Mapping[Node, Tensor], streams: Sequence[int]) -> Tensor | None:
        """Rows (1, T, …) of the base run, with those of input nodes as they come to each stream: (S, C, T, …)."""
        if base is None:
            return None
        found = base[None].repeat(len(streams), self.n, 1, 1)
        for node, value in sent.items():
            carries = (self.streams.mask(node, streams) > OF_BASE)[..., None, None]  # (S, C, 1, 1)
            if node == PROMPT and self.streams.words:
                carries = carries & self._of_words(streams, base.shape[1]).to(base.device)[:, None, :, None]
            found += carries * (value - base)
        return found

    def _of_words(self, streams: Sequence[int], length: int) -> Tensor:
        """Which positions of the prompt each stream's edge carries, from the first that is computed: (S, T) bool."""
        found, first = torch.ones(len(streams), length, dtype=torch.bool), self.stack.first
        for row, stream in zip(found, streams, strict=True):
            if stream in self.streams.words:
                row[:] = False
                row[[at - first for at in self.streams.words[stream] if at >= first]] = True
        return found

    def _chosen(self, module: str, layer: int, made: Tensor, streams: Sequence[int]) -> Tensor:
        """What a module's nodes give to each stream, whichever run that is of: (S, C, T, O)."""
        nodes = nodes_at(self.stack.layers.block, module, layer)
        mask = torch.stack([self.streams.mask(node, streams) for node in nodes], dim=-1)  # (S, C, H)
        mask = mask.repeat_interleave(made.shape[-1] // len(nodes), dim=-1)[:, :, None]  # (S, C, 1, O)
        given = torch.where(mask == OF_RUN, made, self.stack.layers.output(module, layer))
        return torch.where(mask == OF_SOURCE, self.stack.source[module, layer], given)

    def _made(self, module: str, layer: int, entering: Tensor, outputs: dict[str, Tensor]) -> Tensor:
        """What a module gives in each circuit's run: (C, T, O).

        Args:
            module: which
            layer: of which layer
            entering: what enters the layer in each of the streams that the module's nodes read, (S, C, T, D)
            outputs: what the layer's earlier modules give to each of them, (S, C, T, O)
        """
        inputs = self.streams.inputs[layer][module]
        # Nodes that read the same are computed together, and inputs that read the same are the same.
        distinct, place = inputs.distinct, {stream: row for row, stream in enumerate(inputs.own)}
        known: dict[tuple[bool, tuple[int, ...]], Stream] = {}
        given: dict[str, Stream] = {}
        for kind, numbers in zip(inputs.kinds, zip(*distinct, strict=True), strict=True):
            read = inputs.is_elsewhere(kind), numbers
            if read not in known and inputs.is_elsewhere(kind):
                known[read] = Stream(self._looked_at(module, layer, numbers).flatten(0, 1))
            elif read not in known:
                rows = [place[stream] for stream in numbers]
                seen = {name: value[rows].flatten(0, 1) for name, value in outputs.items()}
                known[read] = Stream(entering[rows].flatten(0, 1), seen)
            given[kind] = known[read]
        made = self.stack.layers.compute(module, layer, **given)
        if len(distinct) == 1:
            return made
        n_nodes = len(inputs.of_node)
        by_head = made.unflatten(0, (len(distinct), -1)).unflatten(-1, (n_nodes, -1))  # (distinct, C, T, H, O/H)
        # Each head of its own inputs' run.
        runs = [distinct.index(numbers) for numbers in inputs.of_node]
        return torch.cat([by_head[run, :, :, head] for head, run in enumerate(runs)], dim=-1)

    def _looked_at(self, module: str, layer: int, numbers: Sequence[int]) -> Tensor:
        """What keys or values are made of, where that is not the stack's own stream: (number, C, M, D)."""
        stack = self.stack
        at, base = stack.wiring.keys_of(module, layer), stack.layers.looked_at(module, layer)
        if isinstance(at, (str, int)):
            return torch.stack([self.read[at][stream] for stream in numbers])
        assert at is not None and base is not None, "the module looks at something else than its own stream"
        carries = (self.streams.told[list(numbers)] > OF_BASE)[..., None, None]
        return torch.where(carries, stack.looked_at[module], base)


def _by_stream(streams: Sequence[int], place: Mapping[int, int], states: Tensor) -> dict[int, Tensor]:
    """Some of the states (S, C, T, D) by stream, and no longer the others."""
    return dict(zip(streams, states[[place[stream] for stream in streams]], strict=True)) if streams else {}
