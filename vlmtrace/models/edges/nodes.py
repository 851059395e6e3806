"""Nodes and edges of a model's computation.

Nodes are what is written into the residual stream: the input (image tokens, prompt tokens), each head, each mlp, and
what is read in the end, the output. An edge is one node's output as it enters one later node alone: a head by its
query, its key or its value, an mlp or the output by its only input. So does a head of a layer that carries a state from
position to position: all that it makes of what enters it, gates and step sizes too, is one input. What an edge carries
goes along the residual stream, past the nodes between, not through them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from vlmtrace.models.layer_kinds import STATE
from vlmtrace.models.types import Block

#: The block of nodes that are in no stack of layers.
INPUT, OUTPUT = "input", "output"

#: By which a head that attends is entered; every other node has one input.
HEAD_INPUTS = ("query", "key", "value")
ONLY_INPUT = "input"


class Node(NamedTuple):
    """What writes into the residual stream, or reads the answer out of it.

    Attributes:
        block: the stack of layers; "input" or "output" for what stands before and behind all of them
        module: "mlp", the attention module of a head; of the input "image" or "prompt", of the output "output"
        layer: counted from 0; None: in no stack
        head: counted from 0; None: not a head
    """

    block: str
    module: str
    layer: int | None = None
    head: int | None = None

    @property
    def label(self) -> str:
        """Its name in tables, e.g. "text_encoder.cross_attention.2.1", "language_model.mlp.3", "image" or "output"."""
        if self.layer is None:
            return self.module
        return ".".join([self.block, self.module, str(self.layer), *([] if self.head is None else [str(self.head)])])


class Receiver(NamedTuple):
    """One input of a node.

    Attributes:
        node: which
        input: "query", "key" or "value" of a head that attends; "input" of any other node
    """

    node: Node
    input: str = ONLY_INPUT

    @property
    def label(self) -> str:
        """Its name in tables: the node's, and of a head also the input's."""
        return self.node.label if self.input == ONLY_INPUT else f"{self.node.label}.{self.input}"


class Edge(NamedTuple):
    """One node's output as it enters one input of a later node.

    Attributes:
        sender: the node that writes
        receiver: where it is read
    """

    sender: Node
    receiver: Receiver


IMAGE, PROMPT, THE_OUTPUT = Node(INPUT, "image"), Node(INPUT, "prompt"), Node(OUTPUT, "output")

#: Stands for all nodes at once: what enters a receiver from it is what enters it in the source run.
EVERYTHING = Node(INPUT, "everything")


class Wiring(NamedTuple):
    """How one stack of layers is wired.

    Attributes:
        block: its name
        modules: of each layer, in the order in which they are computed
        inputs: the input nodes that enter its residual stream
        looked_at: by module, the input node or the stack whose final states its keys and values are made of, where
            these are not the stack's own stream
        is_parallel: whether a layer's mlp does not read what its heads write
        keys_at: by layer, of what its heads' keys and values are made where that is the image, by cross-attention in
            this layer alone, or what enters a lower layer, whose keys and values it reads
    """

    block: str
    modules: tuple[str, ...]
    inputs: tuple[Node, ...]
    looked_at: dict[str, Node | str]
    is_parallel: bool = False
    keys_at: Mapping[int, Node | int] = MappingProxyType({})

    def keys_of(self, module: str, layer: int) -> Node | str | int | None:
        """Of what the keys and values of a module's heads are made.

        Args:
            module: of the layer
            layer: counted from 0

        Returns:
            an input node, the name of a stack whose final states they are, the number of a lower layer whose input they
            are; None: the stream as it stands before the module
        """
        if module == "mlp":
            return None
        return self.looked_at.get(module, self.keys_at.get(layer))


def nodes_at(block: Block, module: str, layer: int) -> list[Node]:
    """The nodes of one module of a layer: its heads, or the mlp.

    Args:
        block: the stack of layers
        module: of the layer
        layer: counted from 0
    """
    if module == "mlp":
        return [Node(block.name, module, layer)]
    return [Node(block.name, module, layer, head) for head in range(block.heads_at(layer))]


def inputs_at(block: Block, module: str, layer: int) -> tuple[str, ...]:
    """The inputs that each node of a module of a layer has.

    Args:
        block: the stack of layers
        module: of the layer
        layer: counted from 0
    """
    return (ONLY_INPUT,) if module == "mlp" or block.kind_at(layer) == STATE else HEAD_INPUTS
