"""Words in patches: written on the image, through the layers of one patch, and counted over many images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure, FigureBase
from matplotlib.patches import Rectangle

from vlmtrace.core import stats
from vlmtrace.core.arguments import Count, checked
from vlmtrace.core.schema import TABLES, check_table
from vlmtrace.display.panels import Picture, image_panel, outline_legend, outline_masks
from vlmtrace.display.style import PALETTE, legend_below, new_figure, paper_style
from vlmtrace.methods.lens.depths import output_layer
from vlmtrace.methods.lens.figures import MASK


def draw_words(
    figure: FigureBase,
    image: Picture,
    boxes: pd.DataFrame,
    words: pd.DataFrame,
    wanted: str | None = None,
    mask: Picture | None = None,
) -> None:
    """Draw the image, and beside it the best words of each image token where the token lies, the best on top.

    Args:
        figure: an empty figure
        image: a path or a picture
        boxes: from `image_boxes`
        words: from `decode_to_words` at the same positions; all ranks are written
        wanted: a word to set off: patches in which it stands are green, and it is in bold
        mask: the object asked about
    """
    outlines = {} if mask is None else {MASK: mask}
    plain, written = figure.subplots(1, 2, width_ratios=[1, 2.4])
    outline_masks(plain, outlines, image_panel(plain, image))
    width, height = image_panel(written, image, gray=True)
    outline_masks(written, outlines, (width, height))
    found = {position: part.sort_values("rank") for position, part in words.groupby("position")}
    room = 260 * min(1.0, width / height)  # points across the panel, at the figure's height
    for box in boxes.itertuples():
        names = [str(name) for name in found[box.position]["word"]]
        hits = [wanted is not None and name.lower() == wanted.lower() for name in names]
        x, y = box.left * width, box.top * height
        wide, high = (box.right - box.left) * width, (box.bottom - box.top) * height
        face = (*PALETTE[2], 0.55) if any(hits) else (1, 1, 1, 0.45)
        written.add_patch(Rectangle((x, y), wide, high, facecolor=face, edgecolor="white", linewidth=0.5))
        # As large as fits: lines are 1.2 of a letter's height apart, letters beside each other about 0.58.
        largest = min(7.0, room * wide / width / (1.2 * len(names)))
        for line, (name, hit) in enumerate(zip(names, hits, strict=True)):
            size = min(largest, room * wide / width / (0.58 * max(1, len(name))))
            written.text(
                x + wide / 2, y + high * (line + 0.5) / len(names), name, ha="center", va="center", fontsize=size,
                fontweight="bold" if hit else "normal", color="black" if line == 0 or hit else "0.2",
            )  # fmt: skip
    outline_legend(figure, outlines)


def draw_patch(
    figure: FigureBase, image: Picture, box: Any, words: Mapping[str, pd.DataFrame], wanted: str | None = None
) -> None:
    """Draw the image with one image token marked, and beside it that token's best words, one row per reading.

    Args:
        figure: an empty figure
        image: a path or a picture
        box: top, left, bottom, right in fractions of the image
        words: from `decode_to_words`, by the name of the reading, at one position
        wanted: a word to set off
    """
    plain, table = figure.subplots(1, 2, width_ratios=[1, 2.2])
    width, height = image_panel(plain, image)
    corner = (box.left * width, box.top * height)
    sides = ((box.right - box.left) * width, (box.bottom - box.top) * height)
    plain.add_patch(Rectangle(corner, *sides, facecolor="none", edgecolor="white", linewidth=3))
    plain.add_patch(Rectangle(corner, *sides, facecolor="none", edgecolor="black", linewidth=1.2))
    table.set_axis_off()
    columns = max(len(part) for part in words.values())
    table.set(xlim=(-1.2, columns), ylim=(len(words) + 0.5, -1))
    for column in range(columns):
        table.text(column, -0.5, f"rank {column + 1}", fontsize=7, color="0.4")
    for row, (name, part) in enumerate(words.items()):
        table.text(-1.2, row + 0.5, name, fontsize=7, color="0.4")
        for column, found in enumerate(part.sort_values("rank").itertuples()):
            hit = wanted is not None and str(found.word).lower() == wanted.lower()
            said = f"{found.word}\n{found.score:.2f}"
            weight, color = ("bold", PALETTE[2]) if hit else ("normal", "black")
            table.text(column, row + 0.5, said, fontsize=7, va="center", fontweight=weight, color=color)


@checked
@paper_style
def word_grid(
    image: Picture,
    boxes: pd.DataFrame,
    words: pd.DataFrame,
    title: str = "",
    wanted: str | None = None,
    mask: Picture | None = None,
) -> Figure:
    """Draw the image and the best words of each image token (see `draw_words`).

    Args:
        image: a path or a picture
        boxes: from `image_boxes`
        words: from `decode_to_words` at the same positions
        title: of the figure
        wanted: a word to set off
        mask: the object asked about
    """
    figure = new_figure(height=4.7)
    draw_words(figure, image, boxes, words, wanted, mask)
    figure.suptitle(title)
    return figure


@checked
@paper_style
def words_by_layer(table: pd.DataFrame, at_most: Count = 5) -> Figure:
    """Draw the share of image tokens at which the right word is among the first, by layer, one panel per reading.

    Args:
        table: from `word_layers`, of all layers and places or of some
        at_most: as it was passed there

    Raises:
        VlmtraceError: a column is missing or there is no row.
    """
    table = check_table(table, TABLES["patch_words"].required, "patch_words")
    ways = list(dict.fromkeys(table["through"]))
    figure = new_figure(height=2.6)
    panels = figure.subplots(1, len(ways), sharey=True, squeeze=False)[0]
    styles: dict[str, Any] = {"object": ("o", 0), "elsewhere": ("s", 7), "answer": ("^", 1)}
    names = {
        "object": "image tokens on the object",
        "elsewhere": "other image tokens",
        "answer": "the position that predicts the answer",
    }
    out = output_layer(table)
    for axes, way in zip(panels, ways, strict=True):
        for place, (marker, color) in styles.items():
            wide = table[(table["through"] == way) & (table["place"] == place)]
            if wide.empty:
                continue
            wide = wide.pivot(index="sample_id", columns="layer", values="share").dropna()
            layers = list(wide.columns)
            axes.plot(layers, wide.mean(), marker=marker, markersize=4, color=PALETTE[color], label=names[place])
            if len(wide) > 1:
                axes.fill_between(layers, *stats.mean_interval(wide), color=PALETTE[color], alpha=0.15, linewidth=0)
        axes.set_title(f"through the {way}", loc="left")
        ticks = sorted(table["layer"].unique())
        axes.set_xticks(ticks, ["out" if layer == out else str(layer) for layer in ticks])
        leaves = "" if out is None else " (out: what leaves the last)"
        axes.set(xlabel=f"what enters the layer{leaves}", ylim=(-0.03, 1.03))
        sns.despine(ax=axes)
    panels[0].set_ylabel(f"share of tokens with the right\nword among the first {at_most}")
    legend_below(figure, panels[0])
    n = table["sample_id"].nunique()
    figure.suptitle(f"Where is the right word? (n = {n} questions; bands are 95 % intervals)")
    return figure
