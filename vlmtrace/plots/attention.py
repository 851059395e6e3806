"""Where heads look: attention over images."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from vlmtrace.errors import VlmtraceError
from vlmtrace.plots.averages import check_table
from vlmtrace.plots.panels import (
    Picture,
    attention_panel,
    image_panel,
    masks_of,
    masks_of_any,
    outline_legend,
    outline_masks,
)
from vlmtrace.plots.style import PAGE_HEIGHT, PAGE_WIDTH, new_figure, paper_style


@paper_style
def attention_overlay(
    image: Picture,
    weights: np.ndarray,
    object_mask: Picture | None = None,
    distractor_mask: Picture | None = None,
    title: str = "",
    limit: float | None = None,
) -> Figure:
    """The image, and beside it what one head attends to in it, both with the masks' outlines.

    Args:
        weights: (rows, columns), attention shares of the image patches, which span the whole image
        object_mask, distractor_mask: of the size of the image, white inside
        limit: colors range over 0 … limit; default: the largest weight

    Raises:
        VlmtraceError: the weights are no grid of shares, or a picture cannot be read.
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
    """Draw `attention_overlay` into a figure: the image, the attention over it, the bar, the outlines' legend."""
    weights = _checked(weights)
    plain, overlay = figure.subplots(1, 2)
    outline_masks(plain, masks, image_panel(plain, image))
    limit = limit or float(weights.max()) or 1.0
    shown = attention_panel(overlay, image, weights, limit, masks)
    overlay.set_title(f"{weights.sum():.0%} of the attention is on image patches", loc="left")
    _attention_bar(figure, [plain, overlay], shown, weights.size)
    outline_legend(figure, masks)


@paper_style
def attention_gallery(
    pairs: pd.DataFrame, weights: np.ndarray, heads: Sequence[str], queries: Sequence[str] | None = None
) -> Figure:
    """What several heads attend to in several images: one row a pair, one column a head, one range of colors for all.

    Args:
        pairs: clean_image, clean_prompt and, where there are any, masks; (pair)
        weights: (pair, head, rows, columns), attention shares of the image patches
        heads: (head) titles of the columns
        queries: (pair) the token that looks, if it is the same for all heads

    Raises:
        VlmtraceError: a column is missing, lengths do not agree, or a picture cannot be read.
    """
    check_table(pairs, ["clean_image", "clean_prompt"], "pairs")
    weights = np.asarray(weights, dtype=float)
    if weights.ndim != 4 or weights.shape[:2] != (len(pairs), len(heads)):
        raise VlmtraceError(
            f"weights has shape {weights.shape}, but there are {len(pairs)} pairs and {len(heads)} heads: pass an "
            "array of (pair, head, rows, columns)."
        )
    limit = float(weights.max()) or 1.0
    side = PAGE_WIDTH / (len(heads) + 1)
    figure = new_figure(height=min(0.9 + len(pairs) * (side + 0.35), PAGE_HEIGHT))
    grid = figure.subplots(len(pairs), len(heads) + 1, squeeze=False)
    for row, (axes, (_, pair)) in enumerate(zip(grid, pairs.iterrows(), strict=True)):
        masks = masks_of(pair)
        outline_masks(axes[0], masks, image_panel(axes[0], pair["clean_image"]))
        asked = pair["clean_prompt"] if queries is None else f"{pair['clean_prompt']} [{queries[row]}]"
        axes[0].set_xlabel(textwrap.fill(asked, int(side * 16)), fontsize=7)
        for panel, grid_of_shares in zip(axes[1:], weights[row], strict=True):
            shown = attention_panel(panel, pair["clean_image"], _checked(grid_of_shares), limit, masks)
            panel.set_xlabel(f"{grid_of_shares.sum():.0%} on the image", fontsize=7)
    for panel, head in zip(grid[0, 1:], heads, strict=True):
        panel.set_title(head)
    _attention_bar(figure, grid.flat, shown, weights[0, 0].size)
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


def _attention_bar(figure: Figure, axes: Iterable[Axes], shown: AxesImage, patches: int) -> None:
    """The bar says what evenly spread attention would give: the baseline of every claim that a head looks at it."""
    bar = figure.colorbar(shown, ax=list(axes), location="bottom", aspect=60, fraction=0.05, pad=0.03)
    bar.set_label(f"share of attention per image patch (black line: evenly spread, 1/{patches})")
    bar.ax.axvline(1 / patches, color="black", linewidth=1.2)
    bar.outline.set_linewidth(0.4)
