"""Is the circuit one, and what do its heads do? Curves of faithfulness, scores of functions."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vlmtrace.plots.averages import check_table, curve_means
from vlmtrace.plots.style import PALETTE, new_figure, paper_style, readable

#: Direction -> what the horizontal axis counts, and what no circuit at all would give at k = 0 and at every head.
_DIRECTIONS = {
    "sufficiency": "k heads clean, all others corrupt",
    "necessity": "k heads corrupt, all others clean",
}


@paper_style
def faithfulness_curves(faithfulness: pd.DataFrame, seed: int = 0) -> Figure:
    """How much of the answer the top k heads carry, against as many random ones: one row a corruption (and task).

    Bold lines are means over pairs with 95 % bootstrap intervals over pairs (random heads: averaged over draws within
    the pair first); thin gray lines are the single random draws. The axis of k is linear, so that the area that one
    sees is the area under the curve that the summary reports.

    Args:
        faithfulness: from `circuits.faithfulness`
        seed: of the bootstrap

    Raises:
        VlmtraceError: a column is missing or there is no row.
    """
    columns = ["sample_id", "corruption", "direction", "order", "draw", "k", "patching_effect"]
    table = check_table(faithfulness, columns, "faithfulness")
    cell = [column for column in ("task", "corruption") if column in table]
    cells = [rows for _, rows in table.groupby(cell, sort=False)]
    directions = [direction for direction in _DIRECTIONS if (table["direction"] == direction).any()]
    figure = new_figure(height=0.7 + 1.8 * len(cells))
    grid = figure.subplots(len(cells), len(directions), squeeze=False, sharex=True, sharey=True)
    for rows, panels in zip(cells, grid, strict=True):
        for axes, direction in zip(panels, directions, strict=True):
            _draw_curves(axes, rows[rows["direction"] == direction], seed)
        # Twice the label size would not fit a short panel: the unit stands in a second line.
        panels[0].set_ylabel("patching effect\n(0 = corrupt, 1 = clean)")
    for axes, direction in zip(grid[-1], directions, strict=True):
        axes.set_xlabel(_DIRECTIONS[direction])
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=len(labels))
    return figure


def _draw_curves(axes: Axes, rows: pd.DataFrame, seed: int) -> None:
    """Ranked and random curves of one direction."""
    for level in (0, 1):
        axes.axhline(level, color="0.6", linestyle=":", linewidth=0.8)
    is_random = rows["order"] == "random"
    draws = rows[is_random].groupby(["draw", "k"])["patching_effect"].mean().unstack("k")
    for index, (_, draw) in enumerate(draws.iterrows()):
        axes.plot(draw.index, draw, color="0.75", linewidth=0.5, label="single random draws" if index == 0 else None)
    styles = (("random heads, mean", is_random, "0.35", "--"), ("heads by rank", ~is_random, PALETTE[0], "-"))
    for label, chosen, color, line in styles:
        if chosen.any():
            curve = curve_means(rows[chosen], seed)
            axes.fill_between(curve["k"], curve["low"], curve["high"], color=color, alpha=0.25, linewidth=0)
            axes.plot(curve["k"], curve["mean"], color=color, linestyle=line, marker=".", markersize=4, label=label)
            count = curve["n"].iloc[0]
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    first = rows.iloc[0]
    where = ", ".join([*([readable(first["task"])] if "task" in rows else []), f"{first['corruption']} corruption"])
    axes.set_title(f"{first['direction']}: {where} (n = {count} pairs)", loc="left")
