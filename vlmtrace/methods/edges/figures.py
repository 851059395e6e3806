"""A circuit of edges as one sees it: from image and question by heads and mlps, layers upwards, to the answer."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vlmtrace.core.arguments import Count, Positive, checked
from vlmtrace.core.schema import check_table
from vlmtrace.display.aggregation import patch_grids
from vlmtrace.display.literal import shortened
from vlmtrace.display.panels import image_panel
from vlmtrace.display.style import EFFECT_LABEL, effect_limit, new_figure, paper_style, signed_norm
from vlmtrace.inputs.pictures import picture_of
from vlmtrace.inputs.token_roles import shows_image
from vlmtrace.methods.edges.drawing import DrawnCircuit, drawn_circuit
from vlmtrace.models.edges.nodes import IMAGE

#: Orange and blue differ for every common color blindness, and in print.
TOWARDS, AGAINST = "#d55e00", "#0072b2"
#: The same on an image, transparent at 0.
TINTS = LinearSegmentedColormap.from_list("tints", [AGAINST, (1, 1, 1, 0), TOWARDS])
#: How an edge into a head is drawn; all else is solid.
LINES: dict[str, Any] = {"query": ":", "key": "--"}
#: How far an edge is bent, by the input that it enters, so that several edges between two nodes are seen.
_BENDS = {"query": -0.3, "key": -0.12, "value": 0.12, "input": 0.2}
#: Widths of the strongest and the weakest edge, in points.
_WIDEST, _THINNEST = 5.0, 0.4
_NODES: dict[str, dict[str, Any]] = {
    "head": {"node_shape": "o", "node_size": 300},
    "mlp": {"node_shape": "s", "node_size": 260},
    "image": {"node_shape": "s", "node_size": 700},
    "prompt": {"node_shape": "s", "node_size": 700},
    "token": {"node_shape": "s", "node_size": 620},
    "output": {"node_shape": "s", "node_size": 700},
}


@checked
@paper_style
def edge_circuit(
    edges: pd.DataFrame,
    pairs: pd.DataFrame | None = None,
    n: Count = 40,
    value: str | None = None,
    grid: tuple[int, int] | None = None,
    limit: Positive | None = None,
) -> Figure:
    """Draw edges as a graph: image and prompt below, heads and mlps by layer upwards, the answer on top.

    An edge is the wider the larger its effect; orange brings the clean answer closer, blue works against it. Edges into
    a head's key are dashed, into its query dotted. Effects of several positions are summed, and of several pairs
    averaged.

    Args:
        edges: from `patch_edges` or `attribute_edges` (of one corruption), or a circuit of edges; any table with
            sender, receiver and an effect
        pairs: their pairs table: the first pair's image, question and answer are drawn at their nodes
        n: how many edges, the strongest
        value: the column that is drawn; None: the first of patching_effect, mean_effect and score that there is
        grid: rows and columns of image patches, where edges of one pair have positions; None: as many rows as columns
        limit: the effect of the widest line; None: the smallest round number that holds all effects

    Returns:
        the figure

    Raises:
        VlmtraceError: a column is missing, the table has no rows or several corruptions, or a name is no node's

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> effects = vt.patch_edges(model, pairs, receivers=["output"])
        >>> figure = vt.plots.edge_circuit(effects, pairs, n=10)
        >>> figure.get_suptitle()
        'The 10 strongest of 68 edges: Is this triangle yellow or red?'
    """
    circuit = drawn_circuit(edges, n, value)
    pair = None
    if pairs is not None:
        pairs = check_table(pairs, ["sample_id", "clean_image", "clean_prompt"], "pairs")
        of_edges = pairs[pairs["sample_id"].isin(edges["sample_id"])] if "sample_id" in edges else pairs
        pair = (pairs if of_edges.empty else of_edges).iloc[0]
    limit = limit or effect_limit(circuit.edges["effect"])
    figure = new_figure(height=min(9.0, 1.5 + 0.52 * len(circuit.rows)))
    axes = figure.subplots()
    _draw_nodes(axes, circuit, pair)
    _draw_edges(axes, circuit, limit)
    tints = None
    if pair is not None:
        tints = _tints(edges, circuit, grid)
        _draw_image(axes, circuit, pair, tints)
    _legend(figure, circuit, limit, tints, pair is not None)
    shown = len(circuit.edges)
    several = f"The {shown} strongest of {circuit.n_edges:,} edges" if shown < circuit.n_edges else f"{shown} edges"
    figure.suptitle(several if pair is None else f"{several}: {shortened(pair['clean_prompt'], 60, 1)}")
    return figure


def _graph(circuit: DrawnCircuit) -> tuple[nx.MultiDiGraph, dict[str, tuple[float, float]]]:
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(circuit.nodes["node"])
    for edge in circuit.edges.itertuples():
        graph.add_edge(edge.sender_node, edge.receiver_node, key=edge.receiver_input, effect=edge.effect)
    where = {row.node: (row.x, float(row.row)) for row in circuit.nodes.itertuples()}
    return graph, where


def _draw_nodes(axes: Axes, circuit: DrawnCircuit, pair: pd.Series | None) -> None:
    graph, where = _graph(circuit)
    for kind, look in _NODES.items():
        of_kind = circuit.nodes[circuit.nodes["kind"] == kind]
        nodes = of_kind["node"].tolist()
        if not nodes:
            continue
        drawn = nx.draw_networkx_nodes(
            graph, where, nodelist=nodes, ax=axes, hide_ticks=False, node_color="white", edgecolors="0.25",
            linewidths=0.8, **look,
        )  # fmt: skip
        drawn.set_zorder(3)
        for row in of_kind.itertuples():
            x, y = where[row.node]
            axes.text(x, y, _said(row.kind, row.text, pair), ha="center", va="center", fontsize=7, zorder=4)
            if row.at:
                beside: dict[str, Any] = {"xytext": (10, -9), "textcoords": "offset points", "fontsize": 7}
                axes.annotate(shortened(row.at, 10, 1), (x, y), color="0.4", zorder=4, **beside)
    axes.set_yticks(range(len(circuit.rows)), circuit.rows)
    axes.set(xticks=[], xlim=(-0.08, 1.08), ylim=(-0.9, len(circuit.rows) - 0.5))
    axes.tick_params(left=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for row in range(len(circuit.rows)):
        axes.axhline(row, color="0.93", linewidth=0.6, zorder=0)


def _said(kind: str, text: str, pair: pd.Series | None) -> str:
    """What is written into a node."""
    if pair is None:
        return text
    if kind == "prompt":
        return shortened(pair["clean_prompt"], 24, 3)
    if kind == "output" and pd.notna(pair.get("correct_answer")):
        return shortened(pair["correct_answer"], 20, 1)
    return "" if kind == "image" else text


def _draw_edges(axes: Axes, circuit: DrawnCircuit, limit: float) -> None:
    graph, where = _graph(circuit)
    size = {row.node: _NODES[row.kind]["node_size"] for row in circuit.nodes.itertuples()}
    # The strongest are drawn last and lie on top.
    for edge in circuit.edges.iloc[::-1].itertuples():
        ends = (edge.sender_node, edge.receiver_node)
        far = abs(where[ends[0]][1] - where[ends[1]][1]) > 1
        bend = _BENDS[edge.receiver_input] * (1 if where[ends[0]][0] <= where[ends[1]][0] else -1)
        for patch in nx.draw_networkx_edges(
            graph, where, edgelist=[(*ends, edge.receiver_input)], ax=axes, hide_ticks=False,
            width=_width(edge.effect, limit),
            edge_color=TOWARDS if edge.effect >= 0 else AGAINST, style=LINES.get(edge.receiver_input, "-"),
            connectionstyle=f"arc3,rad={bend if far else bend / 2:.3f}", arrowsize=5, alpha=0.8,
            nodelist=list(size), node_size=list(size.values()),
        ):  # fmt: skip
            patch.set_zorder(2)
            patch.set_gid(f"{edge.sender}>{edge.receiver}")


def _width(effect: float, limit: float) -> float:
    return _THINNEST + (_WIDEST - _THINNEST) * min(abs(effect) / limit, 1.0)


def _tints(edges: pd.DataFrame, circuit: DrawnCircuit, grid: tuple[int, int] | None) -> np.ndarray | None:
    """(row, column) of the effects that the drawn edges have from each patch; None where edges have no positions."""
    if not {"position", "token_role"} <= set(edges) or circuit.n_pairs > 1:
        return None
    drawn = circuit.edges.loc[circuit.edges["sender"] == IMAGE.label, "receiver"]
    rows = edges[(edges["sender"].astype(str) == IMAGE.label) & edges["receiver"].astype(str).isin(drawn)]
    rows = rows.dropna(subset=["position", "token_role"])
    rows = rows[shows_image(rows["token_role"])]
    if rows.empty:
        return None
    sums = rows.groupby(["position", "token", "token_role"], sort=False, observed=True)[circuit.value].sum()
    table = sums.rename("patching_effect").reset_index().assign(layer=0)
    return patch_grids(table, grid)[0]


def _draw_image(axes: Axes, circuit: DrawnCircuit, pair: pd.Series, tints: np.ndarray | None) -> None:
    found = circuit.nodes[circuit.nodes["kind"] == IMAGE.label]
    if found.empty:
        return
    x, y = float(found["x"].iloc[0]), float(found["row"].iloc[0])
    inset = axes.inset_axes((x - 0.07, y - 0.8, 0.14, 1.2), transform=axes.transData, zorder=5)
    width, height = image_panel(inset, picture_of(pair), gray=tints is not None)
    if tints is not None:
        norm = signed_norm(effect_limit(tints.ravel()))
        inset.imshow(tints, cmap=TINTS, norm=norm, extent=(0, width, height, 0), interpolation="nearest")


def _legend(figure: Figure, circuit: DrawnCircuit, limit: float, tints: np.ndarray | None, shows_a_pair: bool) -> None:
    inputs = set(circuit.edges["receiver_input"])
    handles = [
        Line2D([], [], color=color, linewidth=2, label=label)
        for color, label, found in (
            (TOWARDS, "towards the clean answer", (circuit.edges["effect"] >= 0).any()),
            (AGAINST, "against it", (circuit.edges["effect"] < 0).any()),
        )
        if found
    ]
    handles += [
        Line2D([], [], color="0.3", linewidth=1.2, linestyle=style, label=f"into a {name}")
        for name, style in ({"value": "-"} | LINES).items()
        if name in inputs
    ]
    handles += [
        Line2D([], [], color="0.3", linewidth=_width(share * limit, limit), label=f"{share * limit:.2g}")
        for share in (0.25, 1)
    ]
    label = EFFECT_LABEL if circuit.value != "score" else "score"
    title = f"width: {label}" + (f", mean over n = {circuit.n_pairs} pairs" if circuit.n_pairs > 1 else "")
    if shows_a_pair and circuit.n_pairs > 1:
        title += "; question, image and answer are one pair's"
    if tints is not None:
        title += f"; patches: colors span ±{effect_limit(tints.ravel()):g}"
    if circuit.nodes["at"].any():
        title += "; beside a node: the token at which it does most"
    # Column by column; four fit the page.
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), title=title, handlelength=3)
