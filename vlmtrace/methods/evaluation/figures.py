"""What the data are and what the model makes of them: pairs, accuracy, selection."""

from __future__ import annotations

import math
import textwrap

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmtrace.core.arguments import Count, checked
from vlmtrace.core.schema import check_table
from vlmtrace.display.aggregation import spread_over_kinds
from vlmtrace.display.literal import shortened
from vlmtrace.display.panels import (
    grouped_rows,
    image_panel,
    label_groups,
    masks_of,
    masks_of_any,
    outline_legend,
    outline_masks,
)
from vlmtrace.display.style import PALETTE, RUN_COLORS, legend_below, new_figure, paper_style
from vlmtrace.display.wording import order_label, readable
from vlmtrace.inputs.pictures import picture_height, picture_of

#: What each measure of the accuracy table counts, as a panel's title says it.
_MEASURE_TITLES = {
    "clean": "clean:\nright answer",
    "image_flipped": "corrupt image:\nthe other option",
    "text_changed": "corrupt text:\nright answer given up",
    "both_sides": "both images:\nright answer",
}
#: An answer drawn between the two options is right this often.
_CHANCE = {"clean": 0.5, "image_flipped": 0.5, "both_sides": 0.25}


@checked
@paper_style
def pair_gallery(pairs: pd.DataFrame, n: Count = 6) -> Figure:
    """Draw minimal pairs as the model meets them: clean and corrupt image, both prompts, both answers.

    Args:
        pairs: a pairs table; outlines are drawn where it has masks
        n: how many pairs, of as many kinds (task, category, order of options) as there are

    Returns:
        the figure, two pairs per row

    Raises:
        VlmtraceError: a column is missing, an image cannot be read, or a mask is not of its image's size
    """
    columns = ["category", "clean_image", "corrupt_image", "clean_prompt", "corrupt_prompt"]
    shown = spread_over_kinds(check_table(pairs, [*columns, "correct_answer", "incorrect_answer"], "pairs"), n)
    rows = -(-len(shown) // 2)
    figure = new_figure(height=0.3 + rows * (0.9 + 1.4 * picture_height(shown)))
    outer = figure.subfigures(rows, 2, squeeze=False, wspace=0.03)
    for panel, (_, pair) in zip(outer.flat, shown.iterrows(), strict=False):
        axes = panel.subplots(1, 2)
        _draw_pair(axes[0], axes[1], pair)
        panel.suptitle(_pair_text(pair), x=0.02, ha="left", fontsize=8, fontweight="normal")
    outline_legend(figure, masks_of_any(shown))
    return figure


def _draw_pair(clean: Axes, corrupt: Axes, pair: pd.Series) -> None:
    size = image_panel(clean, picture_of(pair))
    outline_masks(clean, masks_of(pair), size)
    image_panel(corrupt, picture_of(pair, "corrupt_image"))
    for axes, label in ((clean, f"clean: {pair['correct_answer']}"), (corrupt, f"corrupt: {pair['incorrect_answer']}")):
        axes.set_xlabel(shortened(label, 26, 2), fontweight="bold")


def _pair_text(pair: pd.Series) -> str:
    """Category and both prompts, or the one of a pair of images alone; the width suits half a page."""
    lines = [f"{readable(pair['category'])}: {pair['clean_prompt']}"]
    if pair["corrupt_prompt"] != pair["clean_prompt"]:
        lines.append(f"text corruption: {pair['corrupt_prompt']}")
    return "\n".join(shortened(textwrap.fill(line, 60, subsequent_indent="   "), 60, 3) for line in lines)


@checked
@paper_style
def accuracy_by_category(accuracy: pd.DataFrame) -> Figure:
    """Draw how often the model does what a minimal pair asks of it, with 95 % intervals: one panel per measure.

    Args:
        accuracy: from `accuracy_table`, by task and category; with a column correct_first, the two orders are drawn
            apart

    Returns:
        the figure, one row per category; a dotted line marks what drawing an option at random would give

    Raises:
        VlmtraceError: a column is missing or there is no row
    """
    check_table(accuracy, ["task", "category", "measure", "accuracy", "n", "ci_low", "ci_high"], "accuracy")
    measures = [measure for measure in _MEASURE_TITLES if (accuracy["measure"] == measure).any()]
    rows = accuracy[["task", "category"]].drop_duplicates()
    heights = grouped_rows(list(rows.itertuples(index=False, name=None)))
    figure = new_figure(height=1.1 + 0.24 * max(heights.values()))
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        _draw_accuracy(axes, accuracy[accuracy["measure"] == measure], heights)
        axes.set(title=_MEASURE_TITLES[measure], xlabel="share of pairs", xlim=(-0.03, 1.03), xticks=[0, 0.5, 1])
        axes.set_xticks([0.25, 0.75], minor=True)
        axes.grid(axis="x", which="both", color="0.9", linewidth=0.5, zorder=0)
        if measure in _CHANCE:
            axes.axvline(_CHANCE[measure], color="0.4", linestyle=":", linewidth=1, label="chance")
    label_groups(panels[0], heights, [_count_label(accuracy, *kind) for kind in heights])
    legend_below(figure, panels[0])
    return figure


def _count_label(accuracy: pd.DataFrame, task: str, category: str) -> str:
    """E.g. "color (n = 20 + 20)": pairs with the correct option first and those with it second."""
    rows = accuracy[(accuracy["task"] == task) & (accuracy["category"] == category)]
    rows = rows[rows["measure"] == rows["measure"].iloc[0]]
    if "correct_first" in rows:
        rows = rows.sort_values("correct_first", ascending=False)
    return f"{readable(category)} (n = {' + '.join(map(str, rows['n']))})"


def _draw_accuracy(axes: Axes, rows: pd.DataFrame, heights: dict[tuple[str, str], float]) -> None:
    """Points with intervals; the order of the options moves a point up or down a little and fills it."""
    orders = [True, False] if "correct_first" in rows else [None]
    for index, order in enumerate(orders):
        part = rows if order is None else rows[rows["correct_first"] == order]
        y = [heights[kind] for kind in zip(part["task"], part["category"], strict=True)]
        offset = 0.0 if order is None else 0.32 * index - 0.16
        axes.errorbar(
            part["accuracy"], [height + offset for height in y],
            xerr=[part["accuracy"] - part["ci_low"], part["ci_high"] - part["accuracy"]],
            fmt="o" if index == 0 else "D", markersize=3.5, elinewidth=1, color=PALETTE[index],
            label="all pairs" if order is None else order_label(order),
        )  # fmt: skip


_STAGES = {"available": "in the task", "eligible": "answered as required", "got": "selected"}


@checked
@paper_style
def selection_counts(selection: pd.DataFrame) -> Figure:
    """Draw how many pairs there were, could be used, were wanted and were selected, by category and option order.

    Args:
        selection: from `selection_table`; with a column task, categories are named with their task

    Returns:
        the figure, one panel per order of the options and one row per category

    Raises:
        VlmtraceError: a column is missing or there is no row
    """
    check_table(selection, ["category", "correct_first", *_STAGES, "wanted"], "selection")
    kinds = selection["category"].map(readable)
    if "task" in selection and selection["task"].nunique() > 1:
        kinds = selection["task"].map(readable) + ": " + kinds
    table = selection.assign(kind=kinds, order=selection["correct_first"].map(order_label))
    orders = [order_label(first) for first in (True, False)]
    figure = new_figure(height=1.0 + 0.26 * table["kind"].nunique())
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    shades = sns.light_palette(PALETTE[0], 4)[1:]
    for axes, order in zip(panels, orders, strict=True):
        part = table[table["order"] == order].sort_values("kind", kind="stable")
        for (stage, label), shade, width in zip(_STAGES.items(), shades, (0.8, 0.6, 0.4), strict=True):
            sns.barplot(part, x=stage, y="kind", order=sorted(table["kind"].unique()), ax=axes, color=shade,
                        saturation=1, width=width, label=label, legend=False, linewidth=0)  # fmt: skip
        axes.bar_label(axes.containers[-1], label_type="center", color="white", fontsize=7)
        _mark_wanted(axes, part, sorted(table["kind"].unique()))
        axes.set(title=order, xlabel="pairs", ylabel="")
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    legend_below(figure, panels[0])
    return figure


def _mark_wanted(axes: Axes, rows: pd.DataFrame, kinds: list[str]) -> None:
    """A line across the bar where the wanted number is; nothing where none was asked for."""
    wanted = rows.dropna(subset=["wanted"])
    axes.plot(
        wanted["wanted"], [kinds.index(kind) for kind in wanted["kind"]], linestyle="none", marker="|",
        markersize=13, markeredgewidth=1.8, color=PALETTE[3], label="wanted",
    )  # fmt: skip


#: What the two runs of a corruption are compared by: columns of the evaluated table, the clean run's first.
_LOGIT_DIFFERENCES = {
    "image": ("clean_logit_diff", "image_logit_diff"),
    "text": ("clean_text_logit_diff", "text_logit_diff"),
}


@checked
@paper_style
def logit_differences(evaluated: pd.DataFrame) -> Figure:
    """Draw how the logit difference between the correct and the other answer is spread, clean against corrupt runs.

    Bins begin and end at 0, so that each holds pairs that prefer one answer only; how many lie on the wrong side is
    written into the panel.

    Args:
        evaluated: from `evaluate`

    Returns:
        the figure, one panel per corruption that any pair has

    Raises:
        VlmtraceError: a column is missing or there is no row
    """
    # Of a corruption that was not asked for, `evaluate` makes no column.
    asked = {name: columns for name, columns in _LOGIT_DIFFERENCES.items() if columns[1] in evaluated}
    asked = asked or {"image": _LOGIT_DIFFERENCES["image"]}
    check_table(evaluated, [column for columns in asked.values() for column in columns], "evaluated")
    shown = {name: columns for name, columns in asked.items() if evaluated[columns[1]].notna().any()}
    found = evaluated[[column for columns in shown.values() for column in columns]].to_numpy(dtype=float)
    edges = _edges_around_zero(found[np.isfinite(found)])
    figure = new_figure(height=2.5)
    panels = figure.subplots(1, max(len(shown), 1), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (corruption, columns) in zip(panels, shown.items(), strict=False):
        wrong = []
        for run, column, is_right in zip(("clean", "corrupt"), columns, (np.greater, np.less), strict=True):
            values = evaluated[column].dropna()
            axes.hist(
                values, edges, color=RUN_COLORS[run], alpha=0.75, label=f"{run} run", edgecolor="white", linewidth=0.5
            )
            wrong.append(f"{run} {(~is_right(values, 0)).sum()}")
        axes.axvline(0, color="0.2", linewidth=0.8)
        said = f"of {len(values)} pairs on the wrong side of 0: {', '.join(wrong)}"
        axes.set_title(f"{readable(corruption)} corruption\n{said}", loc="left")
        axes.set_xlabel("logit difference (above 0: the correct answer)")
        sns.despine(ax=axes)
    panels[0].set_ylabel("pairs")
    legend_below(figure, panels[0])
    return figure


def _edges_around_zero(values: np.ndarray, at_most: int = 24) -> np.ndarray:
    """Edges of bins of one round width, one of which is 0."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (-1.0, 1.0)
    span = max(high, 0.0) - min(low, 0.0) or 1.0
    ladder = (mantissa * 10.0**power for power in range(-6, 12) for mantissa in (1, 2, 5))
    width = next(width for width in ladder if span / width <= at_most)
    first, last = math.floor(min(low, 0.0) / width), math.ceil(max(high, 0.0) / width)
    return np.arange(first, max(last, first + 1) + 1) * width
