"""circuit.json as planting writes it beside a model's weights; `vlmtrace.models.known` describes and reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlmtrace.core.files import write_atomically
from vlmtrace.models.edges.nodes import IMAGE, PROMPT, THE_OUTPUT, Edge, Receiver
from vlmtrace.models.known import FILE
from vlmtrace.training.planted.plan import Plan

#: All planted models that come with the project.
PLANTED = tuple(f"planted-{kind}-{how}" for how in ("llava", "blip") for kind in ("chain", "backup", "against"))


def edges_of_plan(plan: Plan) -> list[Edge]:
    """The edges of a circuit, in the order of its links.

    Args:
        plan: the circuit
    """
    ends = {"image": IMAGE, "prompt": PROMPT, "output": THE_OUTPUT, **plan.nodes}
    return [Edge(ends[link.sender], Receiver(ends[link.receiver], link.input)) for link in plan.links]


def corruptions_of(plan: Plan, name: str) -> list[str]:
    """Under which corruptions a planted node gives something else.

    Args:
        plan: the circuit
        name: of the node
    """
    return sorted({one for link in plan.links if link.sender == name for one in link.corruptions})


def write_circuit(plan: Plan, architecture: str, folder: Path) -> None:
    """Write circuit.json.

    Args:
        plan: the circuit
        architecture: "llava" or "blip"
        folder: of the model
    """
    told: dict[str, Any] = {
        "kind": plan.kind,
        "tells": plan.tells,
        "architecture": architecture,
        "nodes": [
            {
                "node": one.node.label,
                "name": one.name,
                "does": one.does,
                "corruptions": corruptions_of(plan, one.name),
            }
            for one in plan.parts
        ],
        "edges": [
            {"sender": edge.sender.label, "receiver": edge.receiver.label, "corruptions": list(link.corruptions)}
            for edge, link in zip(edges_of_plan(plan), plan.links, strict=True)
        ],
        "joint": [plan.nodes[name].label for name in plan.joint],
    }
    with write_atomically(folder / FILE) as temporary:
        temporary.write_text(json.dumps(told, indent=1) + "\n")
