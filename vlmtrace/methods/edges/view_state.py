"""What the browser draws of an example's edges, whatever is chosen among them."""

from __future__ import annotations

from typing import Any

from vlmtrace.display.wording import CORRUPTION
from vlmtrace.methods.edges.drawing import DrawnCircuit, as_records
from vlmtrace.methods.edges.intervention import sent_by
from vlmtrace.methods.edges.opened import attention_of_drawn, placed_boxes
from vlmtrace.methods.edges.pair_edges import PairEdges


def drawn_state(numbers: PairEdges, circuit: DrawnCircuit) -> dict[str, Any]:
    """The graph, and what stands beside it.

    Args:
        numbers: of the example
        circuit: the graph

    Returns:
        in JSON: example, question, answer, corruption, corruptions; edges, nodes, rows, nEdges; boxes of the image's
        patches and image (their effects); attention of the drawn heads
    """
    example, edges = numbers.example, circuit.edges
    # A word of the prompt sends under the name that `intervene_on_edges` takes.
    edges = edges.assign(sender=sent_by(edges["sender"], edges["at"].where(edges["at"] >= 0))).drop(columns="at")
    return {
        "example": f"{id(example)}", "question": example.question, "answer": example.options[0],
        "corruption": numbers.corruption, "corruptions": {name: CORRUPTION[name] for name in example.corruptions},
        "edges": as_records(edges), "nodes": _nodes(numbers, circuit), "rows": circuit.rows,
        "nEdges": circuit.n_edges, "boxes": placed_boxes(example)[1].round(6).tolist(),
        "image": {"effects": numbers.image_effects()}, "attention": attention_of_drawn(example, circuit.nodes),
    }  # fmt: skip


def _nodes(numbers: PairEdges, circuit: DrawnCircuit) -> list[dict[str, Any]]:
    """The nodes, with what a click opens (of a word the whole prompt), and what a word stands in place of."""
    others, nodes = numbers.other_words(), as_records(circuit.nodes.drop(columns="at"))
    for node in nodes:
        name, _, position = node["node"].partition(" ")
        node |= {"opens": name, "instead": others.get(int(position), "") if position else ""}
    return nodes
