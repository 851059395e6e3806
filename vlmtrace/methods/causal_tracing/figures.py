"""Figures of causal tracing: how the noise level was chosen, where restoring helps, what pairing the draws changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vlmtrace.core.arguments import Natural, NotNegative, Positive, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_table, pick
from vlmtrace.display.aggregation import role_means, token_matrix
from vlmtrace.display.panels import Picture, effect_panel, grouped_rows, image_panel, label_groups, mean_error_bar
from vlmtrace.display.sentences import amount
from vlmtrace.display.style import PALETTE, effect_limit, new_figure, paper_style, signed_colorbar
from vlmtrace.display.wording import readable
from vlmtrace.methods.causal_tracing.noise import first_token_means
from vlmtrace.methods.causal_tracing.sentences import questions_in_words
from vlmtrace.methods.causal_tracing.summary import unit_effects

COLUMNS = ["sample_id", "block", "module", "layer", "position", "token", "token_role", "step", "indirect_effect"]

INDIRECT = "indirect effect: p(answer | restored) − p(answer | corrupt)"

#: The level of Meng et al. 2022.
PUBLISHED_LEVEL = 3


@checked
@paper_style
def noise_curves(curve: pd.DataFrame, level: NotNegative | None = None) -> Figure:
    """Draw p(answer) against the level of noise, and how often the answer stays on top.

    Lines are means over units (questions about one image) of the answers' first tokens, as `choose_level` reads them.

    Args:
        curve: from `noise_curve`
        level: the one that was chosen, drawn as a line
    Raises:
        VlmtraceError: a column is missing or there is no row.
    """
    curve = check_table(curve, ["sample_id", "category", "level", "p_answer", "still_answers"], "noise_curve")
    # A legend leaves out what begins with an underscore.
    curve = curve.assign(category=[readable(category).strip() or "–" for category in curve["category"]])
    shown = first_token_means(curve, ["category", "level"], ["p_answer", "still_answers"])
    figure = new_figure(height=2.7)
    panels = figure.subplots(1, 2, sharex=True)
    titles = {"p_answer": "p(answer)", "still_answers": "draws with the same answer on top"}
    for axes, (column, title) in zip(panels, titles.items(), strict=True):
        sns.lineplot(
            shown, x="level", y=column, hue="category", style="category", palette="colorblind", markers=True,
            dashes=False, errorbar=mean_error_bar, ax=axes,
        )  # fmt: skip
        axes.axvline(PUBLISHED_LEVEL, color="0.6", linewidth=0.8, linestyle=":", label="as published (3)")
        if level is not None:
            axes.axvline(level, color="0.3", linewidth=0.8, linestyle="--", label=f"chosen ({level:g})")
        axes.set(title=title, ylabel="", ylim=(-0.03, 1.03), xlabel="noise, in standard deviations of the embeddings")
        axes.get_legend().remove()
        sns.despine(ax=axes)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    token = "First token of the clean answer" if "step" in curve and curve["step"].any() else "Clean answer"
    figure.suptitle(f"{token} under noise (mean over n = {questions_in_words(curve, amount)}, 95 % intervals)")
    return figure


@checked
@paper_style
def trace_map(
    effects: pd.DataFrame, sample_id: str | None = None, step: Natural = 0, limit: Positive | None = None
) -> Figure:
    """Draw the indirect effects of one question, layer × token: one row per module, one column per block.

    Args:
        effects: from `causal_trace`
        sample_id: None: the only one in the table
        step: token of the answer, from 0
        limit: colors range over −limit … limit; default: the smallest round number that holds all effects
    Raises:
        VlmtraceError: a column is missing, or a choice is unknown or left open.
    """
    figure = new_figure(height=1)
    draw_trace(figure, effects, sample_id, step, limit)
    return figure


def draw_trace(
    figure: Figure,
    effects: pd.DataFrame,
    sample_id: str | None = None,
    step: int = 0,
    limit: float | None = None,
    picture: Picture | None = None,
) -> None:
    """Draw as `trace_map` does, into an empty figure, with the image above where there is one.

    Args:
        figure: an empty figure
        effects: from `causal_trace`
        sample_id: None: the only one in the table
        step: token of the answer, from 0
        limit: colors range over −limit … limit; None: the smallest round number that holds all effects
        picture: the image; None: not shown
    Raises:
        VlmtraceError: a column is missing, or a choice is unknown or left open.
    """
    check_table(effects, [*COLUMNS, "answer_token", "p_clean", "p_corrupt"], "causal_tracing")
    chosen = pick(effects, "causal_tracing", sample_id=sample_id, step=step)
    maps = {
        (block, module): token_matrix(_as_effects(part))
        for (block, module), part in chosen.groupby(["block", "module"], sort=False)
    }
    row = chosen.iloc[0]
    title = (
        f"{row['sample_id']}, answer token {step + 1}: “{row['answer_token']}”, "
        f"p clean {row['p_clean']:.2f}, corrupt {row['p_corrupt']:.2f}"
    )
    _grid(figure, maps, limit, title, "one question; mean over draws of noise", picture)


@checked
@paper_style
def average_trace(effects: pd.DataFrame, step: Natural = 0, limit: Positive | None = None) -> Figure:
    """Draw average indirect effects over questions, layer × token role: one row per module, one column per block.

    Positions that share a role are averaged within a question first, then questions of a unit (about one image), as in
    `average_effects`.

    Args:
        effects: from `causal_trace`
        step: token of the answer, from 0
        limit: colors range over −limit … limit; None: the smallest round number that holds all effects
    Raises:
        VlmtraceError: a column is missing, or all effects of a module are.
    """
    chosen = pick(check_table(effects, COLUMNS, "causal_tracing"), "causal_tracing", step=step)
    maps, cell = {}, ["layer", "token_role"]
    for (block, module), part in chosen.groupby(["block", "module"], sort=False):
        means = role_means(_as_effects(part))
        if means is None:
            raise VlmtraceError(f"All effects of {module} are missing: trace with more noise.")
        by_unit = unit_effects(part.dropna(subset="indirect_effect"), cell, "indirect_effect")
        matrix = by_unit.groupby(level=cell).mean().unstack("token_role")
        maps[block, module] = (matrix.reindex_like(means.matrix), means.labels)
    figure = new_figure(height=1)
    over = f"mean over those that have the role, of n = {questions_in_words(chosen, amount)}"
    _grid(figure, maps, limit, f"Average indirect effect on answer token {step + 1}", over)
    return figure


def _as_effects(effects: pd.DataFrame) -> pd.DataFrame:
    """With the column that maps of effects are made from."""
    return effects.rename(columns={"indirect_effect": "patching_effect"})


def _grid(
    figure: Figure,
    maps: Mapping[tuple[str, str], tuple[pd.DataFrame, Sequence[str]]],
    limit: float | None,
    title: str,
    over: str,
    picture: Picture | None = None,
) -> None:
    """Maps layer × what was restored: rows are modules, columns blocks, each as wide as its positions need."""
    blocks, modules = (list(dict.fromkeys(names)) for names in zip(*maps, strict=True))
    drawn = [value for matrix, _ in maps.values() for value in matrix.to_numpy().flat if np.isfinite(value)]
    limit = limit or effect_limit(drawn)
    n_layers = max(len(matrix) for matrix, _ in maps.values())
    widths = [max(matrix.shape[1] for (block, _), (matrix, _) in maps.items() if block == name) for name in blocks]
    # A block of one or two positions still has to hold its title.
    widths = [max(width, 0.22 * sum(widths)) for width in widths]
    height, above = 1.7 + len(modules) * (0.35 + 0.13 * min(max(n_layers, 4), 16)), 1.7 if picture is not None else 0.0
    figure.set_size_inches(figure.get_figwidth(), height + above)
    outer = figure.add_gridspec(2, 1, height_ratios=[above, height]) if above else figure.add_gridspec(1, 1)
    if picture is not None:
        image_panel(figure.add_subplot(outer[0]), picture)
    grid = outer[-1].subgridspec(len(modules), len(blocks), width_ratios=widths).subplots(squeeze=False)
    for row, module in zip(grid, modules, strict=True):
        for axes, block in zip(row, blocks, strict=True):
            axes.set_visible((block, module) in maps)
            if (block, module) in maps:
                effect_panel(axes, *maps[block, module], limit)
                axes.set_ylabel(f"{readable(module)}\nlayer" if block == blocks[0] else "")
                axes.tick_params(labelbottom=module == modules[-1])
        if module == modules[0]:
            for axes, block in zip(row, blocks, strict=True):
                axes.set_title(readable(block))
    bar = signed_colorbar(figure, grid.flat, limit, drawn, over)
    bar.set_label(f"{INDIRECT}\n{over}; colors span ±{limit:g}")
    figure.suptitle(title)


@checked
@paper_style
def upper_against_lower(differences: pd.DataFrame, module: str = "residual", step: Natural = 0) -> Figure:
    """Draw whether restoring helps more in the upper half of the layers: one row per token role, grouped by block.

    Args:
        differences: from `later_layers`
        module: whose differences
        step: token of the answer, from 0
    Raises:
        VlmtraceError: a column is missing or there is no row.
    """
    columns = ["step", "block", "module", "token_role", "difference", "ci_low", "ci_high", "n", "verdict"]
    chosen = pick(check_table(differences, columns, "later_layers"), "later_layers", module=module, step=step)
    chosen = chosen.sort_values("difference", ascending=False)
    places = grouped_rows(list(zip(chosen["block"], chosen["token_role"], strict=True)))
    figure = new_figure(height=0.9 + 0.17 * (len(places) + chosen["block"].nunique()))
    axes = figure.subplots()
    for row in chosen.itertuples():
        height = places[row.block, row.token_role]
        sure = row.verdict in ("later", "earlier")
        axes.plot([row.ci_low, row.ci_high], [height, height], color=PALETTE[0], linewidth=1)
        fill = PALETTE[0] if sure else "white"
        axes.plot(row.difference, height, "o", color=PALETTE[0], markersize=4, markerfacecolor=fill)
    axes.axvline(0, color="0.6", linewidth=0.6, zorder=0)
    counts = chosen.set_index(["block", "token_role"])["n"]
    label_groups(axes, places, [f"{role} (n = {counts[block, role]})" for block, role in places])
    axes.set_xlabel("mean indirect effect, upper half of the layers − lower half (95 % intervals over units)")
    axes.set_title(f"{readable(module)}; filled where halves differ, corrected for all rows", loc="left")
    sns.despine(ax=axes)
    return figure


@checked
@paper_style
def pairing_scatter(maps: dict[str, tuple[pd.DataFrame, pd.DataFrame]]) -> Figure:
    """Draw the same map from two seeds, site against site: what noise alone adds scatters off the diagonal.

    Args:
        maps: by title, two tables from `causal_trace` that differ in nothing but the seed
    Raises:
        VlmtraceError: there is no map, a column is missing, or two tables list different sites.
    """
    if not maps:
        raise VlmtraceError("There is no map to draw: pass two tables of causal_trace under a title.")
    figure = new_figure(height=3.0)
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (title, tables) in zip(panels, maps.items(), strict=True):
        both = two_seeds(*tables)
        _diagonal(axes, both)
        apart = float(np.sqrt((both["first"] - both["second"]).pow(2).mean()))
        axes.set_title(f"{title}\n{apart:.3f} apart (root mean square)")
    panels[0].set_ylabel("indirect effect, another seed")
    figure.supxlabel("indirect effect, one seed (bars: 95 % intervals over draws)", fontsize=8)
    return figure


@checked
def two_seeds(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Two tables of the same sites side by side.

    Args:
        first: from `causal_trace`
        second: the same with another seed
    Returns:
        one row per site: sample_id, step, block, module, layer, position, first, second (indirect effects), ci_low,
        ci_high (of the first)

    Raises:
        VlmtraceError: a column is missing, a table has no row or a site twice, or the tables list different sites
    """
    site = ["sample_id", "step", "block", "module", "layer", "position"]
    for table in (first, second):
        check_table(table, [*site, "indirect_effect", "ci_low", "ci_high"], "causal_tracing")
        if table.duplicated(site).any():
            raise VlmtraceError("A site stands twice in a causal_tracing table: pass one trace of each seed.")
    both = first[[*site, "indirect_effect", "ci_low", "ci_high"]].merge(
        second[[*site, "indirect_effect"]], on=site, suffixes=("_first", "_second"), validate="one_to_one"
    )
    if not len(both) == len(first) == len(second):
        raise VlmtraceError("The two tables list other sites: trace the same questions, modules and positions.")
    return both.rename(columns={"indirect_effect_first": "first", "indirect_effect_second": "second"})


def _diagonal(axes: Axes, both: pd.DataFrame) -> None:
    spread = np.stack([both["first"] - both["ci_low"], both["ci_high"] - both["first"]])
    axes.errorbar(
        both["first"], both["second"], xerr=np.nan_to_num(spread), fmt="o", markersize=2.5, color=PALETTE[0],
        ecolor="0.75", elinewidth=0.6,
    )  # fmt: skip
    axes.axline((0, 0), slope=1, color="0.6", linewidth=0.6, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_box_aspect(1)
    ends = both[["first", "second", "ci_low", "ci_high"]]
    room = 0.05 * (ends.max(axis=None) - ends.min(axis=None)) + 1e-3
    axes.set(xlim=(limits := (ends.min(axis=None) - room, ends.max(axis=None) + room)), ylim=limits)
    sns.despine(ax=axes)
