"""What the browser draws of an example's edges: the graph, whatever is chosen in it, and what is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlmtrace.display.session import Patched
from vlmtrace.display.wording import CORRUPTION
from vlmtrace.methods.edges.drawing import DrawnCircuit, as_records
from vlmtrace.methods.edges.intervention import EdgeOutcome, sent_by
from vlmtrace.methods.edges.opened import attention_of_drawn, placed_boxes, plain
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


def chosen_state(
    numbers: PairEdges, chosen: Sequence[tuple[str, str]], patches: Sequence[int], outcome: EdgeOutcome
) -> dict[str, Any]:
    """What is chosen in the graph, and what it does.

    Args:
        numbers: of the example
        chosen: (sender, receiver) of the edges that are patched together
        patches: of the image, those that are put in together
        outcome: of the chosen edges

    Returns:
        in JSON: chosen, result, effect; places (where the edge acts that was chosen last); image: chosen and outcome

    Raises:
        VlmtraceError: there is no such patch, or no second image
    """
    return {
        "chosen": [list(edge) for edge in chosen], "result": as_records(outcome.table()),
        "effect": plain(outcome.patching_effect),
        "places": numbers.where_it_acts(*chosen[-1]) if chosen else None,
        "image": {"chosen": list(patches), "outcome": numbers.patched_image(list(patches))},
    }  # fmt: skip


def patched(
    numbers: PairEdges, chosen: Sequence[tuple[str, str]], outcome: EdgeOutcome, image: dict[str, Any]
) -> Patched | None:
    """What the gauge is told: of patches of the image, or else of edges; None: nothing is patched.

    Args:
        numbers: of the example
        chosen: (sender, receiver) of the edges that are patched together
        outcome: of these edges
        image: what is chosen in it and the outcome, as in `chosen_state`
    """
    found = image["outcome"]
    if found is not None:
        effect = float("nan") if found["effect"] is None else found["effect"]
        return Patched(effect, found["answer"], numbers.corruption, f"patches of the image: {len(image['chosen'])}")
    if not chosen:
        return None
    text = "; ".join(" → ".join(edge) for edge in chosen)
    return Patched(outcome.patching_effect, outcome.answers["patched"], numbers.corruption, text)


def _nodes(numbers: PairEdges, circuit: DrawnCircuit) -> list[dict[str, Any]]:
    """The nodes, with what a click opens (of a word the whole prompt), and what a word stands in place of."""
    others, nodes = numbers.other_words(), as_records(circuit.nodes.drop(columns="at"))
    for node in nodes:
        name, _, position = node["node"].partition(" ")
        node |= {"opens": name, "instead": others.get(int(position), "") if position else ""}
    return nodes
