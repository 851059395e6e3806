"""What the visual lens finds: contributions of heads, maps of the image and their tests, images against sentences."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure, FigureBase

from vlmtrace.core import stats
from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import TABLES, check_table
from vlmtrace.display.panels import (
    Picture,
    attention_panel,
    head_panel,
    image_panel,
    mean_error_bar,
    outline_legend,
    outline_masks,
)
from vlmtrace.display.style import (
    PAGE_WIDTH,
    PALETTE,
    SIGNED,
    effect_limit,
    legend_below,
    new_figure,
    paper_style,
    signed_norm,
)
from vlmtrace.display.wording import readable

#: Color and marker of each map, the same in all figures.
METHODS = {
    "lens": (PALETTE[0], "o"),
    "attention": (PALETTE[1], "s"),
    "rollout": (PALETTE[2], "^"),
    "gradient": (PALETTE[4], "D"),
    "random": (PALETTE[7], "x"),
}
MEASURES = {
    "auc": "pointing: area under ROC\n(higher is better; 0.5 = chance)",
    "deletion": "deletion: area under p\n(lower is better)",
    "insertion": "insertion: area under p\n(higher is better)",
}
INCREASE = "increase of log p(answer), nats"
MASK = "clean_object_mask"


# Heads --------------------------------------------------------------------------------------------------------------


@checked
@paper_style
def lens_heads(contributions: pd.DataFrame, title: str = "") -> Figure:
    """Draw the mean contribution of every head, layer × head, and beside it that of whole modules.

    Args:
        contributions: from `lens_contributions`
        title: of the figure

    Raises:
        VlmtraceError: a column is missing or there is no row.
    """
    table = check_table(contributions, ["sample_id", "module", "layer", "head", "log_p_increase"], "lens_contributions")
    heads, wide = table[table["head"].notna()], table[table["head"].isna()]
    matrix = heads.groupby(["layer", "head"])["log_p_increase"].mean().unstack("head")
    annotate = matrix.shape[1] <= 16 and len(matrix) <= 16
    limit = effect_limit(matrix.to_numpy().ravel())
    figure = new_figure(height=min(1.5 + len(matrix) * (0.3 if annotate else 0.13), 8))
    left, right = figure.subplots(1, 2, width_ratios=[1.7, 1])
    head_panel(left, matrix, limit, annotate)
    left.set_title("each head of self-attention", loc="left")
    bar = figure.colorbar(ScalarMappable(signed_norm(limit), SIGNED), ax=left, location="bottom", aspect=50, pad=0.02)
    bar.set_label(f"{INCREASE}, mean of n = {table['sample_id'].nunique()} questions")
    bar.outline.set_linewidth(0.4)
    modules = wide.assign(module=wide["module"].map(readable))
    sns.barplot(
        modules, x="log_p_increase", y="layer", hue="module", orient="h", palette=[PALETTE[0], PALETTE[1]],
        errorbar=mean_error_bar, err_kws={"linewidth": 0.8}, ax=right,
    )  # fmt: skip
    right.invert_yaxis()
    right.axvline(0, color="0.6", linewidth=0.6)
    right.set(xlabel=f"{INCREASE}\n(bars are 95 % intervals)", ylabel="layer")
    right.set_title("whole modules", loc="left")
    right.get_legend().set_title(None)
    sns.despine(ax=right)
    figure.suptitle(title)
    return figure


# Maps ---------------------------------------------------------------------------------------------------------------


@checked
@paper_style
def patch_maps(
    images: Sequence[Picture],
    titles: Sequence[str],
    maps: Sequence[Mapping[str, np.ndarray]],
    masks: Sequence[Picture | None] | None = None,
    notes: Sequence[Mapping[str, str]] | None = None,
) -> Figure:
    """Draw several images, one per row, and beside each its maps, each on its own scale from 0 to its highest value.

    Args:
        images: paths or pictures
        titles: of the rows, e.g. question and answer
        maps: of each image, by name, (row, column) over the image; what is below 0 (speaks against the answer) is left
            blank
        masks: of each image, the object asked about
        notes: of each image, by map, a few words below it

    Raises:
        VlmtraceError: an image cannot be read, or the lists differ in length.
    """
    if not images or not len(images) == len(titles) == len(maps):
        raise VlmtraceError(
            f"There are {len(images)} images, {len(titles)} titles and {len(maps)} sets of maps: pass one of each for "
            "every image."
        )
    names = list(maps[0])
    side = PAGE_WIDTH / (len(names) + 1)
    figure = new_figure(height=0.4 + len(images) * (side + 0.4))
    legend = bool(masks) and any(mask is not None for mask in masks or [])
    heights = [side + 0.4] * (len(images) - 1) + [side + 0.4 + 0.25 * legend]
    rows = figure.subfigures(len(images), 1, squeeze=False, height_ratios=heights)[:, 0]
    for number, (panel, image, title) in enumerate(zip(rows, images, titles, strict=True)):
        mask = masks[number] if masks else None
        note = notes[number] if notes else {}
        draw_maps(panel, image, maps[number], mask, note)
        panel.suptitle(title, x=0.01, ha="left", fontsize=8)
    outline_legend(rows[-1], [MASK] if legend else [])
    return figure


def draw_maps(
    figure: FigureBase,
    image: Picture,
    maps: Mapping[str, np.ndarray],
    mask: Picture | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Draw one row of `patch_maps`: the image, and each map over the image in gray.

    Args:
        figure: an empty figure or subfigure
        image: a path or a picture
        maps: by name, (row, column) over the image
        mask: the object asked about, outlined; None: not outlined
        notes: by map, a few words below it
    """
    outlines = {} if mask is None else {MASK: mask}
    axes = figure.subplots(1, len(maps) + 1)
    outline_masks(axes[0], outlines, image_panel(axes[0], image))
    axes[0].set_title("image")
    for panel, (name, values) in zip(axes[1:], maps.items(), strict=True):
        highest = float(np.nanmax(values))
        attention_panel(panel, image, np.clip(values, 0, None), max(highest, 1e-12), outlines)
        panel.set_title(name)
        panel.set_xlabel((notes or {}).get(name, ""), fontsize=7)


