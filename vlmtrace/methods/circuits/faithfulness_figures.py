"""Is the circuit one, and what do its heads do? Curves of faithfulness, scores of functions."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vlmtrace.core.schema import check_table
from vlmtrace.display.style import PALETTE, legend_below, new_figure, paper_style, readable
from vlmtrace.methods.circuits import faithfulness as verification

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
    curves = verification.faithfulness_curves(table, seed=seed)
    cell = [column for column in ("task", "corruption") if column in table]
    cells = table[cell].drop_duplicates()
    directions = [direction for direction in _DIRECTIONS if (table["direction"] == direction).any()]
    figure = new_figure(height=0.7 + (1.8 if len(cells) <= 4 else 1.35) * len(cells))
    grid = figure.subplots(len(cells), len(directions), squeeze=False, sharex=True, sharey=True)
    for (_, kind), panels in zip(cells.iterrows(), grid, strict=True):
        for axes, direction in zip(panels, directions, strict=True):
            panel = kind.to_frame().T.assign(direction=direction)
            _draw_curves(axes, table.merge(panel), curves.merge(panel))
        # Twice the label size would not fit a short panel: the unit stands in a second line.
        panels[0].set_ylabel("patching effect\n(0 = corrupt, 1 = clean)")
    for axes, direction in zip(grid[-1], directions, strict=True):
        axes.set_xlabel(_DIRECTIONS[direction])
    legend_below(figure, grid[0, 0])
    return figure


def _draw_curves(axes: Axes, rows: pd.DataFrame, curves: pd.DataFrame) -> None:
    """Ranked and random curves of one direction: `rows` of single pairs, `curves` of means."""
    for level in (0, 1):
        axes.axhline(level, color="0.6", linestyle=":", linewidth=0.8)
    styles = {"ranked": ("heads by rank", PALETTE[0], "-"), "random": ("random heads, mean", "0.35", "--")}
    for order, (label, color, line) in styles.items():
        curve = curves[curves["order"] == order]
        above = 3 if order == "ranked" else 2
        axes.fill_between(
            curve["k"], curve["ci_low"], curve["ci_high"], color=color, alpha=0.25, linewidth=0, zorder=above
        )
        axes.plot(
            curve["k"], curve["mean_effect"], color=color, linestyle=line, marker=".", markersize=4, label=label,
            zorder=above,
        )  # fmt: skip
    draws = rows[rows["order"] == "random"].groupby(["draw", "k"])["patching_effect"].mean().unstack("k")
    for index, (_, draw) in enumerate(draws.iterrows()):
        label = "single random draws" if index == 0 else ""
        axes.plot(draw.index, draw, color="0.75", linewidth=0.5, label=label, zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    first = curves.iloc[0]
    where = ", ".join([*([readable(first["task"])] if "task" in curves else []), f"{first['corruption']} corruption"])
    axes.set_title(f"{where} (n = {first['n']} pairs)", loc="left")
