"""Is the circuit one, and what do its heads do? Curves of faithfulness, scores of functions."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from vlmtrace import verification
from vlmtrace.attention import FACTOR, HEAD
from vlmtrace.plots.averages import check_table
from vlmtrace.plots.panels import grouped_places, head_name, label_groups
from vlmtrace.plots.style import PALETTE, legend_below, new_figure, paper_style, readable

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


#: Region of the image -> color, marker and place in a row.
_REGIONS = {
    "object": (PALETTE[0], "o", -0.22),
    "distractor": (PALETTE[1], "D", 0.0),
    "outlier": (PALETTE[7], "^", 0.22),
}
_FUNCTIONS = ("object detection", "object suppression", "outlier suppression", "none")
#: Ratios are drawn on a logarithmic axis; below this they stand at its left end.
_LEAST_RATIO = 1 / 8


@paper_style
def function_scores(functions: pd.DataFrame, heads: pd.DataFrame | None = None, at_most: int = 24) -> Figure:
    """What each head looks at: how densely its attention lies on a region, and how much more it puts there than others.

    Left: attention on the region over what evenly spread attention would put there (1 = evenly; dotted: the factor that
    names a function). Right: the share of attention on the region less the mean share over all heads. Bars are 95 %
    bootstrap intervals over pairs.

    Args:
        functions: from `attention.head_functions`
        heads: from `circuits.head_table`: show only the heads that are important in some task and corruption, if any
            of them is scored
        at_most: how many heads to show, those without a function left out first; the title says how many there are

    Raises:
        VlmtraceError: a column is missing or there is no row.
    """
    check_table(functions, [*HEAD, "region", "n", "ratio", "contrast", "function"], "functions")
    which = "heads"
    if heads is not None:
        check_table(heads, [*HEAD, "is_important"], "heads")
        important = functions.merge(heads.loc[heads["is_important"], HEAD].drop_duplicates(), on=HEAD)
        if len(important):
            functions, which = important, "important heads"
    rows = functions[functions["region"] == "object"].sort_values("ratio", ascending=False, kind="stable")
    rows = rows.sort_values("function", key=lambda names: names.map(_FUNCTIONS.index), kind="stable")
    kinds = [(row.function, head_name(row.module, row.layer, row.head)) for row in rows.head(at_most).itertuples()]
    places = grouped_places(kinds)

    figure = new_figure(height=1.3 + 0.24 * max(places.values()))
    ratio, contrast = figure.subplots(1, 2, sharey=True)
    named = functions.assign(name=[head_name(*key) for key in functions[HEAD[1:]].itertuples(index=False, name=None)])
    for region, style in _REGIONS.items():
        part = named[named["region"] == region].set_index(["function", "name"]).reindex(list(places))
        _draw_scores(ratio, part, "ratio", list(places.values()), region, style)
        _draw_scores(contrast, part, "contrast", list(places.values()), region, style)
    _scale_ratio(ratio)
    contrast.axvline(0, color="0.4", linewidth=0.8)
    contrast.set_xlabel("share of attention, less the mean over all heads")
    label_groups(ratio, places, [name for _, name in places])
    legend_below(figure, ratio)
    shown = f"{len(kinds)} of {len(rows)}" if len(kinds) < len(rows) else str(len(rows))
    figure.suptitle(f"Where {shown} {which} look (n = {rows['n'].max()} pairs)")
    return figure


def _draw_scores(
    axes: Axes, rows: pd.DataFrame, score: str, places: list[float], region: str, style: tuple[Any, str, float]
) -> None:
    """Points with intervals, one a head; a head whose score is missing has none."""
    color, marker, offset = style
    least = _LEAST_RATIO if score == "ratio" else -1.0
    value, low, high = (rows[column].clip(lower=least) for column in (score, f"{score}_low", f"{score}_high"))
    axes.errorbar(
        value, [place + offset for place in places], xerr=[(value - low).fillna(0), (high - value).fillna(0)],
        fmt=marker, markersize=3.2, elinewidth=1, color=color, label=region,
    )  # fmt: skip


def _scale_ratio(axes: Axes) -> None:
    """A logarithmic axis around 1, with the factor that names a function."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(left=_LEAST_RATIO * 0.9, right=max(axes.get_xlim()[1], 4))
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=20))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axvline(1, color="0.4", linewidth=0.8)
    for factor, label in ((FACTOR, f"factor {FACTOR:g}, which names a function"), (1 / FACTOR, "")):
        axes.axvline(factor, color="0.4", linestyle=":", linewidth=0.8, label=label)
    axes.set_xlabel("density of attention (1 = evenly spread)")