@checked
@paper_style
def map_measures(table: pd.DataFrame) -> Figure:
    """Draw each measure of each map with its interval, one panel per measure.

    Args:
        table: from `map_table`

    Raises:
        VlmtraceError: a column is missing or there is no row.
    """
    table = check_table(table, ["measure", "method", "n", "mean", "low", "high", "verdict"], "maps")
    measures = list(dict.fromkeys(table["measure"]))
    methods = list(dict.fromkeys(table["method"]))
    figure = new_figure(height=1.2 + 0.22 * len(methods))
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        for row in table[table["measure"] == measure].itertuples():
            color, marker = METHODS.get(row.method, ("0.3", "o"))
            height = methods.index(row.method)
            axes.plot([row.low, row.high], [height, height], color=color, linewidth=1.2)
            axes.plot(row.mean, height, marker, color=color, markersize=5, clip_on=False)
        if measure == "auc":
            axes.axvline(0.5, color="0.6", linewidth=0.8, linestyle=":")
        axes.set_xlabel(MEASURES.get(measure, measure))
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(len(methods) - 0.5, -0.5)
        axes.grid(axis="x", color="0.9", linewidth=0.5)
        sns.despine(ax=axes)
    figure.suptitle(f"Which map is right? (n = {table['n'].min()} questions; bars are 95 % intervals)")
    return figure


@checked
@paper_style
def map_curves(curves: pd.DataFrame) -> Figure:
    """Draw the answer's probability as a growing share of image tokens is replaced (deletion) or kept (insertion).

    Args:
        curves: from `score_maps`

    Raises:
        VlmtraceError: a column is missing or there is no row.
    """
    curves = check_table(curves, TABLES["map_curves"].required, "map_curves")
    figure = new_figure(height=2.8)
    titles = {
        "deletion": "the top tokens are replaced by the mean token\n(a good map falls fast)",
        "insertion": "only the top tokens are kept\n(a good map rises fast)",
    }
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (kind, title) in zip(panels, titles.items(), strict=True):
        for method, part in curves[curves["kind"] == kind].groupby("method", sort=False):
            color, marker = METHODS.get(str(method), ("0.3", "o"))
            # Sizes are rounded to whole tokens, so images of unlike token counts have unlike shares.
            wide = part.assign(share=part["share"].round(2)).pivot_table(index="sample_id", columns="share", values="p")
            shares = wide.columns.to_numpy(dtype=float)
            mean, whole = wide.mean(), wide.dropna()
            axes.plot(shares, mean, marker=marker, markersize=3.5, linewidth=1.2, color=color, label=str(method))
            if len(whole) > 1:
                low, high = stats.mean_interval(whole, n_boot=2000)
                axes.fill_between(shares, low, high, color=color, alpha=0.15, linewidth=0)
        axes.set_title(title, loc="left")
        axes.set_xlabel(f"share of image tokens {'replaced' if kind == 'deletion' else 'kept'}")
        axes.set_ylim(0, 1)
        sns.despine(ax=axes)
    panels[0].set_ylabel("probability of the model's own answer")
    legend_below(figure, panels[0])
    n = curves["sample_id"].nunique()
    figure.suptitle(f"Deletion and insertion (mean of n = {n} questions; bands are 95 % intervals)")
    return figure


