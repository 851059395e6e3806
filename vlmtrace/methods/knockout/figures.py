"""What the clean run loses to a knockout."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from vlmtrace.core.arguments import checked
from vlmtrace.core.schema import check_table
from vlmtrace.display.panels import by_unit, layer_lines, mean_error_bar
from vlmtrace.display.style import PALETTE, legend_below, new_figure, paper_style
from vlmtrace.methods.patching.figures import REGION_COLUMNS

#: What the axis of a knockout's effect says.
_LOST_LABEL = "share of the gap lost\n(−1 = all of it)"
#: Where LD lies halfway between the clean and the corrupt run.
HALF_LOST = -0.5


@checked
@paper_style
def knockout_effects(cut: pd.DataFrame, replaced: pd.DataFrame | None = None) -> Figure:
    """Draw what a clean run loses: left by attention knockout, right by replacing image tokens by their mean.

    A dashed line stands at −.5, where the answer is halfway between the clean and the corrupt run.

    Args:
        cut: from `knock_out_attention`, of one corruption
        replaced: from `replace_image_tokens`, of the same corruption; None: the left panel alone

    Returns:
        the figure: means over pairs, with 95 % intervals over units

    Raises:
        VlmtraceError: a column is missing or there is no row
    """
    cut = check_table(cut, REGION_COLUMNS, "module_patching")
    figure = new_figure(height=3.1)
    panels = figure.subplots(1, 1 if replaced is None else 2, sharey=True, squeeze=False)[0]
    layer_lines(panels[0], cut, "token_role")
    legend_below(figure, panels[0])
    window = cut["token"].str.extract(r"(\d+)", expand=False).astype(int).max()
    panels[0].set_xlabel(f"layer (middle of a window of {window})")
    panels[0].set_ylabel(_LOST_LABEL)
    panels[0].set_title("attention cut")
    if replaced is not None:
        replaced = check_table(replaced, REGION_COLUMNS, "module_patching")
        sns.pointplot(
            by_unit(replaced, ["token_role"]),
            x="token_role",
            y="patching_effect",
            color=PALETTE[7],
            linestyle="none",
            errorbar=mean_error_bar,
            ax=panels[1],
        )
        panels[1].axhline(0, color="0.6", linewidth=0.6, zorder=0)
        panels[1].set(xlabel="region", title="image tokens replaced by their mean")
        panels[1].tick_params(axis="x", labelrotation=30)
        sns.despine(ax=panels[1])
    for axes in panels:
        axes.axhline(HALF_LOST, color="0.3", linestyle="--", linewidth=0.8, zorder=0)
    panels[0].annotate(
        "halfway between clean and corrupt", (0.02, HALF_LOST), xycoords=("axes fraction", "data"), ha="left",
        va="bottom", fontsize=7, color="0.3",
    )  # fmt: skip
    figure.suptitle(f"Clean run, knocked out (n = {cut['sample_id'].nunique()} pairs; bars are 95 % intervals)")
    return figure
