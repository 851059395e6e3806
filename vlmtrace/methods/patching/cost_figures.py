"""What calls cost, counted for several models."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from vlmtrace.core.arguments import checked
from vlmtrace.core.schema import check_table
from vlmtrace.display.style import PALETTE, legend_below, new_figure, paper_style

_MARKERS = "osD^vP"


@checked
@paper_style
def cost_of_calls(costs: pd.DataFrame, value: str = "passes", label: str = "forward passes for one pair") -> Figure:
    """Draw what calls cost: one row per call, one marker per model, on a logarithmic axis.

    Args:
        costs: from `patching_costs`, with a column `model`; rows of one model follow each other
        value: the column that is drawn; rows in which it is missing are left out
        label: of its axis

    Returns:
        the figure

    Raises:
        VlmtraceError: a column is missing or there is no row
    """
    check_table(costs, ["model", "call", value], "costs")
    calls = list(dict.fromkeys(costs["call"]))
    models = list(dict.fromkeys(costs["model"]))
    figure = new_figure(height=1.3 + 0.3 * len(calls))
    axes = figure.subplots()
    step = 0.6 / max(1, len(models))
    for number, model in enumerate(models):
        mine = costs[(costs["model"] == model) & costs[value].notna()]
        rows = [calls.index(call) + (number - (len(models) - 1) / 2) * step for call in mine["call"]]
        color = PALETTE[number % len(PALETTE)]
        axes.plot(mine[value], rows, _MARKERS[number % len(_MARKERS)], color=color, label=model, markersize=5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter("")
    axes.set_yticks(range(len(calls)), calls)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(label)
    legend_below(figure, axes)
    return figure
