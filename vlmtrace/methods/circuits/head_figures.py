"""Which heads carry the answer: maps of the heads table."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_table, pick
from vlmtrace.display.panels import MARKS, effect_panel, head_name, head_panel, label_ticks, mark_cells, write_cells
from vlmtrace.display.style import effect_limit, new_figure, paper_style, readable, signed_colorbar

_HEADS = ["task", "corruption", "module", "layer", "head", "n", "mean_effect", "is_important"]
_IMPORTANT = "important (tested, false discovery rate controlled)"
_NOTICE = "rule of NOTICE (absolute effect above mean + 2 sd)"


@paper_style
def head_map(
    heads: pd.DataFrame,
    task: str | None = None,
    corruption: str | None = None,
    module: str | None = None,
    limit: float | None = None,
    annotate: bool | None = None,
) -> Figure:
    """Mean effect of patching one head, layer × head: one row a task and corruption, one column a module.

    A disk marks the heads found important by the test, a ring those that the rule of the NOTICE paper names.

    Args:
        heads: from `circuits.head_table`
        task, corruption, module: what to show; default: all
        limit: colors range over −limit … limit; default: the smallest round number that holds all means
        annotate: write each mean into its cell; default: where cells are large enough and all fit a page

    Raises:
        VlmtraceError: a column is missing or a choice is unknown.
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
    figure.legend(handles=_legend("is_important_2sd" in heads), loc="outside lower center", ncols=2)
    return figure


def _draw_heads(axes: Axes, rows: pd.DataFrame, limit: float, annotate: bool) -> None:
    head_panel(axes, _matrix(rows, "mean_effect"), limit, annotate)
    middle = (0.5, 0.83) if annotate else (0.5, 0.5)  # above the number, if there is one
    if "is_important_2sd" in rows:
        mark_cells(axes, _matrix(rows, "is_important_2sd"), "ring", middle)
    mark_cells(axes, _matrix(rows, "is_important"), "disk", middle)


def _matrix(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    return rows.pivot(index="layer", columns="head", values=column).sort_index().sort_index(axis=1)


def _legend(with_notice: bool) -> list[Line2D]:
    handles = [Line2D([], [], label=_IMPORTANT, **MARKS["disk"])]
    return [*handles, Line2D([], [], label=_NOTICE, **MARKS["ring"])] if with_notice else handles


def _over(heads: pd.DataFrame) -> str:
    """What a head's effect is: summed over positions within the pair, then averaged."""
    low, high = heads["n"].min(), heads["n"].max()
    return f"sum over positions, mean over n = {low if low == high else f'{low} to {high}'} pairs"


@paper_style
def universal_head_table(heads: pd.DataFrame, at_most: int = 24, limit: float | None = None) -> Figure:
    """The heads that are important anywhere, and their mean effect in every task and corruption.

    Heads stand in the order of the number of cells in which they are important, then of their mean absolute effect.
    Those important in every cell are universal: their names are bold, and a line parts them from the others.

    Args:
        heads: from `circuits.head_table`
        at_most: how many heads to show; the title says how many there are
        limit: colors range over −limit … limit; default: the smallest round number that holds all means

    Raises:
        VlmtraceError: a column is missing, or no head is important anywhere.
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

    figure = new_figure(height=1.7 + 0.24 * len(shown))
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
    axes.set_title("head: module layer.head, and in how many columns it is important", loc="left")
    for label in axes.get_yticklabels()[:universal]:
        label.set_fontweight("bold")
    if 0 < universal < len(n_cells):
        axes.axhline(universal, color="black", linewidth=1.5)
