"""Where heads look: attention over images."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import LogLocator

from vlmtrace.core.arguments import Count, NonEmpty, Positive, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import HEAD, check_table
from vlmtrace.display.panels import (
    Picture,
    attention_panel,
    grouped_rows,
    image_panel,
    label_groups,
    masks_of,
    masks_of_any,
    outline_legend,
    outline_masks,
)
from vlmtrace.display.style import PAGE_HEIGHT, PAGE_WIDTH, PALETTE, legend_below, new_figure, paper_style
from vlmtrace.display.wording import head_name
from vlmtrace.inputs.pictures import picture_height, picture_of
from vlmtrace.methods.attention.attention_weights import DENSITY_FACTOR

#: The share of image patches whose attention a gallery's range of colors holds.
_SHOWN = 0.99
#: The range holds at least this many times what evenly spread attention would give.
_LEAST_EVEN = 4.0


@checked
@paper_style
def attention_overlay(
    image: Picture,
    weights: np.ndarray,
    object_mask: Picture | None = None,
    distractor_mask: Picture | None = None,
    title: str = "",
    limit: Positive | None = None,
) -> Figure:
    """Draw an image, and beside it what one head attends to in it, both with the masks' outlines.

    Args:
        image: a path or an image
        weights: (row, column), shares of attention (0 to 1) of the image patches, which span the whole image
        object_mask: of the size of the image, white where the object asked about is
        distractor_mask: of the size of the image, white where the distractor is
        title: of the figure
        limit: colors range over 0 … limit; None: the largest weight

    Returns:
        the figure

    Raises:
        VlmtraceError: the weights are no grid of shares, or a picture cannot be read
    """
    figure = new_figure(height=3.5, width=6)
    named = {"clean_object_mask": object_mask, "clean_distractor_mask": distractor_mask}
    masks = {column: mask for column, mask in named.items() if mask is not None}
    draw_attention(figure, image, weights, masks, limit)
    figure.suptitle(title)
    return figure


def draw_attention(
    figure: Figure, image: Picture, weights: np.ndarray, masks: dict[str, Picture], limit: float | None = None
) -> None:
    """Draw `attention_overlay` into a figure: the image, the attention over it, the bar, the outlines' legend.

    Args:
        figure: where to draw
        image: a path or an image
        weights: (row, column), shares of attention (0 to 1) of the image patches
        masks: by their column in the pairs table
        limit: colors range over 0 … limit; None: the largest weight

    Raises:
        VlmtraceError: the weights are no grid of shares, or a picture cannot be read
    """
    weights = _checked(weights)
    plain, overlay = figure.subplots(1, 2)
    outline_masks(plain, masks, image_panel(plain, image))
    limit = limit or float(weights.max()) or 1.0
    shown = attention_panel(overlay, image, weights, limit, masks)
    overlay.set_title(f"{weights.sum():.0%} of the attention is on image patches", loc="left")
    _attention_bar(figure, [plain, overlay], shown, weights.size)
    outline_legend(figure, masks)


@checked
@paper_style
def attention_gallery(
    pairs: pd.DataFrame, weights: np.ndarray, heads: NonEmpty[str], queries: NonEmpty[str] | None = None
) -> Figure:
    """Draw what several heads attend to in several images, with one range of colors for all.

    The range ends where 99 of 100 image patches lie below: were it that of the one patch with the largest share, most
    panels would look empty. What lies above has the color of the end, and the bar shows an arrow.

    Args:
        pairs: a pairs table; outlines are drawn where it has masks
        weights: (pair, head, row, column), shares of attention (0 to 1) of the image patches
        heads: titles of the columns, one per head
        queries: the token that looks, one per pair, if it is the same for all heads

    Returns:
        the figure, one row per pair and one column per head

    Raises:
        VlmtraceError: a column is missing, lengths do not agree, or a picture cannot be read
    """
    check_table(pairs, ["clean_image", "clean_prompt"], "pairs")
    weights = np.asarray(weights, dtype=float)
    if weights.ndim != 4 or weights.shape[:2] != (len(pairs), len(heads)):
        raise VlmtraceError(
            f"weights has shape {weights.shape}, but there are {len(pairs)} pairs and {len(heads)} heads: pass an "
            "array of (pair, head, rows, columns)."
        )
    most = float(weights.max()) or 1.0
    limit = min(most, max(float(np.quantile(weights, _SHOWN)), _LEAST_EVEN / weights[0, 0].size))
    side = PAGE_WIDTH / (len(heads) + 1)
    figure = new_figure(height=min(0.9 + len(pairs) * (side * picture_height(pairs) + 0.35), PAGE_HEIGHT))
    grid = figure.subplots(len(pairs), len(heads) + 1, squeeze=False)
    for row, (axes, (_, pair)) in enumerate(zip(grid, pairs.iterrows(), strict=True)):
        masks = masks_of(pair)
        picture = picture_of(pair)
        outline_masks(axes[0], masks, image_panel(axes[0], picture))
        asked = pair["clean_prompt"] if queries is None else f"{pair['clean_prompt']} [{queries[row]}]"
        axes[0].set_xlabel(textwrap.fill(asked, int(side * 16)), fontsize=7)
        for panel, grid_of_shares in zip(axes[1:], weights[row], strict=True):
            shown = attention_panel(panel, picture, _checked(grid_of_shares), limit, masks)
            panel.set_xlabel(f"{grid_of_shares.sum():.0%} on the image", fontsize=7)
    for panel, head in zip(grid[0, 1:], heads, strict=True):
        panel.set_title(head)
    _attention_bar(figure, grid.flat, shown, weights[0, 0].size, is_beyond=most > limit)
    outline_legend(figure, masks_of_any(pairs), loc="outside upper center")
    return figure


def _checked(weights: np.ndarray) -> np.ndarray:
    """A grid of attention shares, or a sentence that says what is wrong with it."""
    weights = np.asarray(weights, dtype=float)
    if weights.ndim != 2 or not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() > 1 + 1e-3:
        raise VlmtraceError(
            f"Attention over an image is a grid (rows, columns) of shares that sum to at most 1, not an array of shape "
            f"{weights.shape} with sum {weights.sum():.3g}: pass one head's weights on the image patches."
        )
    return weights


def _attention_bar(
    figure: Figure, axes: Iterable[Axes], shown: AxesImage, patches: int, is_beyond: bool = False
) -> None:
    """The bar says what evenly spread attention would give: the baseline of every claim that a head looks at it."""
    extend = "max" if is_beyond else "neither"
    bar = figure.colorbar(shown, ax=list(axes), location="bottom", aspect=60, fraction=0.05, pad=0.03, extend=extend)
    bar.set_label(f"share of attention per image patch (black line: evenly spread, 1/{patches})")
    bar.ax.axvline(1 / patches, color="black", linewidth=1.2)
    bar.outline.set_linewidth(0.4)


#: Region of the image -> color, marker and vertical offset in a row.
_REGION_STYLES = {
    "object": (PALETTE[0], "o", -0.22),
    "distractor": (PALETTE[1], "D", 0.0),
    "outlier": (PALETTE[7], "^", 0.22),
}
_FUNCTION_ORDER = ("object detection", "object suppression", "outlier suppression", "none")
#: Ratios are drawn on a logarithmic axis; below this they stand at its left end.
_LEAST_RATIO = 1 / 8


@checked
@paper_style
def function_scores(functions: pd.DataFrame, heads: pd.DataFrame | None = None, at_most: Count = 24) -> Figure:
    """Draw how densely each head's attention lies on a region, and how much more it puts there than other heads.

    Left: attention on the region over what evenly spread attention would put there (1 = evenly; dotted: the factor that
    names a function). Right: the share of attention on the region less the mean share over all heads. Bars are 95 %
    intervals over units of pairs (`core.stats`).

    Args:
        functions: from `head_functions`
        heads: from `head_table`: show only the heads that are important in some task and corruption, if any of them is
            scored; None: all
        at_most: how many heads to show, those without a function left out first; the title says how many there are

    Returns:
        the figure, one row per head, grouped by function

    Raises:
        VlmtraceError: a column is missing or there is no row
    """
    check_table(functions, [*HEAD, "region", "n", "ratio", "contrast", "function"], "head_functions")
    shown_heads = "heads"
    if heads is not None:
        check_table(heads, [*HEAD, "is_important"], "heads")
        important = functions.merge(heads.loc[heads["is_important"], HEAD].drop_duplicates(), on=HEAD)
        if len(important):
            functions, shown_heads = important, "important heads"
    rows = functions[functions["region"] == "object"].sort_values("ratio", ascending=False, kind="stable")
    rows = rows.sort_values("function", key=lambda names: names.map(_FUNCTION_ORDER.index), kind="stable")
    kinds = [(row.function, head_name(row.module, row.layer, row.head)) for row in rows.head(at_most).itertuples()]
    heights = grouped_rows(kinds)

    figure = new_figure(height=1.3 + 0.24 * max(heights.values()))
    ratio, contrast = figure.subplots(1, 2, sharey=True)
    named = functions.assign(name=[head_name(*key) for key in functions[HEAD[1:]].itertuples(index=False, name=None)])
    for region, style in _REGION_STYLES.items():
        scores = named[named["region"] == region].set_index(["function", "name"]).reindex(list(heights))
        _draw_scores(ratio, scores, "ratio", list(heights.values()), region, style)
        _draw_scores(contrast, scores, "contrast", list(heights.values()), region, style)
    _scale_ratio(ratio)
    contrast.axvline(0, color="0.4", linewidth=0.8)
    contrast.set_xlabel("share of attention, less the mean over all heads")
    label_groups(ratio, heights, [name for _, name in heights])
    legend_below(figure, ratio)
    shown = f"{len(kinds)} of {len(rows)}" if len(kinds) < len(rows) else str(len(rows))
    figure.suptitle(f"Where {shown} {shown_heads} look (n = {rows['n'].max()} pairs)")
    return figure


def _draw_scores(
    axes: Axes, rows: pd.DataFrame, score: str, heights: list[float], region: str, style: tuple[Any, str, float]
) -> None:
    """Points with intervals, one per head; a head whose score is missing has none."""
    color, marker, offset = style
    least = _LEAST_RATIO if score == "ratio" else -1.0
    value, low, high = (rows[column].clip(lower=least) for column in (score, f"{score}_low", f"{score}_high"))
    axes.errorbar(
        value, [height + offset for height in heights], xerr=[(value - low).fillna(0), (high - value).fillna(0)],
        fmt=marker, markersize=3.2, elinewidth=1, color=color, label=region,
    )  # fmt: skip


def _scale_ratio(axes: Axes) -> None:
    """A logarithmic axis around 1, with the factor that names a function."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(left=_LEAST_RATIO * 0.9, right=max(axes.get_xlim()[1], 4))
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=20))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axvline(1, color="0.4", linewidth=0.8)
    for factor, label in (
        (DENSITY_FACTOR, f"factor {DENSITY_FACTOR:g}, which names a function"),
        (1 / DENSITY_FACTOR, ""),
    ):
        axes.axvline(factor, color="0.4", linestyle=":", linewidth=0.8, label=label)
    axes.set_xlabel("density of attention (1 = evenly spread)")
