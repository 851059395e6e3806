"""Which heads carry the answer, and do they do so together? Maps of the heads table, curves of faithfulness."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from vlmtrace.core.arguments import Count, Positive, Seed, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_table, pick
from vlmtrace.display.panels import MARKS, effect_panel, head_panel, label_ticks, mark_cells, write_cells
from vlmtrace.display.style import PALETTE, effect_limit, legend_below, new_figure, paper_style, signed_colorbar
from vlmtrace.display.wording import head_name, readable
from vlmtrace.methods.circuits.curves import LITTLE, SUFFICIENT, faithfulness_means

_HEADS = ["task", "corruption", "module", "layer", "head", "n", "mean_effect", "is_important"]
_IMPORTANT = "important (tested, corrected)"
_NOTICE = "rule of NOTICE (mean + 2 sd)"


@checked
@paper_style
def head_map(
    heads: pd.DataFrame,
    task: str | None = None,
    corruption: str | None = None,
    module: str | None = None,
    limit: Positive | None = None,
    annotate: bool | None = None,
) -> Figure:
    """Draw the mean effect of patching one head, layer × head: one row per task and corruption, one column per module.

    A disk marks the heads found important by the test, a ring those that the published rule of the NOTICE
    paper names (see `notice_rule`), where the table has it.

    Args:
        heads: from `head_table`
        task: None: all
        corruption: "image" or "text"; None: both
        module: e.g. "cross_attention"; None: all
        limit: colors range over −limit … limit; None: the smallest round number that holds all means
        annotate: write each mean into its cell; None: where cells are large enough and all fit a page

    Returns:
        the figure

    Raises:
        VlmtraceError: a column is missing or a choice is unknown
    """
    check_table(heads, _HEADS, "heads")
    chosen = {"task": task, "corruption": corruption, "module": module}
    heads = pick(heads, "heads", **{column: choice for column, choice in chosen.items() if choice is not None})
    cells = list(heads[["task", "corruption"]].drop_duplicates().itertuples(index=False, name=None))
    modules = list(heads["module"].unique())
    limit = limit or effect_limit(heads["mean_effect"])
    n_layers, n_heads = heads["layer"].max() + 1, heads["head"].max() + 1
    if annotate is None:
        annotate = n_heads * len(modules) <= 16 and n_layers * len(cells) <= 16

    height = 0.5 + n_layers * (0.33 if annotate else 0.13)
    figure = new_figure(height=1.0 + len(cells) * height)
    grid = figure.subplots(len(cells), len(modules), squeeze=False)
    for (cell, shown), axes in zip(itertools.product(cells, modules), grid.flat, strict=True):
        rows = heads[(heads["task"] == cell[0]) & (heads["corruption"] == cell[1]) & (heads["module"] == shown)]
        axes.set_visible(not rows.empty)
        if not rows.empty:
            _draw_heads(axes, rows, limit, annotate)
            axes.set_title(f"{readable(cell[0])}, {cell[1]} corruption: {readable(shown)}", loc="left")
    for axes in grid[:, 1:].flat:
        axes.set_ylabel("")
    for axes in grid[:-1].flat:
        axes.set_xlabel("")
    signed_colorbar(figure, grid.flat, limit, heads["mean_effect"], _over(heads))
    figure.legend(handles=_legend("is_important_notice" in heads), loc="outside lower center", ncols=2)
    return figure


def _draw_heads(axes: Axes, rows: pd.DataFrame, limit: float, annotate: bool) -> None:
    head_panel(axes, _matrix(rows, "mean_effect"), limit, annotate)
    middle = (0.5, 0.83) if annotate else (0.5, 0.5)  # above the number, if there is one
    # A layer may have fewer heads than others.
    if "is_important_notice" in rows:
        mark_cells(axes, _matrix(rows, "is_important_notice").eq(True), "ring", middle)
    mark_cells(axes, _matrix(rows, "is_important").eq(True), "disk", middle)


def _matrix(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    return rows.pivot(index="layer", columns="head", values=column).sort_index().sort_index(axis=1)


def _legend(with_notice: bool) -> list[Line2D]:
    handles = [Line2D([], [], label=_IMPORTANT, **MARKS["disk"])]
    return [*handles, Line2D([], [], label=_NOTICE, **MARKS["ring"])] if with_notice else handles


def _over(heads: pd.DataFrame) -> str:
    """What a head's effect is: summed over positions within the pair, then averaged."""
    counts = [
        _range(heads[column]) + f" {what}" for column, what in (("n", "pairs"), ("n_units", "units")) if column in heads
    ]
    return f"sum over positions, mean over n = {' in '.join(counts)}"


