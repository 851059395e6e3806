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
from typing import NamedTuple

import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.paths import MODELS

FILE = "circuit.json"

#: Under which nodes and edges may carry something else.
_CORRUPTIONS = ("image", "text")


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

    @checked
    def true_nodes(self, corruption: str) -> set[str]:
        """Nodes that carry something else in the corrupt run.

        Args:
            corruption: "image" or "text"

        Raises:
            VlmtraceError: it is neither
        """
        one_of(corruption, _CORRUPTIONS, "corruption")
        return set(self.nodes["node"][[corruption in one for one in self.nodes["corruptions"]]])

    @checked
    def true_edges(self, corruption: str) -> set[tuple[str, str]]:
        """Sender and receiver of the edges that carry something else in the corrupt run.

        Args:
            corruption: "image" or "text"

        Raises:
            VlmtraceError: it is neither
        """
        one_of(corruption, _CORRUPTIONS, "corruption")
        there = self.edges[[corruption in one for one in self.edges["corruptions"]]]
        return set(zip(there["sender"], there["receiver"], strict=True))


@checked
def known_circuit(name: str | Path) -> KnownCircuit:
    """Read the circuit of a planted model: what there is to find, where the truth is known.

    Args:
        name: of a bundled planted model, e.g. "planted-chain-llava", or the folder of one

    Returns:
        the circuit: its nodes and edges by their names in `vt.edges`, and the nodes of which either one is enough

    Raises:
        VlmtraceError: there is no such model, its circuit is not known, or the file is damaged

    Example:
        >>> from vlmtrace.models import known_circuit
        >>> known_circuit("planted-chain-llava").nodes["name"].tolist()
        ['finder', 'collector', 'mover', 'clearer', 'comparer']
    """
    path = MODELS / name / FILE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        nodes, edges = pd.DataFrame(told["nodes"]), pd.DataFrame(told["edges"])
        for table in (nodes, edges):
            table["corruptions"] = [tuple(one) for one in table["corruptions"]]
        return KnownCircuit(told["kind"], told["tells"], nodes, edges, tuple(told["joint"]))
    except OSError as error:
        raise VlmtraceError(
            f"No circuit of {name} is known, since there is no file {path}: name a planted model, such as "
            "planted-chain-llava, or its folder."
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise VlmtraceError(
            f"{path} does not hold a circuit ({type(error).__name__}: {error}): copy the planted model again."
        ) from error
