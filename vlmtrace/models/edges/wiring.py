"""Which edges a model has, from how its stacks of layers are wired."""

from __future__ import annotations

from collections.abc import Iterator

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import NotForThisModel
from vlmtrace.models.edges.nodes import IMAGE, PROMPT, THE_OUTPUT, Edge, Node, Receiver, Wiring, inputs_at, nodes_at
from vlmtrace.models.types import Block
from vlmtrace.models.vlm import VLM


def wirings_of(model: VLM) -> tuple[Wiring, ...]:
    """The stacks of layers whose nodes are known, in the order in which information flows.

    Args:
        model: any

    Raises:
        VlmtraceError: the model's layers are not known by their nodes
    """
    reason = model.nodes_unsupported_reason()
    if reason:
        raise NotForThisModel(
            f"{model.name} has no edges here, because of {reason}: use patch_heads and patch_modules, or a model of "
            "another family."
        )
    return model.wirings


@checked
def edges_of(model: VLM) -> list[Edge]:
    """Every edge of a model's text side, those that are read later behind those that are read earlier.

    Args:
        model: BLIP, or decoder-only

    Returns:
        the edges

    Raises:
        VlmtraceError: the model's layers are not known by their nodes
    """
    return list(_edges(model))


def _edges(model: VLM) -> Iterator[Edge]:
    sent: dict[str, list[Node]] = {}  # by stack, what has been written into its stream so far
    written: dict[int, list[Node]] = {}  # by layer of the current stack, what has been before it
    last = ""
    for wiring in wirings_of(model):
        block, stream = model.blocks[wiring.block], list(wiring.inputs)
        for layer in range(block.n_layers):
            below = written[layer] = list(stream)
            for module in wiring.modules:
                nodes, inputs = nodes_at(block, module, layer), inputs_at(block, module, layer)
                seen = below if wiring.is_parallel else list(stream)
                for receiver in (Receiver(node, one) for node in nodes for one in inputs):
                    yield from (Edge(sender, receiver) for sender in _senders(wiring, receiver, seen, sent, written))
                stream += nodes
        sent[wiring.block], last = stream, wiring.block
    yield from (Edge(sender, Receiver(THE_OUTPUT)) for sender in sent[last])


def _senders(
    wiring: Wiring,
    receiver: Receiver,
    seen: list[Node],
    sent: dict[str, list[Node]],
    written: dict[int, list[Node]],
) -> list[Node]:
    assert receiver.node.layer is not None, "only the output is in no layer"
    at = wiring.keys_of(receiver.node.module, receiver.node.layer)
    if at is None or receiver.input not in ("key", "value"):
        return seen
    if isinstance(at, int):
        return written[at]
    return [at] if isinstance(at, Node) else sent[at]


def senders_of(model: VLM) -> list[Node]:
    """Every node that writes, in the order in which they are computed.

    Args:
        model: BLIP, or decoder-only

    Raises:
        VlmtraceError: the model's layers are not known by their nodes
    """
    found: list[Node] = [IMAGE, PROMPT]
    for wiring in wirings_of(model):
        block: Block = model.blocks[wiring.block]
        found += [
            node
            for layer in range(block.n_layers)
            for module in wiring.modules
            for node in nodes_at(block, module, layer)
        ]
    return found
