"""Panels: what one pair of axes shows. Figures and explorers are put together from these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import FigureBase
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from vlmtrace.core.images import Picture, open_image, open_mask
from vlmtrace.core.schema import UNIT
from vlmtrace.core.stats import mean_interval
from vlmtrace.display.literal import ROOM, shortened
from vlmtrace.display.style import ATTENTION, MISSING, SIGNED, signed_norm, thin_ticks
from vlmtrace.display.wording import readable
from vlmtrace.inputs.pictures import masks_side_by_side, n_images

Corner = Literal["outside lower center", "outside upper center", "outside upper right"]

#: How the outline of a mask is drawn, by the mask's column in the pairs table.
OUTLINES: dict[str, tuple[str, Any]] = {
    "clean_object_mask": ("object asked about", "-"),
    "clean_distractor_mask": ("distractor", (0, (2, 1.2))),
}
_OUTLINE_COLOR = "#00e5ff"
_OUTLINE_EFFECTS = [patheffects.withStroke(linewidth=2.0, foreground="black"), patheffects.Normal()]

_MARK: dict[str, Any] = {"linestyle": "none", "marker": "o", "markeredgecolor": "white"}
#: How heads are marked, as properties of a line: black with a white rim, readable on every color of the map.
MARKS: dict[str, dict[str, Any]] = {
    "disk": _MARK | {"markersize": 4.2, "markerfacecolor": "black", "markeredgewidth": 0.7},
    "ring": _MARK | {
        "markersize": 6.8, "markerfacecolor": "none", "markeredgecolor": "black", "markeredgewidth": 0.9,
        "path_effects": [patheffects.withStroke(linewidth=2.0, foreground="white")],
    },
}  # fmt: skip


def effect_panel(axes: Axes, matrix: pd.DataFrame, labels: Sequence[str], limit: float) -> None:
    """Draw a heat map of signed effects, layers upwards as information flows, what was patched from left to right.

    Args:
        axes: where to draw
        matrix: layer × token role, position or head; a missing value is gray
        labels: of the columns
        limit: colors range over −limit … limit
    """
    norm = signed_norm(limit)
    sns.heatmap(
        matrix, ax=axes, cmap=SIGNED, vmin=norm.vmin, vmax=norm.vmax, cbar=False,
        linewidths=0.4 if matrix.size < 300 else 0, linecolor="white", xticklabels=False, yticklabels=False,
    )  # fmt: skip
    axes.set_facecolor(MISSING)
    axes.invert_yaxis()
    label_ticks(axes, "y", [str(layer) for layer in matrix.index], thin=True)
    axes.set(xlabel="", ylabel="layer")
    label_ticks(axes, "x", labels)
    for side in ("left", "bottom", "right", "top"):
        axes.spines[side].set_visible(True)


def label_ticks(axes: Axes, axis: str, labels: Sequence[str], thin: bool = False) -> None:
    """Label the cells of a heat map at their centers.

    Args:
        axes: of the heat map
        axis: "x" or "y"
        labels: one per cell
        thin: leave labels out where there are many; right for numbers in a row, wrong for words
    """
    shown = thin_ticks(len(labels)) if thin else range(len(labels))
    ticks = [index + 0.5 for index in shown]
    texts = [labels[index] for index in shown]
    if axis == "y":
        axes.set_yticks(ticks, texts, rotation=0)
    elif thin:
        axes.set_xticks(ticks, texts, rotation=0)
    else:
        axes.set_xticks(ticks, texts, rotation=45, ha="right", rotation_mode="anchor")


def emphasize_options(axes: Axes, roles: Sequence[str]) -> None:
    """Set the two options in bold among the labels of the columns: there the answer is decided.

    Args:
        axes: a heat map whose columns are labeled
        roles: token role of each column; what follows a blank ("correct (2×)") does not matter
    """
    for label, role in zip(axes.get_xticklabels(), roles, strict=True):
        label.set_fontweight("bold" if role.split(" ")[0] in ("correct", "incorrect") else "normal")


def head_panel(axes: Axes, matrix: pd.DataFrame, limit: float, annotate: bool = False) -> None:
    """Draw the signed effects of one module's heads, layer × head.

    Args:
        axes: where to draw
        matrix: layer × head; a missing value is gray
        limit: colors range over −limit … limit
        annotate: write the number into each cell
    """
    heads = [str(head) for head in matrix.columns]
    effect_panel(axes, matrix, heads, limit)
    label_ticks(axes, "x", heads, thin=True)
    axes.set_xlabel("head")
    if annotate:
        write_cells(axes, matrix, limit, height=0.4)


def write_cells(axes: Axes, matrix: pd.DataFrame, limit: float, height: float = 0.46) -> None:
    """Write each cell's number into a heat map, in white where the color below it is dark.

    Args:
        axes: of the heat map
        matrix: what it shows
        limit: colors range over −limit … limit
        height: of the text in its cell, 0 to 1
    """
    for (row, column), value in np.ndenumerate(matrix.to_numpy(dtype=float)):
        if np.isfinite(value):
            ink = "white" if abs(value) > 0.6 * limit else "black"
            # U+2212 is the minus that has the width of the plus; −0.00 would look like a finding.
            text = f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")
            axes.text(column + 0.5, row + height, text, ha="center", va="center_baseline", fontsize=7, color=ink)


def mark_cells(axes: Axes, marked: pd.DataFrame, mark: str, at: tuple[float, float] = (0.5, 0.5)) -> None:
    """Put a mark into the cells where `marked` is true.

    Args:
        axes: of the heat map
        marked: bool, of the shape of the heat map
        mark: "disk" or "ring"; a ring fits around a disk
        at: where in the cell, as fractions of its width and height
    """
    rows, columns = np.nonzero(marked.to_numpy(dtype=bool))
    axes.plot(columns + at[0], rows + at[1], **MARKS[mark])


def grouped_rows(kinds: Sequence[tuple[str, str]]) -> dict[tuple[str, str], float]:
    """Heights for rows of (group, name), groups together, with room above each group for its name.

    Args:
        kinds: (group, name) of each row, in any order

    Returns:
        by (group, name), the height of its row, from the top: 0.9 and more, 1 apart within a group
    """
    groups = list(dict.fromkeys(group for group, _ in kinds))
    rows = sorted(kinds, key=lambda kind: groups.index(kind[0]))
    return {kind: row + 0.9 * (groups.index(kind[0]) + 1) for row, kind in enumerate(rows)}


def label_groups(axes: Axes, heights: dict[tuple[str, str], float], labels: Sequence[str]) -> None:
    """Label the rows of `grouped_rows`, the first on top, and set each group's name in bold above its rows.

    Args:
        axes: of the rows
        heights: from `grouped_rows`
        labels: of the rows, in the order of `heights`
    """
    axes.set_yticks(list(heights.values()), labels)
    axes.set_ylim(max(heights.values()) + 0.6, -0.3)
    for group in dict.fromkeys(group for group, _ in heights):
        top = min(height for (found, _), height in heights.items() if found == group)
        axes.text(
            -0.04, top - 0.85, shortened(readable(group), ROOM.short[0], 1), fontweight="bold", ha="right", fontsize=7,
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip


def image_panel(axes: Axes, picture: Picture, gray: bool = False) -> tuple[int, int]:
    """Show an image without axes.

    Args:
        axes: where to draw
        picture: a path or an image
        gray: only its light and dark, paled, as the ground for an overlay in color

    Returns:
        the image's width and height in pixels

    Raises:
        VlmtraceError: the image cannot be read
    """
    image = open_image(picture)
    if gray:
        image = Image.blend(image.convert("L"), Image.new("L", image.size, 255), 0.35)
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=_extent(image.size))
    _frame(axes)
    return image.size


def outline_masks(axes: Axes, masks: dict[str, Picture], size: tuple[int, int]) -> None:
    """Draw the outline of each mask over an image of `size` = (width, height).

    Args:
        axes: that show the image
        masks: by their column in the pairs table (see `OUTLINES`)
        size: of the image in pixels

    Raises:
        VlmtraceError: a mask cannot be read, or is not of its image's size
    """
    for column, picture in masks.items():
        mask = open_mask(picture, size)
        # A rim of empty pixels closes the outline of an object that touches the border.
        inside = np.pad(np.asarray(mask) > 127, 1)
        if inside.any():
            x, y = np.arange(-1, size[0] + 1) + 0.5, np.arange(-1, size[1] + 1) + 0.5
            contour = axes.contour(
                x, y, inside, [0.5], colors=_OUTLINE_COLOR, linewidths=1.0, linestyles=[OUTLINES[column][1]]
            )
            contour.set_path_effects(_OUTLINE_EFFECTS)
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))


def masks_of(pair: pd.Series) -> dict[str, Picture]:
    """The masks that a row of the pairs table names.

    Args:
        pair: a row of a pairs table

    Returns:
        by column, the path; of several images, the mask of the picture that shows them side by side
    """
    if n_images(pair) == 1:
        return {column: pair[column] for column in OUTLINES if isinstance(pair.get(column), str)}
    masks = {column: masks_side_by_side(pair, column) for column in OUTLINES}
    return {column: mask for column, mask in masks.items() if mask is not None}


def outline_legend(figure: FigureBase, columns: Iterable[str], loc: Corner = "outside lower center") -> None:
    """Say what the outlines of masks are, if there are any.

    Args:
        figure: where to draw
        columns: of the masks that are outlined
        loc: of the legend, outside the panels
    """
    found = set(columns)
    handles = [
        Line2D([], [], color=_OUTLINE_COLOR, linestyle=line, label=label, linewidth=1, path_effects=_OUTLINE_EFFECTS)
        for column, (label, line) in OUTLINES.items()
        if column in found
    ]
    if handles:
        figure.legend(handles=handles, loc=loc, ncols=len(handles))


def masks_of_any(pairs: pd.DataFrame) -> set[str]:
    """The mask columns that at least one pair fills.

    Args:
        pairs: a pairs table

    Returns:
        the columns' names
    """
    return {column for _, pair in pairs.iterrows() for column in masks_of(pair)}


def attention_panel(
    axes: Axes, picture: Picture, weights: np.ndarray, limit: float, masks: dict[str, Picture] | None = None
) -> AxesImage:
    """Draw attention to image patches over the image in gray, with the masks' outlines.

    Args:
        axes: where to draw
        picture: a path or an image
        weights: (row, column) of the patch grid, which spans the whole image
        limit: colors range over 0 … limit
        masks: by their column in the pairs table

    Returns:
        what a color bar is made from
    """
    size = image_panel(axes, picture, gray=True)
    shown = axes.imshow(
        weights, cmap=ATTENTION, norm=Normalize(0, limit), extent=_extent(size), interpolation="nearest", zorder=1
    )
    outline_masks(axes, masks or {}, size)
    return shown


def patch_effect_panel(
    axes: Axes, effects: np.ndarray, limit: float, size: tuple[int, int], masks: dict[str, Picture]
) -> None:
    """Draw signed effects of image patches where they lie in the image, with the masks' outlines.

    Args:
        axes: where to draw
        effects: (row, column) of the patch grid, which spans the whole image
        limit: colors range over −limit … limit
        size: width and height of the image in pixels
        masks: by their column in the pairs table
    """
    axes.imshow(effects, cmap=SIGNED, norm=signed_norm(limit), extent=_extent(size), interpolation="nearest")
    _frame(axes)
    outline_masks(axes, masks, size)


def _extent(size: tuple[int, int]) -> tuple[float, float, float, float]:
    return (0, size[0], size[1], 0)


def _frame(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.4, color="0.4")


def by_unit(effects: pd.DataFrame, keys: Sequence[str], value: str = "patching_effect") -> pd.DataFrame:
    """Average the pairs of each unit, so that intervals over what is left do not count mirrored pairs twice.

    Args:
        effects: a table with the columns `keys` and `value`; without a column unit it is returned as it is
        keys: within which rows of a unit are averaged
        value: what is averaged
    """
    if UNIT not in effects:
        return effects
    return effects.groupby([*keys, UNIT], sort=False, observed=True)[value].mean().reset_index()


def mean_error_bar(values: pd.Series) -> tuple[float, float]:
    """95 % interval of a mean, for the parameter `errorbar` of seaborn, whose own percentile intervals are too narrow.

    Args:
        values: one per unit, none missing
    """
    low, high = mean_interval(values, n_boot=2000)
    return float(low[0]), float(high[0])


def layer_lines(axes: Axes, effects: pd.DataFrame, hue: str) -> None:
    """Draw the mean effect by layer with its 95 % interval over units of pairs, one line per value of `hue`.

    There is no legend in the panel, where it would cover lines: `legend_below` draws it.

    Args:
        axes: where to draw
        effects: a table with the columns layer, patching_effect and `hue`, one row per pair, layer and value of `hue`;
            rows of a unit are averaged first
        hue: the column that parts the lines
    """
    sns.lineplot(
        by_unit(effects, ["layer", hue]), x="layer", y="patching_effect", hue=hue,
        palette="colorblind", style=hue, markers=True, dashes=False, errorbar=mean_error_bar, ax=axes,
    )  # fmt: skip
    if legend := axes.get_legend():  # names that begin with an underscore have none
        legend.remove()
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    sns.despine(ax=axes)
