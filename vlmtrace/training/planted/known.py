"""circuit.json: a planted circuit as it lies beside a model's weights, by the names that tables of edges use.

    {"kind": "chain",
     "tells": "…",
     "architecture": "llava",
     "nodes": [{"node": "language_model.self_attention.0.3", "name": "finder", "does": "…",
                "corruptions": ["image"]}, …],
     "edges": [{"sender": "image", "receiver": "language_model.self_attention.0.3.value", "corruptions": ["image"]}, …],
     "joint": ["language_model.self_attention.1.2", …]}

`corruptions` are those under which a node or an edge carries another value in the corrupt run. An edge with none says
where to look, or carries what is the same in both runs: no patch of it alone changes the answer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from vlmtrace.core.files import write_atomically
from vlmtrace.core.paths import MODELS
from vlmtrace.models.edges.nodes import IMAGE, PROMPT, THE_OUTPUT, Edge, Receiver
from vlmtrace.training.planted.plan import Plan

FILE = "circuit.json"

#: All planted models that come with the project.
PLANTED = tuple(f"planted-{kind}-{how}" for how in ("llava", "blip") for kind in ("chain", "backup", "against"))


class KnownCircuit(NamedTuple):
    """The circuit of a planted model.

    Attributes:
        kind: "chain", "backup" or "against"
        tells: what it is an example of
        nodes: node, name, does, corruptions (a tuple)
        edges: sender, receiver, corruptions (a tuple)
        joint: nodes of which either one is enough
    """

    kind: str
    tells: str
    nodes: pd.DataFrame
    edges: pd.DataFrame
    joint: tuple[str, ...]

    def true_nodes(self, corruption: str) -> set[str]:
        """Nodes that carry something else in the corrupt run.

        Args:
            corruption: "image" or "text"
        """
        return set(self.nodes["node"][[corruption in one for one in self.nodes["corruptions"]]])

    def true_edges(self, corruption: str) -> set[tuple[str, str]]:
        """Sender and receiver of the edges that carry something else in the corrupt run.

        Args:
            corruption: "image" or "text"
        """
        there = self.edges[[corruption in one for one in self.edges["corruptions"]]]
        return set(zip(there["sender"], there["receiver"], strict=True))


def known_circuit(name: str | Path) -> KnownCircuit:
    """The circuit of a planted model.

    Args:
        name: one of `PLANTED`, or a folder

    >>> known_circuit("planted-chain-llava").nodes["name"].tolist()
    ['finder', 'collector', 'mover', 'clearer', 'comparer']
    """
    told = json.loads((MODELS / name / FILE).read_text())
    nodes, edges = pd.DataFrame(told["nodes"]), pd.DataFrame(told["edges"])
    for table in (nodes, edges):
        table["corruptions"] = [tuple(one) for one in table["corruptions"]]
    return KnownCircuit(told["kind"], told["tells"], nodes, edges, tuple(told["joint"]))


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
