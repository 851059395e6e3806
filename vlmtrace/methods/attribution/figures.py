"""How well gradients, one or the mean of several, estimate what exact patching finds."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmtrace.core.arguments import Count, checked
from vlmtrace.core.schema import HEAD, check_table
from vlmtrace.core.stored import StoredTable, choose, values_of
from vlmtrace.display.style import PALETTE, new_figure, paper_style
from vlmtrace.display.wording import readable
from vlmtrace.methods.attribution.gradients import mean_head_effects, ranking_agreement

_COLUMNS = ["sample_id", "corruption", *HEAD, "position", "patching_effect"]


@checked
@paper_style
def attribution_scatter(
    exact: pd.DataFrame | StoredTable, estimate: pd.DataFrame | StoredTable, top: Count = 10
) -> Figure:
    """Draw each head's mean effect, exact against estimated from gradients, one panel per corruption.

    On the diagonal the estimate is right; off it lie heads whose softmax or norm saturates. The `top` heads with the
    strongest exact effects are filled, so that one sees which of them a ranking by the estimate would have missed.

    Args:
        exact: from `patch_heads`
        estimate: from `attribute_heads`, of the same pairs
        top: how many heads are filled and compared

    Returns:
        the figure

    Raises:
        VlmtraceError: a column is missing, or there is no row
    """
    exact, estimate = (check_table(table, _COLUMNS, "head_patching") for table in (exact, estimate))
    corruptions = values_of(exact, "corruption")
    figure = new_figure(height=3.4)
    panels = figure.subplots(1, len(corruptions), squeeze=False)[0]
    for axes, corruption in zip(panels, corruptions, strict=True):
        both = [choose(table, corruption=corruption) for table in (exact, estimate)]
        _draw_points(axes, both[0], both[1], top)
        axes.set_title(f"{readable(corruption)} corruption (n = {len(values_of(both[0], 'sample_id'))} pairs)")
    for axes in panels[1:]:
        axes.get_legend().remove()
    return figure


def _draw_points(axes: Axes, exact: pd.DataFrame | StoredTable, estimate: pd.DataFrame | StoredTable, top: int) -> None:
    means = pd.concat({"exact": mean_head_effects(exact), "estimate": mean_head_effects(estimate)}, axis=1)
    means = means.dropna().reset_index()
    strongest = means["exact"].abs().rank(ascending=False) <= top
    for number, (module, heads) in enumerate(means.groupby("module")):
        color = PALETTE[number]
        top_heads = heads[strongest.loc[heads.index]]
        axes.scatter(heads["exact"], heads["estimate"], s=18, facecolor="none", edgecolor=color, label=readable(module))
        axes.scatter(top_heads["exact"], top_heads["estimate"], s=18, color=color)
    low, high = means[["exact", "estimate"]].min().min(), means[["exact", "estimate"]].max().max()
    axes.plot([low, high], [low, high], color="0.6", linestyle=":", linewidth=0.8, zorder=0)
    axes.set_xlabel("exact patching effect of a head")
    axes.set_ylabel("estimate from gradients")
    found = ranking_agreement(exact, estimate, top=top).iloc[0]
    said = (
        f"rank correlation {found['spearman']:.2f}\n"
        f"{found['overlap'] * top:.0f} of the {top} strongest heads (filled)\n"
        f"are also the estimate's (by chance {found['overlap_by_chance'] * top:.1f})"
    )
    axes.text(0.03, 0.97, said, transform=axes.transAxes, va="top", fontsize=7)
    axes.legend(loc="lower right")
    sns.despine(ax=axes)
