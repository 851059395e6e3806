"""How much of the answer circuits of growing size carry, as a figure."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from vlmtrace.core.arguments import Seed, checked
from vlmtrace.core.schema import check_table
from vlmtrace.display.style import PALETTE, legend_below, new_figure, paper_style
from vlmtrace.display.wording import readable
from vlmtrace.methods.circuits.curves import SUFFICIENT
from vlmtrace.methods.edges.faithfulness import edge_faithfulness_means

#: What the legend calls a curve of each rule.
_RULES = {
    "greedy": "grown from the output",
    "best": "best edges",
    "greedy-signed": "grown, by sign",
    "best-signed": "best edges, by sign",
}


@checked
@paper_style
def edge_faithfulness_curves(faithfulness: pd.DataFrame, seed: Seed = 0) -> Figure:
    """Draw the faithfulness of circuits of edges by their size: one panel per task and corruption.

    Bold lines are circuits chosen by the scores, a color for each rule, with 95 % intervals over units; dashed ones are
    random circuits of equal size, averaged over draws. The axis of sizes is logarithmic, since most of what is to be
    seen happens below 10 % of the edges. Areas (`edge_faithfulness_summary`) are taken on a linear one.

    Args:
        faithfulness: from `edge_faithfulness`; several rules may stand one below the other, and a column task may have
            been added
        seed: of the bootstrap

    Returns:
        the figure

    Raises:
        VlmtraceError: a column is missing, or there is no row
    """
    table = check_table(faithfulness, ["corruption", "rule", "order", "size", "logit_diff"], "edge_faithfulness")
    means = edge_faithfulness_means(table, seed=seed)
    cell = [column for column in ("task", "corruption") if column in means]
    cells = means[cell].drop_duplicates()
    n_rows = -(-len(cells) // 2)
    figure = new_figure(height=0.8 + 2.0 * n_rows)
    grid = figure.subplots(n_rows, min(2, len(cells)), squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(cells) :]:
        axes.set_visible(False)
    for axes, (_, kind) in zip(grid.flat, cells.iterrows(), strict=False):
        _draw(axes, means.merge(kind.to_frame().T))
    for axes in grid[:, 0]:
        axes.set_ylabel("faithfulness\n(0 = corrupt run, 1 = clean run)")
    for axes in grid[-1]:
        axes.set_xlabel("edges chosen, of all edges of the model")
    legend_below(figure, grid[0, 0])
    return figure


def _draw(axes: Axes, means: pd.DataFrame) -> None:
    for level in (0, 1):
        axes.axhline(level, color="0.6", linestyle=":", linewidth=0.8)
    axes.axhline(SUFFICIENT, color="0.4", linestyle="--", linewidth=0.8)
    axes.annotate(
        "sufficient from .8", (0.01, SUFFICIENT), xycoords=("axes fraction", "data"), va="bottom", fontsize=7,
        color="0.4",
    )  # fmt: skip
    for rule, color in zip(_RULES, PALETTE, strict=False):
        for order, style in (("ranked", "-"), ("random", "--")):
            curve = means[(means["rule"] == rule) & (means["order"] == order)]
            if curve.empty:
                continue
            name = _RULES[rule] + (", random scores" if order == "random" else "")
            axes.plot(curve["size"], curve["faithfulness"], style, color=color, marker=".", markersize=4, label=name)
            if order == "ranked":
                axes.fill_between(
                    curve["size"], curve["ci_low"], curve["ci_high"], color=color, alpha=0.25, linewidth=0
                )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.1%}" if share < 0.01 else f"{share:.0%}"))
    first = means.iloc[0]
    name = (
        f"{readable(first['task'])}, {first['corruption']}" if "task" in means else f"{first['corruption']} corruption"
    )
    axes.set_title(f"{name} (n = {first['n']} pairs, {first['n_units']} units)", loc="left")
