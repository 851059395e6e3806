"""Several positions at once: regions patched, ways cut, image tokens replaced; and two models side by side."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vlmtrace.plots.averages import check_table
from vlmtrace.plots.style import EFFECT, PALETTE, new_figure, paper_style, readable

COLUMNS = ["sample_id", "corruption", "block", "module", "layer", "token_role", "patching_effect"]

#: What a knock-out is measured in.
LOST = "share of the gap lost\n(−1 = all of it)"


@paper_style
def region_effects(effects: pd.DataFrame) -> Figure:
    """Effect of patching all positions of a region at once, layer by layer, one panel a module.

    Args:
        effects: from `patch_regions`, of one corruption

    Raises:
        VlmtraceError: a column is missing or there is no row.
    """
    effects = check_table(effects, COLUMNS, "module_patching")
    modules = list(dict.fromkeys(effects["module"]))
    figure = new_figure(height=3.0)
    panels = figure.subplots(1, len(modules), sharey=True, squeeze=False)[0]
    for axes, module in zip(panels, modules, strict=True):
        lines(axes, effects[effects["module"] == module], "token_role", "region")
        axes.set_title(readable(module))
        axes.set_ylabel(EFFECT)
    _one_legend(figure, panels)
    figure.suptitle(_title(effects))
    return figure


@paper_style
def knockout_effects(cut: pd.DataFrame, replaced: pd.DataFrame | None = None) -> Figure:
    """What a clean run loses: left by cutting attention around a layer, right by replacing image tokens by their mean.

    Args:
        cut: from `knock_out_attention`
        replaced: from `replace_image_tokens`; None: the left half alone

    Raises:
        VlmtraceError: a column is missing or there is no row.
    """
    cut = check_table(cut, COLUMNS, "module_patching")
    figure = new_figure(height=2.9)
    panels = figure.subplots(1, 1 if replaced is None else 2, sharey=True, squeeze=False)[0]
    lines(panels[0], cut, "token_role", "attention cut")
    window = cut["token"].str.extract(r"(\d+)", expand=False).astype(int).max()
    panels[0].set_xlabel(f"layer (middle of a window of {window})")
    panels[0].set_ylabel(LOST)
    panels[0].set_title("attention cut")
    if replaced is not None:
        replaced = check_table(replaced, COLUMNS, "module_patching")
        sns.pointplot(
            replaced, x="token_role", y="patching_effect", color=PALETTE[7], linestyle="none", ax=panels[1], seed=0
        )
        panels[1].axhline(0, color="0.6", linewidth=0.6, zorder=0)
        panels[1].set(xlabel="region", title="image tokens replaced by their mean")
        sns.despine(ax=panels[1])
    figure.suptitle(f"Clean run, knocked out (n = {cut['sample_id'].nunique()} pairs; bars are 95 % intervals)")
    return figure


@paper_style
def layer_profiles(profiles: pd.DataFrame) -> Figure:
    """Effect of each module by layer, one column a model, one row a corruption.

    Args:
        profiles: from `compare.layer_profile` of two runs: model, corruption, sample_id, module, where, layer,
            patching_effect

    Raises:
        VlmtraceError: a column is missing or there is no row.
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
                mine.rename(columns={"where": "positions"}),
                x="layer", y="patching_effect", hue="module", style="positions", palette=colors,
                style_order=["text", "image"], markers=True, dashes={"text": "", "image": (2, 1.5)},
                errorbar=("ci", 95), n_boot=500, seed=0, ax=axes,
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


def lines(axes: Axes, effects: pd.DataFrame, hue: str, title: str) -> None:
    """Mean effect by layer with its 95 % interval over pairs, one line a value of `hue`."""
    sns.lineplot(
        effects.rename(columns={hue: title}), x="layer", y="patching_effect", hue=title, palette="colorblind",
        style=title, markers=True, dashes=False, errorbar=("ci", 95), n_boot=500, seed=0, ax=axes,
    )  # fmt: skip
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    sns.despine(ax=axes)


def _one_legend(figure: Figure, panels) -> None:
    handles, labels = panels[0].get_legend_handles_labels()
    for axes in panels:
        axes.get_legend().remove()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _title(effects: pd.DataFrame) -> str:
    block, corruption = effects["block"].iloc[0], effects["corruption"].iloc[0]
    n = effects["sample_id"].nunique()
    return f"{readable(block)}, {corruption} corruption (mean over n = {n} pairs, 95 % intervals)"
