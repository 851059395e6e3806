"""The edges of a model as a table, and those of them that somebody asks for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models import VLM
from vlmtrace.models.edges.nodes import Edge, Node
from vlmtrace.models.edges.wiring import edges_of


@checked
def edges(model: VLM) -> pd.DataFrame:
    """List every edge of a model's text side.

    Nodes are the image's and the prompt's embeddings, each head and each mlp, and the output. An edge is what one node
    writes as it enters one input of a later node. A head that attends has three: query, key and value. A head of a
    layer that carries a state from position to position has one. Keys and values of layers that read those of a lower
    layer are made of what enters that layer, and those of cross-attention of what it looks at.

    Args:
        model: BLIP, or decoder-only with the fast sweep

    Returns:
        one row per edge, in the order in which receivers are computed: sender and receiver (their names, e.g.
        "text_encoder.cross_attention.2.1" and "text_encoder.mlp.2", for a head as receiver with its input,
        "….query", "….key" or "….value"), and what the names consist of: sender_block, sender_module, sender_layer,
        sender_head, receiver_block, receiver_module, receiver_layer, receiver_head, receiver_input

    Raises:
        VlmtraceError: the model's layers are not known node by node

    Example:
        >>> import vlmtrace as vt
        >>> table = vt.edges(vt.load_model("tiny-blip"))
        >>> len(table), table["sender"].nunique()
        (12052, 138)
        >>> table.loc[table["receiver"] == "text_encoder.cross_attention.0.3.key", "sender"].tolist()
        ['image']
    """
    return edge_table(edges_of(model))


def edge_table(chosen: Sequence[Edge]) -> pd.DataFrame:
    """Edges as rows of the table of `edges`.

    Args:
        chosen: the edges
    """
    columns: dict[str, list] = {
        "sender": [edge.sender.label for edge in chosen],
        "receiver": [edge.receiver.label for edge in chosen],
    }
    for side, nodes in (("sender", [edge.sender for edge in chosen]), ("receiver", [e.receiver.node for e in chosen])):
        columns[f"{side}_block"] = [node.block for node in nodes]
        columns[f"{side}_module"] = [node.module for node in nodes]
        columns[f"{side}_layer"] = _numbers([node.layer for node in nodes])
        columns[f"{side}_head"] = _numbers([node.head for node in nodes])
    columns["receiver_input"] = [edge.receiver.input for edge in chosen]
    table = pd.DataFrame(columns)
    return table.astype({name: "category" for name in table if table[name].dtype != "Int64"})


def _numbers(values: list[int | None]) -> pd.arrays.IntegerArray:
    missing = np.array([value is None for value in values], dtype=bool)
    return pd.arrays.IntegerArray(np.array([value or 0 for value in values], dtype=np.int64), missing)


def chosen_edges(
    model: VLM, senders: Sequence[str] | None = None, receivers: Sequence[str] | None = None
) -> list[Edge]:
    """The edges of a model between some of its nodes.

    Args:
        model: any whose edges are known
        senders: names of nodes as in the table of `edges`, or beginnings of names up to a dot ("text_encoder.mlp",
            "text_encoder"); None: all
        receivers: the same of what reads them ("text_encoder.self_attention.2.1.query")

    Returns:
        the edges, in the order of `edges`

    Raises:
        VlmtraceError: there is no such node, or no edge between them
    """
    found = edges_of(model)
    for wanted, labels, what in (
        (senders, [edge.sender.label for edge in found], "sender"),
        (receivers, [edge.receiver.label for edge in found], "receiver"),
    ):
        if wanted is not None:
            known = set(labels)
            for name in wanted:
                if not any(_begins(label, name) for label in known):
                    near = ", ".join(difflib.get_close_matches(name, known, 3, cutoff=0)) or "none"
                    raise VlmtraceError(
                        f"{model.name} has no {what} {name!r}: use a name that vt.edges(model) lists, such as {near}, "
                        "or the beginning of one up to a dot."
                    )
    kept = [
        edge for edge in found if _is_wanted(edge.sender.label, senders) and _is_wanted(edge.receiver.label, receivers)
    ]
    if not kept:
        raise VlmtraceError(
            f"{model.name} has no edge from {', '.join(senders or ['any'])} to {', '.join(receivers or ['any'])}: a "
            "node is read by those that are computed after it."
        )
    return kept


def _is_wanted(label: str, wanted: Sequence[str] | None) -> bool:
    return wanted is None or any(_begins(label, name) for name in wanted)


def _begins(label: str, name: str) -> bool:
    return label == name or label.startswith(f"{name}.")


def sender_nodes(chosen: Sequence[Edge]) -> list[Node]:
    """The senders of some edges, each once.

    Args:
        chosen: the edges
    """
    return list(dict.fromkeys(edge.sender for edge in chosen))
