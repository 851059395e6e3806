"""A circuit of edges as a graph with a place for every node: what the figure and the view draw."""

from __future__ import annotations

from typing import Any, NamedTuple

import networkx as nx
import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import UNIT, check_table
from vlmtrace.display.aggregation import pair_keys
from vlmtrace.display.wording import readable
from vlmtrace.models.edges.nodes import HEAD_INPUTS, IMAGE, ONLY_INPUT, PROMPT, THE_OUTPUT

#: Columns that say how much an edge does, the first that a table has.
VALUES = ("patching_effect", "mean_effect", "score")

#: In which order a layer computes what it consists of; modules that are not named here come before the mlp.
_MODULES = ("self_attention", "cross_attention")


class Place(NamedTuple):
    """What a node's name says.

    Attributes:
        node: its name without a head's input
        input: "query", "key" or "value" of a head; "input" of all else
        block: the stack of layers; "" of an input and the output
        module: of the layer, or "image", "prompt", "output"
        layer: counted from 0; −1 of an input and the output
        head: counted from 0; None: not a head
    """

    node: str
    input: str
    block: str
    module: str
    layer: int
    head: int | None


class DrawnCircuit(NamedTuple):
    """A graph to be drawn.

    Attributes:
        edges: one row per edge, the strongest first: sender, receiver, at (position of the prompt's token, or −1),
            effect, sender_node, receiver_node, receiver_input
        nodes: one row per node: node, text (what is written into it), kind ("image", "prompt", "token", "head", "mlp",
            "output"), row (counted from below), x (0 … 1), and at: the token at which what it sends does most, where
            the table has positions of a single pair, "" elsewhere
        rows: what each row of nodes is, from below
        n_edges: how many edges the table has
        n_pairs: of how many pairs the effects are means
        value: the column that the effects are taken from
    """

    edges: pd.DataFrame
    nodes: pd.DataFrame
    rows: list[str]
    n_edges: int
    n_pairs: int
    value: str


def place_of(label: str) -> Place:
    """Take a node's or a receiver's name apart.

    Args:
        label: as tables have it

    Raises:
        VlmtraceError: it is no node's name

    Example:
        >>> place_of("text_encoder.cross_attention.2.7.value")[:2]
        ('text_encoder.cross_attention.2.7', 'value')
    """
    if label in (IMAGE.label, PROMPT.label, THE_OUTPUT.label):
        return Place(label, ONLY_INPUT, "", label, -1, None)
    node, _, last = label.rpartition(".")
    if last not in HEAD_INPUTS:
        node, last = label, ONLY_INPUT
    block, module, *numbers = node.split(".") if "." in node else (node, "")
    if not module or not 1 <= len(numbers) <= 2 or not all(number.isdecimal() for number in numbers):
        raise VlmtraceError(f"{label!r} is no node's name: use names as vt.edges(model) lists them.")
    layer, *head = map(int, numbers)
    return Place(node, last, block, module, layer, head[0] if head else None)


class EdgeMeans(NamedTuple):
    """One effect for each edge.

    Attributes:
        table: sender, receiver, effect, and at and token: position and token of the prompt that is sent, where the
            table has positions of a single pair
        value: the column that the effects are taken from
        n_edges: how many edges there are
        n_pairs: of how many pairs the effects are means
    """

    table: pd.DataFrame
    value: str
    n_edges: int
    n_pairs: int


