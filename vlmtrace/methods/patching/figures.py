"""Where patching restores the answer: maps and lines of module_patching."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vlmtrace.core.arguments import Count, Natural, NonEmpty, Positive, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_table, pick
from vlmtrace.display.aggregation import patch_grids, role_means, spread_over_kinds, with_pair_columns
from vlmtrace.display.literal import ROOM, shortened
from vlmtrace.display.panels import (
    by_unit,
    effect_panel,
    emphasize_options,
    image_panel,
    layer_lines,
    masks_of,
    masks_of_any,
    mean_error_bar,
    outline_legend,
    outline_masks,
    patch_effect_panel,
)
from vlmtrace.display.style import (
    EFFECT_LABEL,
    PAGE_WIDTH,
    PALETTE,
    effect_limit,
    legend_below,
    new_figure,
    paper_style,
    signed_colorbar,
    thin_ticks,
)
from vlmtrace.display.wording import order_label, readable
from vlmtrace.inputs.pictures import picture_height, picture_of
from vlmtrace.inputs.token_roles import shows_image

#: How much higher a figure is for each letter of a slanted label beyond the tenth.
INCHES_PER_LETTER = 0.045

#: The share of image patches whose effects the range of colors holds.
_SHOWN = 0.99

#: What a figure of effects at single positions needs.
_POSITION_COLUMNS = ["sample_id", "corruption", "block", "module", "layer", "position", "token_role", "patching_effect"]


@checked
@paper_style
def effect_heatmap(
    module_patching: pd.DataFrame,
    module: str,
    block: str | None = None,
    corruption: str | None = None,
    by: Sequence[str] = ("category", "correct_first"),
    pairs: pd.DataFrame | None = None,
    limit: Positive | None = None,
) -> Figure:
    """Draw the mean patching effect, layer × token role, one panel for each kind of question.

    Positions that share a role are averaged within the pair, then pairs are averaged. Roles stand in the order of the
    prompt. All panels share one range of colors, which the color bar states.

    Args:
        module_patching: from `patch_modules`; rows of one task
        module: what was patched, e.g. "cross_attention"
        block: e.g. "text_encoder"; None: the only one that has the module
        corruption: "image" or "text"; None: the only one in the table
        by: at most two columns of the pairs: the first makes rows of panels, the second columns
        pairs: where the `by` columns are, if module_patching lacks them
        limit: colors range over −limit … limit; None: the smallest round number that holds all means

    Returns:
        the figure

    Raises:
        VlmtraceError: a column is missing, a choice is unknown or left open, or all effects are missing
    """
    if len(by) > 2:
        raise VlmtraceError(f"A figure has rows and columns only: pass at most two names in by, not {len(by)}.")
    check_table(module_patching, _POSITION_COLUMNS, "module_patching")
    effects = pick(module_patching, "module_patching", module=module, block=block, corruption=corruption)
    effects = with_pair_columns(effects, pairs, by)
    rows, columns = _facet_values(effects, by, 0), _facet_values(effects, by, 1)
    panels = [(facet, role_means(_panel_rows(effects, by, facet))) for facet in itertools.product(rows, columns)]
    drawn = [value for _, means in panels if means for value in means.matrix.to_numpy().flat if np.isfinite(value)]
    if not drawn:
        raise VlmtraceError(f"All effects of {module} are missing: the runs of these pairs do not differ.")
    limit = limit or effect_limit(drawn)

    height = 0.75 + 0.13 * min(max(effects["layer"].nunique(), 4), 16)
    longest = max(len(label) for _, means in panels if means for label in means.labels)
    height += INCHES_PER_LETTER * max(0, min(longest, ROOM.short[0]) - 10)
    figure = new_figure(height=0.9 + len(rows) * height)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for (facet, means), axes in zip(panels, grid.flat, strict=True):
        axes.set_visible(means is not None)
        if means:
            effect_panel(axes, means.matrix, means.labels, limit)
            emphasize_options(axes, means.labels)
            axes.set_title(_facet_title(by, facet, *means.n), loc="left")
    _label_once(grid)
    signed_colorbar(figure, grid.flat, limit, drawn, "mean over the n pairs of a panel")
    figure.suptitle(site_title(effects))
    return figure


def site_title(effects: pd.DataFrame) -> str:
    """Say what was patched, e.g. "cross-attention of the text encoder, image corruption".

    Args:
        effects: rows of one block, module and corruption

    Returns:
        the words
    """
    site = effects.iloc[0]
    return f"{readable(site['module'])} of the {readable(site['block'])}, {readable(site['corruption'])} corruption"


@checked
@paper_style
def image_effect_map(
    module_patching: pd.DataFrame,
    pairs: pd.DataFrame,
    module: str = "residual",
    block: str = "vision_encoder",
    corruption: str | None = None,
    n: Count = 4,
    layers: NonEmpty[Natural] | None = None,
    grid: tuple[int, int] | None = None,
    limit: Positive | None = None,
) -> Figure:
    """Draw the patching effect of single image patches where they lie: one row per pair, one column per layer.

    Nothing is averaged: in another pair the object lies elsewhere.

    Args:
        module_patching: from `patch_modules` or `attribute_modules`; rows of one task
        pairs: their pairs table; outlines are drawn where it has masks
        module: what was patched
        block: whose positions are image patches
        corruption: "image" or "text"; None: the only one in the table
        n: how many pairs, of as many kinds as there are
        layers: None: all, or six evenly spaced ones where there are more
        grid: rows and columns of image patches; None: as many rows as columns
        limit: colors range over −limit … limit; None: the smallest round number that holds 99 of 100 effects, so that
            one patch does not bleach all others; the bar shows arrows where effects lie beyond

    Returns:
        the figure

    Raises:
        VlmtraceError: a column is missing, a choice is unknown or left open, or the patches do not fill the grid
    """
    check_table(module_patching, _POSITION_COLUMNS, "module_patching")
    effects = pick(module_patching, "module_patching", module=module, block=block, corruption=corruption)
    shown = spread_over_kinds(pairs[pairs["sample_id"].isin(effects["sample_id"])], n)
    check_table(shown, ["clean_image", "corrupt_image", "clean_prompt", "correct_answer"], "pairs")
    known = sorted(effects["layer"].unique())
    layers = [known[i] for i in thin_ticks(len(known), at_most=6)] if layers is None else layers
    effects = effects[effects["layer"].isin(layers) & effects["sample_id"].isin(shown["sample_id"])]
    drawn = effects.loc[shows_image(effects["token_role"]), "patching_effect"]
    limit = limit or effect_limit([drawn.abs().quantile(_SHOWN)])

    side = (PAGE_WIDTH - 0.5) / (len(layers) + 2) * picture_height(shown)
    figure = new_figure(height=0.9 + len(shown) * (0.45 + side))
    panels = figure.subplots(len(shown), len(layers) + 2, squeeze=False)
    for (_, pair), axes in zip(shown.iterrows(), panels, strict=True):
        grids = patch_grids(effects[effects["sample_id"] == pair["sample_id"]], grid)
        draw_patch_effects(axes, pair, grids, limit)
    outline_legend(figure, masks_of_any(shown), loc="outside upper right")
    # Probabilities are missing where effects were estimated by `attribute_modules`.
    estimated = "p_correct" in effects and len(effects) > 0 and effects["p_correct"].isna().all()
    what = "one patch of one pair (n = 1)" + (", estimated from a gradient" if estimated else "")
    signed_colorbar(figure, panels.flat, limit, drawn, what)
    figure.suptitle(site_title(effects), x=0.01, ha="left")
    return figure


def draw_patch_effects(axes: Sequence[Axes], pair: pd.Series, grids: dict[int, np.ndarray], limit: float) -> None:
    """Draw one pair in a row of axes: clean image, corrupt image, then the effects of each layer's patches.

    Args:
        axes: two more than there are layers
        pair: a row of a pairs table
        grids: by layer, (rows, columns) of effects, see `patch_grids`
        limit: colors range over −limit … limit
    """
    masks = masks_of(pair)
    size = image_panel(axes[0], picture_of(pair))
    outline_masks(axes[0], masks, size)
    image_panel(axes[1], picture_of(pair, "corrupt_image"))
    asked, clean = shortened(pair["clean_prompt"], 60, 2), shortened(pair["correct_answer"], 20, 1)
    axes[0].set_title(f"{asked}\nclean: {clean}", loc="left")
    axes[1].set_title(f"corrupt: {shortened(pair['incorrect_answer'], 20, 1)}", loc="left")
    for panel, (layer, effects) in zip(axes[2:], grids.items(), strict=True):
        patch_effect_panel(panel, effects, limit, size, masks)
        panel.set_title(f"layer {layer}", loc="left")


def _facet_values(effects: pd.DataFrame, by: Sequence[str], axis: int) -> list:
    """The values that make the rows (axis 0) or columns (1) of panels, [None] where nothing does."""
    if len(by) <= axis:
        return [None]
    values = list(effects[by[axis]].unique())
    # The correct option first comes first; all else stays in the order of the table.
    return sorted(values, reverse=True) if effects[by[axis]].dtype == bool else values


def _panel_rows(effects: pd.DataFrame, by: Sequence[str], facet: Sequence[object]) -> pd.DataFrame:
    for column, value in zip(by, facet, strict=False):
        effects = effects[effects[column] == value]
    return effects


def _facet_title(by: Sequence[str], facet: Sequence[object], fewest: int, most: int) -> str:
    """E.g. "color, correct option first (n = 12)"; n is a range where a role does not occur in every prompt."""
    names = [
        order_label(bool(value)) if column == "correct_first" else readable(value)
        for column, value in zip(by, facet, strict=False)
    ]
    count = f"n = {most}" if fewest == most else f"n = {fewest} to {most}"
    return f"{', '.join(names)} ({count})".lstrip()


def _label_once(grid: np.ndarray) -> None:
    """Say "layer" at the left only, and the roles at the bottom only where all panels of a column have the same."""
    for axes in grid[:, 1:].flat:
        axes.set_ylabel("")
    for column in grid.T:
        seen = [axes for axes in column if axes.get_visible()]
        labels = [[label.get_text() for label in axes.get_xticklabels()] for axes in seen]
        if all(found == labels[0] for found in labels):
            for axes in seen[:-1]:
                axes.tick_params(labelbottom=False)


#: What a figure of effects without positions needs: of regions, or of knockouts.
REGION_COLUMNS = ["sample_id", "corruption", "block", "module", "layer", "token_role", "patching_effect"]


@checked
@paper_style
def region_effects(effects: pd.DataFrame) -> Figure:
    """Draw the effect of patching all positions of a region at once, layer by layer, one panel per module.

    Args:
        effects: from `patch_regions`, of one corruption

    Returns:
        the figure: means over pairs, with 95 % intervals over units

    Raises:
        VlmtraceError: a column is missing or there is no row
    """
    effects = check_table(effects, REGION_COLUMNS, "module_patching")
    modules = list(dict.fromkeys(effects["module"]))
    figure = new_figure(height=3.0)
    panels = figure.subplots(1, len(modules), sharey=True, squeeze=False)[0]
    for axes, module in zip(panels, modules, strict=True):
        layer_lines(axes, effects[effects["module"] == module], "token_role")
        axes.set_title(readable(module))
        axes.set_ylabel(EFFECT_LABEL)
    legend_below(figure, panels[0])
    figure.suptitle(_region_title(effects))
    return figure


@checked
@paper_style
def layer_profiles(profiles: pd.DataFrame) -> Figure:
    """Draw the effect of each module by layer, one column per model, one row per corruption.

    Args:
        profiles: layer profiles of two runs (see `vlmtrace.pipeline.comparison`): columns model, corruption,
            sample_id, module, where ("text" or "image": the positions summed over), layer, patching_effect

    Returns:
        the figure: means over pairs, with 95 % intervals over units

    Raises:
        VlmtraceError: a column is missing or there is no row
    """
    needed = ["model", "corruption", "sample_id", "module", "where", "layer", "patching_effect"]
    profiles = check_table(profiles, needed, "profiles")
    models, corruptions = (list(dict.fromkeys(profiles[name])) for name in ("model", "corruption"))
    modules = sorted(dict.fromkeys(profiles["module"]))
    colors = dict(zip(modules, PALETTE, strict=False))
    figure = new_figure(height=0.6 + 2.2 * len(corruptions))
    panels = figure.subplots(len(corruptions), len(models), sharey="row", squeeze=False)
    for row, corruption in zip(panels, corruptions, strict=True):
        for axes, model in zip(row, models, strict=True):
            mine = profiles[(profiles["model"] == model) & (profiles["corruption"] == corruption)]
            sns.lineplot(
                by_unit(mine, ["module", "where", "layer"]).rename(columns={"where": "positions"}),
                x="layer", y="patching_effect", hue="module", style="positions", palette=colors,
                style_order=["text", "image"], markers=True, dashes={"text": "", "image": (2, 1.5)},
                errorbar=mean_error_bar, ax=axes,
            )  # fmt: skip
            n = mine.groupby("model")["sample_id"].nunique().max()
            axes.set_title(f"{model}, {corruption} corruption (n = {n} pairs)")
            axes.set_ylabel("patching effect, summed over positions")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
            for label in axes.get_legend().get_texts():
                label.set_text(readable(label.get_text()))
            sns.despine(ax=axes)
    return figure


def _region_title(effects: pd.DataFrame) -> str:
    block, corruption = effects["block"].iloc[0], effects["corruption"].iloc[0]
    n = effects["sample_id"].nunique()
    return f"{readable(block)}, {corruption} corruption (mean over n = {n} pairs, 95 % intervals)"