# Images against sentences -------------------------------------------------------------------------------------------


@checked
@paper_style
def visual_against_textual(
    visual: pd.DataFrame, textual: pd.DataFrame, ablated: pd.DataFrame, shared: Sequence[tuple[int, int]]
) -> Figure:
    """Draw every head's mean contribution from images against that from sentences, and what ablating some heads does.

    Args:
        visual: from `lens_contributions`, the questions asked about images
        textual: from `lens_contributions`, the same questions asked about sentences
        ablated: from `ablation_table`
        shared: the heads that were ablated

    Raises:
        VlmtraceError: a column is missing or there is no row.
    """
    columns = ["sample_id", "layer", "head", "log_p_increase"]
    tables = [check_table(table, columns, "lens_contributions") for table in (visual, textual)]
    ablated = check_table(ablated, ["run", "heads", "log_odds_change", "low", "high", "n"], "lens_knockouts")
    means = [table[table["head"].notna()].groupby(["layer", "head"])["log_p_increase"].mean() for table in tables]
    figure = new_figure(height=2.9)
    left, right = figure.subplots(1, 2, width_ratios=[1.1, 1])
    _draw_agreement(left, means[0], means[1], shared, visual["sample_id"].nunique())
    _draw_ablated(right, ablated, len(shared))
    return figure


def _draw_agreement(
    axes: Axes, visual: pd.Series, textual: pd.Series, shared: Sequence[tuple[int, int]], n: int
) -> None:
    layers = visual.index.get_level_values("layer").astype(int)
    colors = sns.color_palette("viridis", int(layers.max()) + 1)
    for layer in sorted(set(layers)):
        at = layers == layer
        axes.scatter(visual[at], textual[at], s=14, color=colors[layer], label=f"layer {layer}")
    ring: dict[str, Any] = {"facecolor": "none", "edgecolor": "black", "linewidth": 0.8}
    places = list(shared)
    axes.scatter([visual[place] for place in places], [textual[place] for place in places], s=45, **ring)
    named = textwrap.fill(", ".join(f"{layer}.{head}" for layer, head in places), 28)
    axes.text(0.03, 0.97, f"ringed: the shared heads\n{named}", transform=axes.transAxes, va="top", fontsize=7)
    ends = [min(visual.min(), textual.min()), max(visual.max(), textual.max())]
    axes.plot(ends, ends, color="0.6", linestyle=":", linewidth=0.8, zorder=0)
    axes.set(xlabel="contribution from an image, nats", ylabel="contribution from sentences, nats")
    axes.set_title(f"what each head contributes (n = {n} questions)", loc="left")
    if layers.max() < 8:
        axes.legend(loc="lower right")
    sns.despine(ax=axes)


def _draw_ablated(axes: Axes, ablated: pd.DataFrame, k: int) -> None:
    labels = {"chosen": f"the {k} shared heads", "random": f"{k} random others"}
    runs = list(dict.fromkeys(ablated["run"]))
    for number, (heads, label) in enumerate(labels.items()):
        rows = ablated[ablated["heads"] == heads].set_index("run").loc[runs]
        x = np.arange(len(runs)) + (number - 0.5) * 0.25
        spread = [rows["log_odds_change"] - rows["low"], rows["high"] - rows["log_odds_change"]]
        axes.errorbar(
            x, rows["log_odds_change"], yerr=spread, fmt="os"[number], markersize=5, linewidth=1.2,
            color=PALETTE[(0, 7)[number]], label=label,
        )  # fmt: skip
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    axes.set_xticks(range(len(runs)), [f"{run} run" for run in runs])
    axes.set_xlim(-0.5, len(runs) - 0.5)
    axes.set_ylabel("change of the answer's log-odds, nats")
    axes.set_title(f"mean-ablated (n = {ablated['n'].max()} other questions)", loc="left")
    axes.legend(loc="best")
    sns.despine(ax=axes)