def _range(counts: pd.Series) -> str:
    low, high = counts.min(), counts.max()
    return f"{low}" if low == high else f"{low} to {high}"


@checked
@paper_style
def universal_head_table(heads: pd.DataFrame, at_most: Count = 24, limit: Positive | None = None) -> Figure:
    """Draw the heads that are important anywhere, and their mean effect in every task and corruption.

    Heads stand in the order of the number of cells in which they are important, then of their mean absolute effect.
    Those important in every cell are universal: their names are bold, and a line parts them from the others.

    Args:
        heads: from `head_table`
        at_most: how many heads to show; the title says how many there are
        limit: colors range over −limit … limit; None: the smallest round number that holds all means

    Returns:
        the figure, one row per head and one column per task and corruption

    Raises:
        VlmtraceError: a column is missing, or no head is important anywhere
    """
    check_table(heads, _HEADS, "heads")
    key = ["module", "layer", "head"]
    cells = heads[["task", "corruption"]].drop_duplicates()
    order = heads.assign(strength=heads["mean_effect"].abs()).groupby(key, sort=False)
    order = order.agg(n_cells=("is_important", "sum"), strength=("strength", "mean"))
    order = order[order["n_cells"] > 0].sort_values(["n_cells", "strength"], ascending=False, kind="stable")
    if order.empty:
        raise VlmtraceError("No head is important in any task and corruption: there is no table of universal heads.")
    shown = order.head(at_most)
    effects, important = (
        heads.pivot(index=key, columns=["task", "corruption"], values=column).reindex(
            index=shown.index, columns=pd.MultiIndex.from_frame(cells)
        )
        for column in ("mean_effect", "is_important")
    )
    limit = limit or effect_limit(effects.to_numpy().ravel())

    figure = new_figure(height=2.3 + 0.24 * len(shown))  # the bar and its words need room, however few rows there are
    axes = figure.subplots()
    effect_panel(axes, effects, [f"{readable(task)}\n{corruption}" for task, corruption in effects.columns], limit)
    axes.invert_yaxis()  # a table is read from the top
    if len(cells) <= 7:
        plt.setp(axes.get_xticklabels(), rotation=0, ha="center", va="top", rotation_mode="default")
    write_cells(axes, effects, limit, height=0.5)
    mark_cells(axes, important.eq(True), "disk", at=(0.2, 0.5))
    _name_rows(axes, shown["n_cells"], len(cells))
    figure.legend(handles=_legend(with_notice=False), loc="outside lower center")
    signed_colorbar(figure, [axes], limit, effects.to_numpy().ravel(), _over(heads))
    figure.suptitle(f"{len(shown)} of the {len(order)} heads that are important somewhere"
                    if len(shown) < len(order) else "Heads that are important somewhere")  # fmt: skip
    return figure


def _name_rows(axes: Axes, n_cells: pd.Series, total: int) -> None:
    """Names on the left, the number of cells on the right, universal heads in bold above a line."""
    universal = int((n_cells == total).sum())
    names = [head_name(*key) for key in n_cells.index]
    label_ticks(axes, "y", [f"{name}   {count}/{total}" for name, count in zip(names, n_cells, strict=True)])
    axes.set_ylabel("")
    axes.set_title("head (layer.head), and in how many columns it is important", loc="left")
    for label in axes.get_yticklabels()[:universal]:
        label.set_fontweight("bold")
    if 0 < universal < len(n_cells):
        axes.axhline(universal, color="black", linewidth=1.5)


