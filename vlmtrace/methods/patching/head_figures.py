"""Heads of every attention block, in both directions: maps and a comparison of whole_heads."""

from __future__ import annotations

from itertools import product

import pandas as pd
from matplotlib.figure import Figure

from vlmtrace.core.arguments import Positive, checked
from vlmtrace.core.schema import HEAD, check_table
from vlmtrace.display.panels import head_panel
from vlmtrace.display.style import (
    PALETTE,
    effect_limit,
    legend_below,
    new_figure,
    paper_style,
    signed_colorbar,
)
from vlmtrace.display.wording import readable
from vlmtrace.methods.patching.direction import DIRECTIONS
from vlmtrace.methods.patching.directions import compare_directions

_NEEDED = ["sample_id", "corruption", "direction", *HEAD, "patching_effect"]


@checked
@paper_style
def whole_head_map(whole_heads: pd.DataFrame, limit: Positive | None = None) -> Figure:
    """Draw the mean effect of every head of every attention block: one row per corruption and direction.

    Args:
        whole_heads: from `patch_whole_heads`
        limit: colors range over −limit … limit; None: the smallest round number that holds all means

    Returns:
        the figure

    Raises:
        VlmtraceError: a column is missing or there is no row
    """
    check_table(whole_heads, _NEEDED, "whole_heads")
    means = whole_heads.groupby(["corruption", "direction", *HEAD], sort=False)["patching_effect"].mean().reset_index()
    cells = [
        (corruption, direction)
        for corruption, direction in product(dict.fromkeys(means["corruption"]), DIRECTIONS)
        if ((means["corruption"] == corruption) & (means["direction"] == direction)).any()
    ]
    modules = list(means[["block", "module"]].drop_duplicates().itertuples(index=False, name=None))
    limit = limit or effect_limit(means["patching_effect"])
    n_layers = int(means["layer"].max()) + 1
    figure = new_figure(height=1.2 + len(cells) * (0.45 + 0.13 * min(n_layers, 16)))
    grid = figure.subplots(len(cells), len(modules), squeeze=False)
    for ((corruption, direction), (block, module)), axes in zip(product(cells, modules), grid.flat, strict=True):
        rows = means[
            (means["corruption"] == corruption)
            & (means["direction"] == direction)
            & (means["block"] == block)
            & (means["module"] == module)
        ]
        head_panel(axes, rows.pivot(index="layer", columns="head", values="patching_effect"), limit)
    for axes, (block, module) in zip(grid[0], modules, strict=True):
        axes.set_title(f"{readable(block)}\n{readable(module)}", loc="left")
    for axes in grid[:, 1:].flat:
        axes.set_ylabel("")
    for axes in grid[:-1].flat:
        axes.set_xlabel("")
    for axes, (corruption, direction) in zip(grid[:, 0], cells, strict=True):
        axes.set_ylabel(f"{corruption}\n{direction}\nlayer")
    n = whole_heads["sample_id"].nunique()
    label = "share of the gap that denoising restores (1 = clean) or noising takes (1 = corrupt)"
    over = f"all positions at once, mean over {n} pairs"
    signed_colorbar(figure, grid.flat, limit, means["patching_effect"], over, label)
    return figure


@checked
@paper_style
def denoising_against_noising(whole_heads: pd.DataFrame) -> Figure:
    """Draw each head's mean effect of noising against that of denoising, one panel per corruption.

    Args:
        whole_heads: from `patch_whole_heads`, in both directions

    Returns:
        the figure; on the dashed line both directions agree

    Raises:
        VlmtraceError: a column or a direction is missing, or no pair has a contrast
    """
    means = compare_directions(whole_heads)
    corruptions = list(dict.fromkeys(means["corruption"]))
    blocks = list(dict.fromkeys(whole_heads["block"]))
    figure = new_figure(height=3.4)
    panels = figure.subplots(1, len(corruptions), squeeze=False, sharex=True, sharey=True)[0]
    ends = [means[["denoising", "noising"]].min().min(), means[["denoising", "noising"]].max().max()]
    for axes, corruption in zip(panels, corruptions, strict=True):
        for block, color in zip(blocks, PALETTE, strict=False):
            mine = means[(means["corruption"] == corruption) & (means["block"] == block)]
            axes.scatter(mine["denoising"], mine["noising"], s=10, color=color, label=readable(block), linewidths=0)
        axes.plot(ends, ends, color="0.6", linewidth=0.6, linestyle="--", zorder=0)
        n = int(means.loc[means["corruption"] == corruption, "n"].max())
        axes.set_title(f"{corruption} corruption (n = {n} pairs)", loc="left")
        axes.set_xlabel("denoising: share restored by its clean output")
    panels[0].set_ylabel("noising: share lost with its corrupt output")
    legend_below(figure, panels[0])
    return figure
