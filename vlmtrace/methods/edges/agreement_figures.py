"""How well estimates of edges find those that exact patching finds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.stored import StoredTable
from vlmtrace.display.style import PALETTE, new_figure, paper_style
from vlmtrace.display.wording import readable
from vlmtrace.methods.edges.agreement import mean_edge_effects

#: The fewest edges whose share is drawn: of fewer, one edge more or less is most of the curve.
FEWEST = 5

#: Told apart without color, too.
_DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)))


@checked
@paper_style
def edge_agreement(exact: pd.DataFrame | StoredTable, estimates: Mapping[str, pd.DataFrame | StoredTable]) -> Figure:
    """Draw which share of the strongest edges each estimate finds, for every number of edges, one panel per corruption.

    At k on the horizontal axis, from 5 on: of the k edges with the strongest exact mean effects, the share that is also
    among the k strongest by the estimate. The dotted gray line is what a random ranking finds. The legend gives
    Spearman's rank correlation over all edges, which most edges enter with an effect near 0.

    Args:
        exact: from `patch_edges`
        estimates: from `attribute_edges`, of the same pairs, by the names that the legend gives them

    Returns:
        the figure

    Raises:
        VlmtraceError: a column is missing, there is no estimate, or no edge or pair is in both tables
    """
    if not estimates:
        raise VlmtraceError("There is no estimate to compare: give at least one, such as {'EAP': estimate}.")
    by_name = {name: mean_edge_effects(exact, table) for name, table in estimates.items()}
    corruptions = list(dict.fromkeys(corruption for found in by_name.values() for corruption in found))
    figure = new_figure(height=3.2 + 0.17 * len(by_name))
    panels = figure.subplots(1, len(corruptions), squeeze=False, sharey=True)[0]
    for axes, corruption in zip(panels, corruptions, strict=True):
        mine = {name: found[corruption] for name, found in by_name.items() if corruption in found}
        lines = [_draw_curve(axes, name, means, list(by_name).index(name)) for name, means in mine.items()]
        largest = max(len(means) for means in mine.values())
        counts = np.geomspace(FEWEST, largest, 50)
        lines += axes.plot(counts, counts / largest, color="0.5", linestyle=":", linewidth=1, label="chance", zorder=0)
        n_pairs = next(iter(mine.values())).attrs["n_pairs"]
        axes.set_title(f"{readable(corruption)} corruption (n = {n_pairs} pairs)")
        axes.set_xscale("log")
        # Plain numbers: texts of figures are drawn as they are, and a power of ten would be a formula.
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("k strongest edges")
        # Below the panel, where it covers no curve. Lines that are named by hand are listed, "_mine" too.
        axes.legend(
            lines, [str(line.get_label()) for line in lines], title="estimate (Spearman)", loc="upper center",
            bbox_to_anchor=(0.5, -0.2), alignment="left",
        )  # fmt: skip
        sns.despine(ax=axes)
    panels[0].set_ylabel("share that the estimate finds")
    return figure


def _draw_curve(axes: Axes, name: str, means: pd.DataFrame, number: int) -> Line2D:
    counts, shares = overlap_curve(means)
    spearman = means["exact"].corr(means["estimate"], method="spearman")
    (line,) = axes.plot(
        counts,
        shares,
        color=PALETTE[number % len(PALETTE)],
        linestyle=_DASHES[number % len(_DASHES)],
        linewidth=1.2,
        label=f"{name} ({spearman:.2f})",
    )
    return line


def overlap_curve(means: pd.DataFrame, n_points: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Of the k strongest edges, the share that is among the k strongest by the estimate, for some k.

    Args:
        means: with the columns exact and estimate
        n_points: how many k at most, at equal distances on a logarithmic axis

    Returns:
        the k, and the shares
    """
    counts = np.unique(np.geomspace(min(FEWEST, len(means)), len(means), n_points).round().astype(int))
    ranks = [means[name].abs().rank(ascending=False, method="first").to_numpy() for name in ("exact", "estimate")]
    # An edge is among both k strongest from its worse rank on.
    worse = np.sort(np.maximum(*ranks))
    return counts, np.searchsorted(worse, counts, side="right") / counts
