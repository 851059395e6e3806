"""One map of a run: mean effects of every module of the block that reads the question."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vlmtrace.core.arguments import Positive, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_table, pick
from vlmtrace.display.aggregation import RoleMeans, role_means
from vlmtrace.display.panels import effect_panel, emphasize_options
from vlmtrace.display.style import effect_limit, new_figure, paper_style, signed_colorbar
from vlmtrace.display.wording import readable

_COLUMNS = ["sample_id", "corruption", "block", "module", "layer", "position", "token_role", "patching_effect"]

#: Modules from left to right; others follow.
_ORDER = ("cross_attention", "self_attention", "mlp", "residual")

#: More roles than these stand upright below a panel, where slanted they would touch.
_SLANTED = 8


@checked
@paper_style
def mean_effect_maps(
    module_patching: pd.DataFrame,
    block: str | None = None,
    corruption: str | None = None,
    limit: Positive | None = None,
) -> Figure:
    """Draw the mean patching effect, layer × token role, of every module of a block: one row of panels per task.

    All pairs of a task are averaged, whatever their category and the order of their options; positions that share a
    role are averaged within the pair first. `effect_heatmap` draws one module by kinds of questions.

    Args:
        module_patching: from `patch_modules`; with a column task, tasks are drawn apart
        block: e.g. "text_encoder"; None: the only one in the table
        corruption: "image" or "text"; None: the only one in the table
        limit: colors range over −limit … limit; None: the smallest round number that holds all means

    Returns:
        the figure; all panels share one range of colors, which the bar states

    Raises:
        VlmtraceError: a column is missing, a choice is unknown or left open, or all effects are missing
    """
    check_table(module_patching, _COLUMNS, "module_patching")
    effects = pick(module_patching, "module_patching", block=block, corruption=corruption)
    tasks = list(dict.fromkeys(effects["task"])) if "task" in effects else [None]
    found = set(effects["module"])
    modules = [name for name in _ORDER if name in found] + sorted(found - set(_ORDER))
    panels = [(task, module, _means(effects, task, module)) for task, module in itertools.product(tasks, modules)]
    drawn = [value for *_, means in panels if means for value in means.matrix.to_numpy().flat if np.isfinite(value)]
    if not drawn:
        raise VlmtraceError("All effects are missing: the runs of these pairs do not differ.")
    limit = limit or effect_limit(drawn)
    rows = 0.95 + 0.13 * min(max(effects["layer"].nunique(), 4), 16)
    figure = new_figure(height=1.0 + len(tasks) * rows)
    grid = figure.subplots(len(tasks), len(modules), squeeze=False)
    for (task, module, means), axes in zip(panels, grid.flat, strict=True):
        axes.set_visible(means is not None)
        if means:
            effect_panel(axes, means.matrix, means.labels, limit)
            if len(means.labels) > _SLANTED:
                plt.setp(axes.get_xticklabels(), rotation=90, ha="center", va="top", rotation_mode="default")
            emphasize_options(axes, means.labels)
            axes.set_title(readable(module), loc="left")
            if module == modules[0] and task is not None:
                axes.set_ylabel(f"{readable(task)}\n(n = {means.n[1]})\nlayer")
    for axes in grid[:, 1:].flat:
        axes.set_ylabel("")
    signed_colorbar(figure, grid.flat, limit, drawn, "mean over all pairs of a task")
    site = effects.iloc[0]
    figure.suptitle(f"{readable(site['block'])}, {site['corruption']} corruption")
    return figure


def _means(effects: pd.DataFrame, task: str | None, module: str) -> RoleMeans | None:
    rows = effects[effects["module"] == module]
    return role_means(rows if task is None else rows[rows["task"] == task])
