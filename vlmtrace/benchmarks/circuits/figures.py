"""The figure of the benchmark."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlmtrace.benchmarks.circuits.report import Found
from vlmtrace.display.style import PALETTE, new_figure, paper_style

#: How models are told apart.
MARKERS = {"llava": "o", "blip": "s"}


@paper_style
def benchmark_figure(found: Found) -> Figure:
    """Draw area under ROC and precision at the true size of every method, over edges above and over heads below.

    Black: mean over models, with its 95 % interval. Small marks: each model, averaged over seeds and corruptions. The
    dotted line is what a random ranking has.

    Args:
        found: what was measured
    """
    counts = [found.of(of)["method"].nunique() for of in ("edges", "heads")]
    figure = new_figure(height=1.3 + 0.16 * sum(counts))
    panels = figure.subplots(2, 2, height_ratios=counts, squeeze=False)
    for row, of in zip(panels, ("edges", "heads"), strict=True):
        for axes, figure_name, label in zip(
            row, ("auc", "precision"), ("area under ROC", "precision at the true size"), strict=True
        ):
            _draw(axes, found, of, figure_name)
            axes.set_title(f"{of}: {label}")
        row[1].set_yticklabels([])
    _legend(panels[0][0], found)
    return figure


def _draw(axes: Axes, found: Found, of: str, figure: str) -> None:
    summary = found.summary(of, figure)
    names = list(summary.index)
    places = np.arange(len(names))[::-1]
    models = found.of(of).groupby(["method", "model"], observed=True)[figure].mean()
    for place, name in zip(places, names, strict=True):
        mine = models[name]
        shifts = np.linspace(-0.25, 0.25, len(mine)) if len(mine) > 1 else [0.0]
        for shift, (model, value) in zip(shifts, mine.items(), strict=True):
            axes.plot(value, place + shift, **_look(model))
    errors = np.abs(summary[["low", "high"]].to_numpy().T - summary["mean"].to_numpy())
    axes.errorbar(
        summary["mean"], places, xerr=np.nan_to_num(errors), fmt="|", color="black", markersize=7, linewidth=1, zorder=3
    )
    chance = 0.5 if figure == "auc" else float((found.of(of)["n_true"] / found.of(of)["n"]).mean())
    axes.axvline(chance, color="0.5", linestyle=":", linewidth=1, zorder=0)
    axes.set_yticks(places, names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="y", color="0.92", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _look(model: str) -> dict:
    kinds = ["chain", "backup", "against"]
    kind = next((i for i, name in enumerate(kinds) if name in model), len(kinds))
    marker = next((mark for name, mark in MARKERS.items() if name in model), "^")
    return {"marker": marker, "color": PALETTE[kind], "markersize": 3, "linestyle": "none", "alpha": 0.8}


def _legend(axes: Axes, found: Found) -> None:
    for model in dict.fromkeys(found.rows["model"]):
        axes.plot([], [], label=model, **_look(model))
    axes.legend(loc="upper left")  # nothing ranks edges so far below chance
