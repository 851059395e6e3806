"""The stacks of layers of one pair's two runs, as sweeps over edges take them.

Shapes: T positions of a stack from the first one that differs, M positions of what cross-attention looks at, D width of
the residual stream, O width of a module's output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from vlmtrace.models.edges.blip import AnswerNodes, QuestionNodes
from vlmtrace.models.edges.decoder_only import LanguageNodes, image_states
from vlmtrace.models.edges.layers import NodeLayers
from vlmtrace.models.edges.nodes import HEAD_INPUTS, IMAGE, PROMPT, Node, Receiver, Wiring, inputs_at, nodes_at
from vlmtrace.models.edges.wiring import wirings_of
from vlmtrace.models.layer_kinds import OWN_EMBEDDINGS
from vlmtrace.models.sweep.blip import image_embeddings
from vlmtrace.models.sweep.replay import BLOCK, Replay
from vlmtrace.models.types import AnswerIds, Inputs, Site, Trace, positions_read
from vlmtrace.models.vlm import VLM


class Reader(NamedTuple):
    """An input of a node that reads a residual stream.

    Attributes:
        receiver: the input
        layer: the last that its stream has to enter
        before: the nodes that have written into the stream before it is read
    """

    receiver: Receiver
    layer: int
    before: frozenset[Node]


@dataclass(frozen=True)
class Stack:
    """A stack of layers in the base run, and what its nodes give in the source run.

    Attributes:
        wiring: how it is wired
        layers: the base run, taken apart
        source: by (module, layer), what a module gives in the source run, (1, T, O)
        entering: by layer, what enters it in the source run, (1, T, D)
        source_final: what leaves the last layer in the source run, (1, T, D)
        inputs: by input node, what enters layer 0 when that node is the source run's, (1, T, D)
        looked_at: by module, what its keys and values are made of in the source run, (1, M, D)
        later: by layer, what the source run's image adds behind it beyond the base run's, (1, T, D)
        embedded: by layer and input node, what the layer is given of the input's embeddings beside the stream when that
            node is the source run's, (1, T, P)
        first: the position of the stack that T counts from
    """

    wiring: Wiring
    layers: NodeLayers
    source: dict[tuple[str, int], Tensor]
    entering: list[Tensor]
    source_final: Tensor
    inputs: dict[Node, Tensor]
    looked_at: dict[str, Tensor] = field(default_factory=dict)
    later: dict[int, Tensor] = field(default_factory=dict)
    embedded: dict[int, dict[Node, Tensor]] = field(default_factory=dict)
    first: int = 0

    @cached_property
    def readers(self) -> list[Reader]:
        """The inputs of nodes that read the stack's stream, layer by layer, without what reads its final states."""
        return list(self._readers())

    def _readers(self) -> Iterator[Reader]:
        layers, written = self.layers, self._inputs
        for layer in range(layers.block.n_layers):
            nodes = {module: frozenset(nodes_at(layers.block, module, layer)) for module in layers.modules}
            for module in layers.modules:
                seen = () if self.wiring.is_parallel else layers.before(module)
                before = written.union(*(nodes[name] for name in seen))
                looks_elsewhere = self.wiring.keys_of(module, layer) is not None
                kinds = HEAD_INPUTS[:1] if looks_elsewhere else inputs_at(layers.block, module, layer)
                for kind in kinds:
                    for node in nodes_at(layers.block, module, layer):
                        yield Reader(Receiver(node, kind), layer, before)
            for receiver in self.read_above(layer):
                yield Reader(receiver, layer, written)
            written = written.union(*nodes.values())

    def read_above(self, layer: int) -> list[Receiver]:
        """The keys and values of higher layers' heads that are made of what enters a layer.

        Args:
            layer: counted from 0
        """
        return [
            Receiver(node, kind)
            for reader, at in self.wiring.keys_at.items()
            if at == layer
            for kind in HEAD_INPUTS[1:]
            for node in nodes_at(self.layers.block, self.layers.modules[0], reader)
        ]

    @cached_property
    def written(self) -> frozenset[Node]:
        """All nodes that write into the stack's stream."""
        block = self.layers.block
        every = [(module, layer) for layer in range(block.n_layers) for module in self.layers.modules]
        return self._inputs.union(*(nodes_at(block, *place) for place in every))

    @property
    def _inputs(self) -> frozenset[Node]:
        """The input nodes that come into the stream, whether below the layers or between them."""
        return frozenset(self.inputs).union(*self.embedded.values(), [IMAGE] if self.later else [])