def edge_means(edges: pd.DataFrame, value: str | None = None) -> EdgeMeans:
    """Sum effects over positions, then take the mean over pairs, in which each unit counts once.

    The prompt's tokens stay apart where the table has positions of a single pair.

    Args:
        edges: a table with sender, receiver and an effect or a score
        value: the column that is drawn; None: the first of patching_effect, mean_effect and score that there is

    Raises:
        VlmtraceError: a column is missing, the table has no rows, or it holds more than one corruption
    """
    if value is None:
        value = next((name for name in VALUES if name in edges), VALUES[0])
    edges = check_table(edges, ["sender", "receiver", value], "edges")
    for column in ("corruption", "direction", "method"):
        if column in edges and edges[column].nunique() > 1:
            known = ", ".join(sorted(map(str, edges[column].unique())))
            raise VlmtraceError(f"The edges table has several values of {column} ({known}): choose the rows of one.")
    pairs = [*(pair_keys(edges) if "sample_id" in edges else []), *([UNIT] if UNIT in edges else [])]
    n_pairs = len(edges[pairs].drop_duplicates()) if pairs else 1
    table = edges.astype({"sender": str, "receiver": str}).assign(at=-1, of="")
    if n_pairs == 1 and "position" in edges and "token" in edges:
        apart = (table["sender"] == PROMPT.label) & table["position"].notna()
        table["at"] = table["position"].where(apart, -1).astype(int)
        table["of"] = table["token"].where(apart, "").astype(str)
    keys = ["sender", "receiver", "at", "of"]
    table = table.groupby([*keys, *pairs], sort=False, observed=True)[value].sum(min_count=1).reset_index()
    if UNIT in pairs:
        table = table.groupby([*keys, UNIT], sort=False, observed=True)[value].mean().reset_index()
    means = table.groupby(keys, sort=False)[value].mean().reset_index().rename(columns={value: "effect", "of": "token"})
    return EdgeMeans(means, value, len(means[["sender", "receiver"]].drop_duplicates()), n_pairs)


def drawn_circuit(edges: pd.DataFrame, n: int, value: str | None = None) -> DrawnCircuit:
    """Choose the strongest edges of a table, and place their nodes.

    Heads of one module and layer stand in a row, layers upwards; mlps in a column at the right. Within rows nodes
    follow the graph's spectral layout (networkx), by which those that are joined by strong edges come to lie above
    each other.

    Args:
        edges: a table with sender, receiver and an effect or a score
        n: how many edges at most
        value: the column that is drawn; None: the first of patching_effect, mean_effect and score that there is

    Raises:
        VlmtraceError: see `edge_means`; or all effects are missing
    """
    found = edge_means(edges, value)
    means = found.table
    places = {label: place_of(label) for label in pd.unique(means[["sender", "receiver"]].to_numpy().ravel())}
    blocks = _blocks_in_order(means, places)
    strongest = means.dropna(subset=["effect"])
    strongest = strongest.sort_values("effect", key=np.abs, ascending=False, kind="stable").head(n)
    if strongest.empty:
        raise VlmtraceError(f"All values of {found.value} are missing in the edges table, so there is nothing to draw.")
    by_node = {place.node: place for place in places.values()}
    senders = []
    for edge in strongest.itertuples():
        place = places[edge.sender]
        if edge.at >= 0:  # a token of the prompt is a node of its own
            place = place._replace(node=f"{place.node} {edge.at}", module="token", head=None)
            by_node[place.node] = place
        senders.append(place.node)
    words = {name: edge.token for name, edge in zip(senders, strongest.itertuples(), strict=True) if edge.at >= 0}
    chosen = strongest.assign(
        sender_node=senders,
        receiver_node=[places[label].node for label in strongest["receiver"]],
        receiver_input=[places[label].input for label in strongest["receiver"]],
    ).reset_index(drop=True)
    nodes, rows = _placed(chosen, by_node, words, blocks)
    most = _tokens_that_count(edges, chosen, found)
    nodes["at"] = [most.get(node, "") for node in nodes["node"]]
    return DrawnCircuit(chosen.drop(columns="token"), nodes, rows, found.n_edges, found.n_pairs, found.value)


def _tokens_that_count(edges: pd.DataFrame, chosen: pd.DataFrame, found: EdgeMeans) -> dict[str, str]:
    """By sending head or mlp, the token at whose position the drawn edges have the largest effect in sum."""
    if found.n_pairs > 1 or not {"position", "token"} <= set(edges.columns):
        return {}
    rows = edges.dropna(subset=["position"]).astype({"sender": str, "receiver": str})
    rows = rows[~rows["sender"].isin([IMAGE.label, PROMPT.label])].merge(chosen[["sender", "receiver"]])
    sums = rows.groupby(["sender", "position", "token"], observed=True)[found.value].sum().abs().reset_index()
    strongest = sums.sort_values(found.value, kind="stable").drop_duplicates("sender", keep="last")
    return dict(zip(strongest["sender"], strongest["token"].astype(str), strict=True))


