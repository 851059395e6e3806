"""What is computed of the edges that are drawn and chosen in one example: each once."""

from __future__ import annotations

from collections.abc import Sequence

from vlmtrace.methods.edges.drawing import DrawnCircuit
from vlmtrace.methods.edges.intervention import EdgeOutcome, intervene_on_edges_in, sent_by
from vlmtrace.methods.edges.pair_edges import PairEdges


def together(numbers: PairEdges, edges: Sequence[tuple[str, str]]) -> EdgeOutcome:
    """What some edges do together, see `intervene_on_edges`.

    Args:
        numbers: of the example
        edges: (sender, receiver); none: nothing is patched

    Raises:
        VlmtraceError: the model has no such edge, or the prompt no such position
    """
    example, corruption = numbers.example, numbers.corruption
    return example.keep(
        ("edges together", corruption, tuple(edges)),
        lambda: intervene_on_edges_in(example.model, example.runs(corruption), edges),
    )


def alone_as_circuit(numbers: PairEdges, circuit: DrawnCircuit) -> float:
    """The patching effect of the drawn edges as a circuit: all others carry what they do in the corrupt run.

    Args:
        numbers: of the example
        circuit: the graph
    """
    example, corruption, edges = numbers.example, numbers.corruption, _drawn_edges(circuit)
    return example.keep(
        ("circuit of edges", corruption, tuple(edges)),
        lambda: intervene_on_edges_in(example.model, example.runs(corruption), edges, as_circuit=True).patching_effect,
    )


def tokens_below(numbers: PairEdges, circuit: DrawnCircuit) -> dict[str, str]:
    """By drawn node the token at which it does most, see `PairEdges.tokens_that_count`.

    Args:
        numbers: of the example
        circuit: the graph
    """
    key = ("tokens of edges", numbers.corruption, tuple(_drawn_edges(circuit)))
    return numbers.example.keep(key, lambda: numbers.tokens_that_count(circuit.edges))


def _drawn_edges(circuit: DrawnCircuit) -> list[tuple[str, str]]:
    """The drawn edges as `intervene_on_edges` takes them."""
    edges = circuit.edges
    sent = sent_by(edges["sender"], edges["at"].where(edges["at"] >= 0))
    return list(zip(sent, edges["receiver"], strict=True))