def stacks_of(
    model: VLM, source: Trace, base: Trace, inputs: Inputs, answer_ids: AnswerIds, only_read: bool = False
) -> list[Stack]:
    """Take the two runs of one pair apart.

    Args:
        model: BLIP, or decoder-only
        source: trace of the run whose outputs are sent, at all sites
        base: trace of the run that reads them, at all sites
        inputs: of the base run
        answer_ids: what is read out
        only_read: of a decoder-only model, leave out all positions but those that are read out: edges into the output
            are not read at any other

    Returns:
        its stacks, in the order in which information flows

    Raises:
        VlmtraceError: the model's layers are not known by their nodes
    """
    wirings = wirings_of(model)
    if len(wirings) == 2:
        question, answer = wirings
        nodes = QuestionNodes(model, base, answer_ids), AnswerNodes(model, base, answer_ids)
        return [
            Stack(
                question,
                nodes[0],
                *_source(source, question, nodes[0], 0),
                {PROMPT: source.layer_inputs[question.block]},
                {"cross_attention": image_embeddings(model, source)},
            ),
            Stack(
                answer,
                nodes[1],
                *_source(source, answer, nodes[1], 0),
                {},
                {"cross_attention": source[question.block, "residual", nodes[0].block.n_layers - 1]},
            ),
        ]
    (wiring,) = wirings
    entering, other = base.calls[0].hidden, source.calls[0].hidden
    first = entering.shape[1] - positions_read(answer_ids) if only_read else _first_changed(model, source, base)
    layers = LanguageNodes(model, base, answer_ids, first)
    is_image = model.is_image(inputs)[0].to(entering.device)[:, None]  # (T, 1)

    def sent(theirs: Tensor, mine: Tensor) -> dict[Node, Tensor]:
        """Rows (1, T, …) with those of each input node from the source run."""
        return {node: torch.where(is_image == (node == IMAGE), theirs, mine)[:, first:] for node in wiring.inputs}

    own = Replay(model, source)
    later = {
        layer: (theirs - mine)[:, first:]
        for layer, (theirs, mine) in enumerate(zip(own.between, layers.replay.between, strict=True))
        if theirs is not None and mine is not None
    }
    looking = next((layer for layer, at in wiring.keys_at.items() if at == IMAGE), None)  # all at the same
    return [
        Stack(
            wiring,
            layers,
            *_source(source, wiring, layers, first),
            sent(other, entering),
            {} if looking is None else {"self_attention": image_states(source, looking)},
            later=later,
            embedded={
                layer: sent(theirs.options[OWN_EMBEDDINGS], mine.options[OWN_EMBEDDINGS])
                for layer, (theirs, mine) in enumerate(zip(source.calls, base.calls, strict=True))
                if theirs.options.get(OWN_EMBEDDINGS) is not None
            },
            first=first,
        )
    ]


def _source(
    source: Trace, wiring: Wiring, layers: NodeLayers, first: int
) -> tuple[dict[tuple[str, int], Tensor], list[Tensor], Tensor]:
    """Of a stack in the source run: what its modules give, what enters each layer, and what leaves the last."""
    numbers, name = range(layers.block.n_layers), wiring.block
    outputs = {(module, i): source[name, module, i][:, first:] for module in wiring.modules for i in numbers}
    entering = [source.calls[i].hidden if source.calls else source.layer_input(name, i) for i in numbers]
    return outputs, [one[:, first:] for one in entering], source[name, "residual", numbers[-1]][:, first:]


def _first_changed(model: VLM, source: Trace, base: Trace) -> int:
    """The first position at which any node's output differs, or can come to differ."""
    replay = Replay(model, base)
    differs = (source.calls[0].hidden != base.calls[0].hidden).any(-1)[0]
    for layer in range(model.blocks[BLOCK].n_layers):
        for module in ("self_attention", "mlp"):
            site = Site(BLOCK, module, layer)
            differs = differs | (source[site] != base[site]).any(-1)[0].to(differs.device)
    if not differs.any():
        return int(replay.length - 1)
    return replay.first_changed(differs)