def _blocks_in_order(means: pd.DataFrame, places: dict[str, Place]) -> list[str]:
    """Stacks of layers as information flows: one that is read by another comes first."""
    graph = nx.DiGraph()
    graph.add_nodes_from(dict.fromkeys(place.block for place in places.values()))
    ends = zip(means["sender"], means["receiver"], strict=True)
    joined = {(places[sender], places[receiver]) for sender, receiver in ends}
    graph.add_edges_from((a.block, b.block) for a, b in joined if a.block and b.block and a.block != b.block)
    # Where no edge says which comes first: what writes the answer is last.
    last = {a.block for a, b in joined if b.module == THE_OUTPUT.module}
    try:
        return list(nx.lexicographical_topological_sort(graph, key=lambda block: (block in last, block)))
    except nx.NetworkXUnfeasible:
        raise VlmtraceError(
            "The edges run in a circle between stacks of layers, which those of one model do not: draw one model."
        ) from None


def _placed(
    edges: pd.DataFrame, places: dict[str, Place], words: dict[str, str], blocks: list[str]
) -> tuple[pd.DataFrame, list[str]]:
    graph = nx.Graph()
    largest = max(float(edges["effect"].abs().max()), 1e-300)
    for edge in edges.itertuples():
        before = graph.get_edge_data(edge.sender_node, edge.receiver_node, {}).get("weight", 1e-3)
        graph.add_edge(edge.sender_node, edge.receiver_node, weight=before + abs(edge.effect) / largest)
    order = _ordered(graph)
    # An ordering and its mirror image are as good: the strongest edge begins at the left.
    if 2 * order.index(edges["sender_node"].iloc[0]) >= len(order):
        order = order[::-1]
    by_row: dict[tuple, list[str]] = {}
    for node in order:
        by_row.setdefault(_row_key(places[node], blocks), []).append(node)
    layers = {row: by_row[key] for row, key in enumerate(sorted(by_row))}
    across = {row: [node for node in members if _kind(places[node]) != "mlp"] for row, members in layers.items()}
    others = [node for members in across.values() for node in members]
    layout = nx.multipartite_layout(
        graph.subgraph(others), {row: members for row, members in across.items() if members}, "horizontal"
    )
    table = pd.DataFrame(
        [
            {"node": node, "text": words.get(node, _text(places[node])), "kind": _kind(places[node]), "row": row}
            | {"x": float(layout[node][0]) if node in layout else np.nan}
            for row, members in layers.items()
            for node in members
        ]
    )
    low, high = table["x"].min(), table["x"].max()
    share = (table["x"] - low) / (high - low) if high - low > 1e-9 else table["x"].where(table["x"].isna(), 0.5)
    right = 0.88 if table["x"].isna().any() else 1.0
    table["x"] = (right * share).fillna(1.0)
    return table, [_row_name(places[members[0]]) for members in layers.values()]


def _ordered(graph: nx.Graph) -> list[str]:
    """The nodes from left to right, part by part: by the Laplacian's second eigenvector, computed in full.

    `nx.spectral_ordering` looks for it step by step, and never ends where eigenvalues are equal, as those of a star.
    """
    order: list[str] = []
    for part in nx.connected_components(graph):
        connected = graph.subgraph(sorted(part))
        place = {node: round(float(at[0]), 9) for node, at in nx.spectral_layout(connected, dim=1).items()}
        order += sorted(place, key=lambda node: (place[node], node))
    return order


def _row_key(place: Place, blocks: list[str]) -> tuple:
    if not place.block:
        return (len(blocks), 0, 0, "") if place.module == THE_OUTPUT.module else (-1, 0, 0, "")
    if place.head is None:
        rank = len(_MODULES) + 1
    else:
        rank = _MODULES.index(place.module) if place.module in _MODULES else len(_MODULES)
    return blocks.index(place.block), place.layer, rank, place.module


def _row_name(place: Place) -> str:
    if not place.block:
        return "answer" if place.module == THE_OUTPUT.module else "input"
    return f"{readable(place.block)} {place.layer}: {readable(place.module)}"


def _kind(place: Place) -> str:
    if not place.block:
        return place.module
    return "mlp" if place.head is None else "head"


def _text(place: Place) -> str:
    if not place.block:
        return place.module
    return readable(place.module) if place.head is None else f"{place.layer}.{place.head}"


def as_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table as plain values of Python, for a browser.

    Args:
        table: any without missing values
    """
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
