"""What an answer owes to image and words, which heads carry them, and what damping does."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from vlmtrace.core.arguments import Natural, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import HEAD, check_table
from vlmtrace.display.style import PALETTE, legend_below, new_figure, paper_style
from vlmtrace.display.wording import readable

#: Part or side → its color: told apart with every common color blindness.
COLORS = {
    "image": PALETTE[0],
    "words": PALETTE[1],
    "both": PALETTE[4],
    "rest": "0.6",
    "neither": "0.75",
    "log_odds": "black",
}
_LABELS = {"log_odds": "all of it", "rest": "without both", "image": "image", "words": "words"}
_MARKERS = {"log_odds": "D", "rest": "s", "image": "o", "words": "^"}


@checked
@paper_style
def log_odds_bars(means: pd.DataFrame, panels: str = "without") -> Figure:
    """Draw what image and words bring to the log-odds of the correct answer: one row per category.

    Args:
        means: from `log_odds_means`, averaged by category and by one more column at most
        panels: that column: one panel for each of its values

    Returns:
        the figure: means over units with their intervals

    Raises:
        VlmtraceError: a column is missing, a part stands twice in a panel, or there is no row
    """
    means = check_table(means, ("category", panels, "part", "n", "mean", "ci_low", "ci_high"), "log_odds_means")
    if means.empty:
        raise VlmtraceError("The log_odds_means table has no row: make it with log_odds_means.")
    if means.duplicated(["category", panels, "part"]).any():
        raise VlmtraceError(f"A part stands twice: average by category and {panels} alone, or choose some of the rows.")
    values, categories = list(dict.fromkeys(means[panels])), list(dict.fromkeys(means["category"]))
    figure = new_figure(height=1.2 + 0.42 * len(categories))
    columns = figure.subplots(1, len(values), squeeze=False, sharey=True, sharex=True)[0]
    for axes, value in zip(columns, values, strict=True):
        mine = means[means[panels] == value]
        _draw_parts(axes, mine, categories)
        axes.set_title(f"image taken away: {value}" if panels == "without" else readable(value))
        axes.set_xlabel("log-odds of the correct answer (logits)")
    columns[0].set_yticks(range(len(categories)), [readable(name) for name in categories])
    columns[0].invert_yaxis()
    if means["part"].nunique() > 1:
        legend_below(figure, columns[0])
    return figure


def _draw_parts(axes: Axes, means: pd.DataFrame, categories: list[str]) -> None:
    axes.axvline(0, color="0.6", linewidth=0.6, zorder=0)
    drawn = [part for part in _LABELS if (means["part"] == part).any()]
    for place, part in enumerate(drawn):
        mine = means[means["part"] == part]
        at = np.array([categories.index(name) for name in mine["category"]]) + 0.18 * (place - (len(drawn) - 1) / 2)
        spread = (mine[["ci_low", "ci_high"]].to_numpy() - mine[["mean"]].to_numpy()) * [-1, 1]
        axes.errorbar(
            mine["mean"],
            at,
            xerr=np.nan_to_num(spread).T.clip(min=0),
            color=COLORS[part],
            marker=_MARKERS[part],
            markersize=3.5,
            linestyle="none",
            linewidth=1,
            label=_LABELS[part],
        )
    axes.set_ylim(-0.5, len(categories) - 0.5)
    for row in range(1, len(categories)):
        axes.axhline(row - 0.5, color="0.92", linewidth=0.6, zorder=0)
    sns.despine(ax=axes)


@checked
@paper_style
def head_sides_map(sides: pd.DataFrame, panels: str = "model", n_named: Natural = 5) -> Figure:
    """Draw each head by what it carries of the image (to the right) and of the words (upwards).

    Args:
        sides: from `head_sides`, or several such tables with a column that tells them apart
        panels: that column: one panel for each of its values; where it is missing, there is one panel
        n_named: how many heads are named in each panel at most: those that carry most

    Returns:
        the figure

    Raises:
        VlmtraceError: a column is missing, or there is no row
    """
    sides = check_table(sides, (*HEAD, "n", "image", "words", "side"), "head_sides")
    if sides.empty:
        raise VlmtraceError("The head_sides table has no row: make it with head_sides.")
    groups = list(sides.groupby(panels, sort=False)) if panels in sides else [("", sides)]
    figure = new_figure(height=3.4, width=7.0 if len(groups) > 1 else 4.5)
    columns = figure.subplots(1, len(groups), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (_, mine) in zip(columns, groups, strict=True):
        for side in ("neither", "image", "words", "both"):
            some = mine[mine["side"] == side]
            axes.scatter(some["image"], some["words"], s=14, color=COLORS[side], label=side, linewidths=0)
        for line in (axes.axhline, axes.axvline):
            line(0, color="0.6", linewidth=0.6, zorder=0)
    for axes, (name, mine) in zip(columns, groups, strict=True):  # once the panels' common range is known
        _name_heads(axes, mine, n_named)
        axes.set_title(f"{readable(name)} (n = {int(mine['n'].max())} pairs)".strip())
        axes.set_xlabel("brings back what the other image takes (logits)")
        sns.despine(ax=axes)
    columns[0].set_ylabel("brings back what the other words take (logits)")
    legend_below(figure, columns[0])
    return figure


def _name_heads(axes: Axes, sides: pd.DataFrame, n: int) -> None:
    """Name the heads farthest from the origin, beside their points, as far as there is room between the names."""
    blocks = sides["block"].nunique()
    far = sides[["image", "words"]].abs().max(axis=1).nlargest(n).index
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    named: list[tuple[float, float]] = []
    for row in sides.loc[far].itertuples():
        x, y = (row.image - left) / (right - left), (row.words - low) / (high - low)
        if any(abs(x - other) < 0.25 and abs(y - above) < 0.06 for other, above in named):
            continue
        named.append((x, y))
        initials = "".join(word[0] for word in str(row.block).split("_")).upper() if blocks > 1 else ""
        module = "" if row.module == "self_attention" else "cross "
        name = f"{initials} {module}{row.layer}.{row.head}".strip()
        is_right = x > 0.7
        axes.annotate(
            name,
            (row.image, row.words),
            xytext=(-4 if is_right else 4, 2),
            textcoords="offset points",
            ha="right" if is_right else "left",
            fontsize=7,
        )


@checked
@paper_style
def damping_effects(table: pd.DataFrame, panels: str = "model") -> Figure:
    """Draw what damping repairs (upwards) and what it spoils (downwards), by category and factor.

    Args:
        table: from `damping_table`, counted by category and by one more column at most
        panels: that column: one row of panels for each of its values; where it is missing, there is one row

    Returns:
        the figure: one column of panels per factor; filled bars are the chosen heads, pale ones random heads

    Raises:
        VlmtraceError: a column is missing, or there is no row
    """
    table = check_table(table, ("category", "heads", "factor", "n", "repaired", "spoiled"), "damping_table")
    if table.empty:
        raise VlmtraceError("The damping table has no row: make it with damping_table.")
    groups = list(table.groupby(panels, sort=False)) if panels in table else [("", table)]
    factors = sorted(set(table["factor"]), reverse=True)
    categories = list(dict.fromkeys(table["category"]))
    figure = new_figure(height=1.1 + 1.6 * len(groups))
    grid = figure.subplots(len(groups), len(factors), squeeze=False, sharex=True, sharey=True)
    for row, (name, mine) in zip(grid, groups, strict=True):
        for axes, factor in zip(row, factors, strict=True):
            _draw_damping(axes, mine[mine["factor"] == factor], categories)
            axes.set_title(f"{readable(name)}, factor {factor:g}".strip(", "))
        row[0].set_ylabel("share of questions")
        row[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    names = [readable(category) for category in categories]
    for axes in grid[-1]:
        axes.set_xticks(range(len(categories)), names, rotation=30, ha="right")
    legend_below(figure, grid[0, 0])
    return figure


def _draw_damping(axes: Axes, table: pd.DataFrame, categories: list[str]) -> None:
    for number, (heads, alpha) in enumerate((("chosen", 1.0), ("random", 0.4))):
        mine = table[table["heads"] == heads]
        at = np.array([categories.index(name) for name in mine["category"]]) + 0.36 * (number - 0.5)
        for column, sign, color in (("repaired", 1, PALETTE[0]), ("spoiled", -1, PALETTE[1])):
            axes.bar(at, sign * mine[column], width=0.34, color=color, alpha=alpha, label=f"{column}, {heads} heads")
    axes.axhline(0, color="0.4", linewidth=0.6)
    sns.despine(ax=axes)
