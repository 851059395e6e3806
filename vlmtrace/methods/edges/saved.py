"""Circuits of edges as files that other programs read, too: JSON (node-link, as networkx and D3 take it) and GraphML.

A file says for a model of which shape the circuit is, so that none is run on a model where the same names mean
something else. Nothing in a file is executed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import first_line, read_json, refusals_as_sentences, write_atomically, write_json
from vlmtrace.core.types import Array
from vlmtrace.core.unreadable import refused
from vlmtrace.methods.edges.graph import EdgeGraph
from vlmtrace.models import VLM
from vlmtrace.models.edges.nodes import HEAD_INPUTS, ONLY_INPUT, Node
from vlmtrace.models.edges.wiring import wirings_of

#: What a file says it is, and the version of its form.
FORMAT, VERSION = "vlmtrace edge circuit", 1
#: Characters of a name at most: those of nodes are far shorter.
LONGEST_NAME = 200


@checked
def save_circuit(circuit: pd.DataFrame, path: str | Path, model: VLM) -> Path:
    """Write a circuit of edges to a file, with the shape of the model it belongs to.

    Args:
        circuit: with the columns sender and receiver, and score if there is one
        path: ending in .json (node-link data, as `networkx.node_link_graph` and D3 read it) or .graphml (Gephi,
            Cytoscape, yEd, …)
        model: whose edges they are

    Returns:
        the path

    Raises:
        VlmtraceError: the model has no such edge, a score is no number, the path has another ending, or the disk
            refuses

    Example:
        >>> import tempfile
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> circuit = vt.edges(model).head(3).assign(score=0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = vt.save_circuit(circuit, f"{folder}/circuit.graphml", model)
        ...     vt.load_circuit(path, model)["score"].tolist()
        [0.5, 0.5, 0.5]
    """
    path = Path(path)
    kind = _kind(path)
    graph = _as_networkx(circuit, model)
    if kind == ".json":
        return write_json(nx.node_link_data(graph, edges="links"), path)
    # GraphML has no structured attributes.
    graph.graph["shape"] = json.dumps(graph.graph["shape"])
    with refusals_as_sentences(path), write_atomically(path, durable=True) as temporary:
        temporary.write_text("\n".join(nx.generate_graphml(graph)) + "\n", encoding="utf-8")
    return path


@checked
def load_circuit(path: str | Path, model: VLM | None = None) -> pd.DataFrame:
    """Read a circuit of edges that `save_circuit` wrote, or another program in its form.

    Args:
        path: ending in .json or .graphml
        model: on which it is to be run; None: any, and the shape is not compared

    Returns:
        the circuit: sender, receiver, score (missing where the file has none), in the order in which it was saved

    Raises:
        VlmtraceError: the file is missing or no such circuit, or the model has another shape

    Example:
        >>> import tempfile
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = vt.save_circuit(vt.edges(model).head(2), f"{folder}/circuit.json", model)
        ...     vt.load_circuit(path)["sender"].tolist()
        ['prompt', 'prompt']
    """
    path = Path(path)
    graph = _read(path, _kind(path))
    shape = graph.graph.get("shape")
    try:
        shape = json.loads(shape) if isinstance(shape, str) else shape
    except ValueError:
        shape = None
    if graph.graph.get("format") != FORMAT or not isinstance(shape, dict):
        raise VlmtraceError(
            f"{path} is a graph, but not one that save_circuit wrote (its attribute 'format' is not {FORMAT!r}, or it "
            "names no shape): save the circuit again."
        )
    if model is not None and shape != (own := model_shape(model)):
        mine, theirs = (_described(one) for one in (own, shape))
        differ = f"that has {theirs}, and {model.name} has {mine}" if mine != theirs else "whose modules read otherwise"
        raise VlmtraceError(f"{path} holds a circuit of a model {differ}: load it for a model of its shape.")
    rows = [_edge(path, *edge) for edge in graph.edges(data=True)]
    table = pd.DataFrame(rows, columns=["rank", "sender", "receiver", "score"])
    table = table.sort_values("rank", kind="stable", ignore_index=True).drop(columns="rank")
    table = table.astype({"sender": str, "receiver": str, "score": float})
    if model is not None:
        EdgeGraph(model).numbers_of(table)
    return table


def model_shape(model: VLM) -> dict[str, Any]:
    """What two models must share for a circuit of the one to be one of the other.

    Args:
        model: any whose edges are known

    Returns:
        by stack, how it is wired (`Wiring`), and by layer its number of heads and its kind
    """
    stacks = []
    for wiring in wirings_of(model):
        block = model.blocks[wiring.block]
        by_layer = {
            "heads": [block.heads_at(layer) for layer in range(block.n_layers)],
            "kinds": [block.kind_at(layer) for layer in range(block.n_layers)],
        }
        stacks.append({name: _plain(value) for name, value in wiring._asdict().items()} | by_layer)
    return {"stacks": stacks}


def _plain(value: Any) -> Any:
    """What JSON can say of a part of a wiring; nodes by their names."""
    if isinstance(value, Node):
        return value.label
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _described(shape: dict[str, Any]) -> str:
    """A shape in words; one that another program wrote may be anything."""
    words = []
    for stack in shape.get("stacks", []) if isinstance(shape.get("stacks"), list) else []:
        heads = stack.get("heads") if isinstance(stack, dict) else None
        if isinstance(heads, list) and heads and all(isinstance(n, int) for n in heads):
            least, most = min(heads), max(heads)
            many = f"{most}" if least == most else f"{least} to {most}"
            words.append(f"{str(stack.get('block'))[:LONGEST_NAME]} of {len(heads)} layers with {many} heads")
    return " and ".join(words) or "no stack of layers"


def _kind(path: Path) -> str:
    kind = path.suffix.lower()
    if kind not in (".json", ".graphml"):
        raise VlmtraceError(f"{path} ends in neither .json nor .graphml: circuits are kept in one of these forms.")
    return kind


def _as_networkx(circuit: pd.DataFrame, model: VLM) -> nx.MultiDiGraph:
    graph = EdgeGraph(model)
    numbers = graph.numbers_of(circuit)
    scores = _scores(circuit)
    found = nx.MultiDiGraph(format=FORMAT, version=VERSION, model=model.name, shape=model_shape(model))
    for number in numbers:
        edge = graph.edges[number]
        for node in (edge.sender, edge.receiver.node):
            given = node._asdict().items()
            found.add_node(node.label, **{name: value for name, value in given if value is not None})
    for rank, (number, score) in enumerate(zip(numbers, scores.tolist(), strict=True)):
        sender, receiver = graph.edges[number]
        # A viewer needs one name for each edge; JSON has no word for a missing number.
        found.add_edge(
            sender.label, receiver.node.label, key=f"{sender.label} → {receiver.label}", input=receiver.input,
            rank=rank, **({"score": score} if math.isfinite(score) else {}),
        )  # fmt: skip
    return found


def _scores(circuit: pd.DataFrame) -> Array:
    """(edge,), missing where there is none."""
    if "score" not in circuit:
        return np.full(len(circuit), np.nan)
    try:
        return circuit["score"].to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise VlmtraceError(
            f"A score of the circuit is no number ({first_line(error)}): correct the column, or leave it out."
        ) from None


def _read(path: Path, kind: str) -> nx.MultiDiGraph:
    if not path.is_file():
        raise VlmtraceError(f"There is no file {path}: save a circuit there by save_circuit, or correct the path.")
    try:
        if kind == ".json":
            content = read_json(path)
            graph = nx.node_link_graph(content, directed=True, multigraph=True, edges="links")
            if not isinstance(graph.graph, dict):
                raise TypeError("its graph has no attributes")
            return graph
        text = path.read_text(encoding="utf-8")
        # Entities are declared there, and a few of them can grow without bound.
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise VlmtraceError(f"{path} declares a document type, which a circuit has no use for: save it again.")
        return nx.parse_graphml(text, node_type=str, edge_key_type=str, force_multigraph=True)
    except VlmtraceError:
        raise
    except Exception as error:  # whatever a foreign file makes the library raise
        raise refused(path, error) or VlmtraceError(
            f"{path} cannot be read as a circuit ({type(error).__name__}: {first_line(error)}): save it again by "
            "save_circuit."
        ) from None


def _edge(path: Path, sender: Any, node: Any, given: dict[str, Any]) -> tuple[float, str, str, float]:
    """Rank, sender, receiver and score of an edge of a foreign graph."""
    entered, score, rank = given.get("input", ONLY_INPUT), given.get("score"), given.get("rank", 0)
    try:
        numbers = [float(rank), math.nan if score is None else float(score)]
    except (TypeError, ValueError, OverflowError):
        numbers = [math.inf]
    names = all(isinstance(name, str) and len(name) <= LONGEST_NAME for name in (sender, node))
    if not names or any(map(math.isinf, numbers)) or entered not in (ONLY_INPUT, *HEAD_INPUTS):
        raise VlmtraceError(
            f"{path} has an edge ({str(sender)[:80]} → {str(node)[:80]}) whose input, score or rank is none: an input "
            f"is one of {', '.join((ONLY_INPUT, *HEAD_INPUTS))}, the others are finite numbers. Correct it."
        )
    return numbers[0], sender, node if entered == ONLY_INPUT else f"{node}.{entered}", numbers[1]
