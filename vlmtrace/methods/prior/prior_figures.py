"""What is usual for what, where answers turn, and what steering turns."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_table
from vlmtrace.display.style import PALETTE, legend_below, new_figure, paper_style
from vlmtrace.display.wording import readable

_MARKERS = "os^Dv"


@checked
@paper_style
def prior_map(priors: pd.DataFrame, rows: str = "noun", panels: str = "category") -> Figure:
    """Draw how probable each answer is for each thing where the picture does not show it; priors have a frame.

    Args:
        priors: from `find_priors`, by two columns
        rows: one of them: a row for each of its values
        panels: the other: a panel for each of its values

    Returns:
        the figure

    Raises:
        VlmtraceError: a column is missing, an answer stands twice in a row of a panel, or there is no row
    """
    priors = check_table(priors, (rows, panels, "option", "share", "is_prior"), "priors")
    if priors.empty:
        raise VlmtraceError("The table of priors has no row: make it with find_priors.")
    if priors.duplicated([rows, panels, "option"]).any():
        raise VlmtraceError(f"An answer stands twice: find priors by {rows} and {panels} alone, or choose some rows.")
    names, options = list(dict.fromkeys(priors[rows])), list(dict.fromkeys(priors["option"]))
    values = list(dict.fromkeys(priors[panels]))
    n_columns = min(2, len(values))
    n_rows = -(-len(values) // n_columns)
    figure = new_figure(height=n_rows * (1.5 + 0.22 * len(names)))
    grid = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(values) :]:
        axes.set_axis_off()
    for axes, value in zip(grid.flat, values, strict=False):
        mine = priors[priors[panels] == value]
        table = mine.pivot(index=rows, columns="option", values="share").reindex(index=names, columns=options)
        image = axes.imshow(table.to_numpy(dtype=float), vmin=0, vmax=1, cmap="Blues", aspect="auto")
        for row in mine[mine["is_prior"].astype(bool)].to_dict("records"):
            at = options.index(row["option"]) - 0.5, names.index(row[rows]) - 0.5
            axes.add_patch(_frame(at))
        axes.set_title(readable(value))
        axes.set_yticks(range(len(names)), [readable(name) for name in names])
        axes.set_xticks(range(len(options)), [readable(name) for name in options], rotation=60, ha="right")
        axes.tick_params(labelbottom=True, length=0)
    figure.colorbar(image, ax=grid, label="share of the answers' probability", shrink=0.8)
    return figure


def _frame(corner: tuple[float, float]) -> Rectangle:
    return Rectangle(corner, 1, 1, fill=False, edgecolor=PALETTE[1], linewidth=1.8, clip_on=False)


@checked
@paper_style
def early_curves(means: pd.DataFrame, panels: str = "model", lines: str = "category") -> Figure:
    """Draw the log-odds that are decoded behind each layer.

    Args:
        means: from `early_means`, averaged by the column of lines and by one more column at most, of one block
        panels: that column: one panel for each of its values; where it is missing, there is one panel
        lines: one curve for each of its values

    Returns:
        the figure: means over units with their intervals; above 0 the correct answer is ahead

    Raises:
        VlmtraceError: a column is missing, a layer stands twice in a curve, or there is no row
    """
    needed = (lines, "layer", "n", "log_odds", "ci_low", "ci_high")
    groups = _groups(check_table(means, needed, "early_means"), panels, [lines, "layer"], "early_means")
    names = list(dict.fromkeys(means[lines]))
    figure = new_figure(height=2.9)
    columns = figure.subplots(1, len(groups), squeeze=False, sharex=False, sharey=True)[0]
    for axes, (panel, mine) in zip(columns, groups, strict=True):
        for name, some in mine.groupby(lines, sort=False):
            number = names.index(name)
            _curve(axes, some, "layer", "log_odds", ("ci_low", "ci_high"), number, str(readable(name)))
        axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        axes.set_title(f"{readable(panel)} (n = {int(mine['n'].max())} pairs)".strip())
        axes.set_xlabel("last layer that is kept")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        sns.despine(ax=axes)
    columns[0].set_ylabel("log-odds of the correct answer (logits)")
    legend_below(figure, columns[0])
    return figure


@checked
@paper_style
def steering_effects(table: pd.DataFrame, panels: str = "category", against: str = "layer") -> Figure:
    """Draw the share of right answers that steering turns into the other option.

    Args:
        table: from `steering_table`, counted by one column at most, of one block; of one factor, or of one layer
        panels: that column: one panel for each of its values; where it is missing, there is one panel
        against: what differs within a panel, "layer" or "factor"

    Returns:
        the figure: filled markers are the mean difference, gray ones random directions of the same length. A panel in
        which no answer was right, so that none can turn, says so.

    Raises:
        VlmtraceError: a column is missing, a point stands twice in a curve, or there is no row
    """
    needed = (against, "direction", "n_right", "turned", "turned_low", "turned_high")
    groups = _groups(check_table(table, needed, "steering_table"), panels, ["direction", against], "steering_table")
    figure = new_figure(height=2.7)
    columns = figure.subplots(1, len(groups), squeeze=False, sharex=False, sharey=True)[0]
    for axes, (panel, mine) in zip(columns, groups, strict=True):
        for number, (name, label) in enumerate((("difference", "mean difference"), ("random", "random directions"))):
            some = mine[mine["direction"] == name].sort_values(against)
            color = PALETTE[0] if name == "difference" else "0.6"
            _curve(axes, some, against, "turned", ("turned_low", "turned_high"), number, label, color)
        axes.set_title(f"{readable(panel)} (n = {int(mine['n_right'].max())})".strip())
        if not mine["n_right"].any():
            note = "no answer was right:\nnone can turn"
            axes.text(0.5, 0.5, note, transform=axes.transAxes, ha="center", va="center")
            axes.set_xticks([])
        elif against == "layer":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(f"steered behind {against}" if against == "layer" else against)
        axes.set_ylim(-0.05, 1.05)
        sns.despine(ax=axes)
    columns[0].set_ylabel("right answers that turn")
    columns[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    legend_below(figure, columns[0])
    return figure


def _groups(table: pd.DataFrame, panels: str, points: list[str], name: str) -> list[tuple[str, pd.DataFrame]]:
    """Rows by panel, each of which has every point once."""
    if table.empty:
        raise VlmtraceError(f"The table has no row: make it with {name}.")
    key = [panels, *points] if panels in table else points
    if table.duplicated(list(dict.fromkeys(key))).any():
        raise VlmtraceError(f"A point stands twice: group by {', '.join(key)} alone, or choose some of the rows.")
    return (
        [(str(value), mine) for value, mine in table.groupby(panels, sort=False)] if panels in table else [("", table)]
    )


def _curve(
    axes: Axes, rows: pd.DataFrame, x: str, y: str, ends: tuple[str, str], number: int, label: str, color: str = ""
) -> None:
    spread = np.nan_to_num((rows[list(ends)].to_numpy(dtype=float) - rows[[y]].to_numpy(dtype=float)) * [-1, 1])
    axes.errorbar(
        rows[x],
        rows[y],
        yerr=spread.T.clip(min=0),
        color=color or PALETTE[number % len(PALETTE)],
        marker=_MARKERS[number % len(_MARKERS)],
        markersize=4,
        linewidth=1.2,
        label=label,
    )