#: Direction -> what the horizontal axis counts.
_DIRECTIONS = {
    "sufficiency": "k heads in the circuit, all others corrupt",
    "necessity": "k heads corrupt, all others in the circuit",
}


@checked
@paper_style
def faithfulness_curves(faithfulness: pd.DataFrame, run: str | None = None, seed: Seed = 0) -> Figure:
    """Draw how much of the answer the top k heads carry, beside random heads: one row per corruption (and task).

    Bold lines are faithfulness (a ratio of means) with 95 % intervals over units; random heads, of the same modules and
    layers, are averaged over draws within the pair first; thin gray lines are the single random draws. Dashed lines
    stand at .8, from which a circuit is called sufficient, and at .2, below which what is left makes it necessary. The
    axis of k is linear, so that the area that one sees is the area under the curve that the summary reports.

    Args:
        faithfulness: from `faithfulness_table`; a column task may have been added
        run: "frozen" or "computed"; None: the table's only one
        seed: of the bootstrap

    Returns:
        the figure, sufficiency on the left and necessity on the right

    Raises:
        VlmtraceError: a column is missing, there is no row, or several runs and none is chosen
    """
    columns = ["sample_id", "corruption", "run", "direction", "order", "draw", "k", "logit_diff"]
    table = check_table(faithfulness, columns, "faithfulness")
    table = pick(table, "faithfulness", run=run)
    curves = faithfulness_means(table, seed=seed)
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
        panels[0].set_ylabel("faithfulness\n(0 = no head, 1 = all)")
    for axes, direction in zip(grid[-1], directions, strict=True):
        axes.set_xlabel(_DIRECTIONS[direction])
    legend_below(figure, grid[0, 0])
    return figure


def _draw_curves(axes: Axes, rows: pd.DataFrame, curves: pd.DataFrame) -> None:
    """Ranked and random curves of one direction: `rows` of single pairs, `curves` of means."""
    for level in (0, 1):
        axes.axhline(level, color="0.6", linestyle=":", linewidth=0.8)
    first = curves.iloc[0]
    is_necessity = first["direction"] == "necessity"
    # Named in the legend: in the panel, words would lie on some curve.
    axes.axhline(
        LITTLE if is_necessity else SUFFICIENT, color=PALETTE[1], linestyle="--", linewidth=0.9,
        label="sufficient from .8, necessary up to .2",
    )  # fmt: skip
    draws = rows[rows["order"] == "random"]
    for index, (_, draw) in enumerate(draws.groupby("draw")):
        line = faithfulness_means(draw, n_boot=1)
        label = "single random draws" if index == 0 else ""
        axes.plot(
            line["k"], line["faithfulness"], color="0.75", linewidth=0.5, label=label, zorder=1,
            marker="_" if len(line) == 1 else "",
        )  # fmt: skip
    styles = {"ranked": ("heads by rank", PALETTE[0], "-"), "random": ("random heads, mean", "0.35", "--")}
    for order, (label, color, line) in styles.items():
        curve = curves[curves["order"] == order]
        if curve.empty:
            continue
        above = 3 if order == "ranked" else 2
        axes.fill_between(
            curve["k"], curve["ci_low"], curve["ci_high"], color=color, alpha=0.25, linewidth=0, zorder=above
        )
        axes.plot(
            curve["k"], curve["faithfulness"], color=color, linestyle=line, marker=".", markersize=4, label=label,
            zorder=above,
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # Two panels share the page's width: with the task's name there is no room for the word "corruption".
    corruption = first["corruption"]
    cell = f"{readable(first['task'])}, {corruption}" if "task" in curves else f"{corruption} corruption"
    axes.set_title(f"{cell} (n = {first['n']} pairs, {first['n_units']} units)", loc="left")
