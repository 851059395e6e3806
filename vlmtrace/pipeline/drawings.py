"""Where things stand in the report's drawings; the template draws them as SVG, in the colors of the page.

Two drawings: a strip shows the effects that a finding is the mean of, one point per unit; the other shows the model
with the mean effect of every head and region that was patched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core import stats
from vlmtrace.core.schema import UNIT
from vlmtrace.display.numbers import number
from vlmtrace.display.style import effect_limit
from vlmtrace.display.wording import readable
from vlmtrace.pipeline.candidates import REGIONS

#: Width of a strip and of the drawing of the model, in the units of SVG: pixels at 100 %.
STRIP_WIDTH, MODEL_WIDTH = 280, 900
#: Free space at both ends of a strip.
_MARGIN = 14
#: A strip has no more points than this; of more units, evenly spaced ones of the sorted effects are drawn.
MOST_POINTS = 240
#: Effects beyond these are drawn at the strip's ends.
_ENDS = (-1.0, 2.0)

#: Pixels between the parts of a block, and between blocks.
_PART_GAP, _BLOCK_GAP = 10, 34
_LARGEST_CELL = 17
#: A model of many layers is drawn no higher than this.
_HIGHEST = 210


def strip(finding: Mapping[str, Any]) -> dict[str, Any]:
    """Place the effects of a finding on a line from what changes nothing to what changes everything.

    Args:
        finding: from `strongest_findings`

    Returns:
        width; points (x, y); x of mean, low, high, zero, half, one, and control (None where there is none)
    """
    effects = finding["effects"]
    values = np.sort(stats.unit_means(effects["effect"].to_numpy(), effects[UNIT].to_numpy()).ravel())
    if len(values) > MOST_POINTS:
        values = values[np.linspace(0, len(values) - 1, MOST_POINTS).round().astype(int)]
    inside = np.clip(values, *_ENDS)
    low, high = min(0.0, inside.min()), max(1.0, inside.max())

    def x(value: float) -> float:
        share = (float(np.clip(value, low, high)) - low) / (high - low)
        return round(_MARGIN + share * (STRIP_WIDTH - 2 * _MARGIN), 1)

    # Points lie above one another by turns, so that equal effects do not hide each other.
    points = [(x(value), 12 + 5 * (index % 5)) for index, value in enumerate(inside)]
    places = {name: x(finding[name]) for name in ("mean", "low", "high")}
    control = None if pd.isna(finding["control"]) else x(finding["control"])
    places |= {"zero": x(0), "half": x(0.5), "one": x(1)}
    return {"width": STRIP_WIDTH, "points": points, **places, "control": control}


def model_drawing(parts: pd.DataFrame, findings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Place every cell of the drawing of the model.

    Args:
        parts: from `model_effects`
        findings: whose cells are marked with their number

    Returns:
        width, height, cell (width and height), limits (of the colors: region and other), blocks (name, x, parts with
        label, x, width, cells: x, y, strength from −1 to 1, title, marks, and rows: y and marks of framed layers); {}
        where there is nothing to draw
    """
    if parts.empty:
        return {}
    # Regions are many patches at once, so a color range that holds them would leave heads white.
    limits = {
        name: effect_limit(parts.loc[(parts["part"] == "region") == (name == "region"), "effect"])
        for name in ("region", "other")
    }
    grouped = [(block, [*rows.groupby("part", sort=False)]) for block, rows in parts.groupby("block", sort=False)]
    widest = sum(rows["column"].nunique() for _, its in grouped for _, rows in its)
    gaps = sum(_PART_GAP * (len(its) - 1) for _, its in grouped) + _BLOCK_GAP * (len(grouped) + 1)
    size = min(_LARGEST_CELL, (MODEL_WIDTH - gaps - 110) / widest)
    n_layers = int(parts["layer"].max()) + 1
    height = min(size, _HIGHEST / n_layers)
    x, blocks = 60.0, []
    for block, its in grouped:
        start, drawn = x, []
        for part, rows in its:
            columns = list(dict.fromkeys(rows["column"]))
            limit = limits["region" if part == "region" else "other"]
            cells = [
                {
                    "x": round(x + columns.index(row.column) * size, 1),
                    "y": round((n_layers - 1 - row.layer) * height, 1),
                    "strength": round(float(np.clip(row.effect / limit, -1, 1)), 3),
                    "title": f"{_name(str(part), row)}: {number(row.effect, 3)}",
                    "marks": _marks(row, findings),
                }
                for row in rows.itertuples()
            ]
            wide = size * len(columns)
            named = {
                int(layer): [
                    n for n, one in enumerate(findings, 1) if _is_layer_of(one, str(block), str(part), int(layer))
                ]
                for layer in sorted(rows["layer"].unique())
            }
            framed = [
                {"y": round((n_layers - 1 - layer) * height, 1), "marks": marks}
                for layer, marks in named.items()
                if marks
            ]
            label = _LABELS.get(str(part), readable(part))
            drawn.append({"label": label, "x": round(x, 1), "width": round(wide, 1), "cells": cells, "rows": framed})
            x += wide + _PART_GAP
        x -= _PART_GAP
        blocks.append({"name": readable(block), "x": round(start, 1), "parts": drawn})
        x += _BLOCK_GAP
    return {
        "width": round(x + 30, 1),
        "height": round(n_layers * height, 1),
        "cell": [round(size, 2), round(height, 2)],
        "limits": limits,
        "blocks": blocks,
    }


#: What stands above a part of a block.
_LABELS = {"self_attention": "self-attention", "cross_attention": "cross-attention", "mlp": "MLP", "region": "regions"}


def _name(part: str, row: Any) -> str:
    if part == "region":
        return f"{row.column}, layer {row.layer}"
    return f"{readable(part)}, layer {row.layer}" if part == "mlp" else f"{readable(part)} {row.layer}.{row.column}"


def _marks(row: Any, findings: Sequence[Mapping[str, Any]]) -> list[int]:
    """The numbers of the findings that name this head or region."""
    site = {"block": row.block, "module": row.part, "layer": row.layer, "head": row.column}
    region = {"layer": row.layer, "token_role": row.column}
    found = []
    for index, finding in enumerate(findings, 1):
        place = finding["place"]
        if finding["kind"] == "heads":
            named = site in place["heads"]
        else:
            named = finding["kind"] == "region" and row.part == "region" and region.items() <= place.items()
        found += [index] * named
    return found


def _is_layer_of(finding: Mapping[str, Any], block: str, part: str, layer: int) -> bool:
    """Whether a finding names a module of this layer, which is all of its heads."""
    if finding["kind"] not in ("module", "knockout"):
        return False
    place = finding["place"]
    named = place.get("layers", [place["layer"]])  # attention is cut in a window of layers
    return (place["block"], place["module"]) == (block, part) and layer in named


def model_effects(
    heads: pd.DataFrame, whole_heads: pd.DataFrame, modules: pd.DataFrame, regions: pd.DataFrame, corruption: str
) -> pd.DataFrame:
    """Mean effects over all tasks, for the drawing of the model.

    Args:
        heads: the heads table
        whole_heads: the whole_heads tables of all tasks, for blocks that the heads table does not know
        modules: the module_patching tables of all tasks; of MLPs the token role with the largest mean counts
        regions: the regions tables of all tasks; the residual stream counts
        corruption: "image" or "text"

    Returns:
        columns block, part (a module, or "region"), layer, column (head, region, or 0), effect
    """
    pieces = []
    mine = _under(regions, corruption)
    if len(mine):
        # Of decoder-only models what attention and MLPs add was patched by region, too: another quantity.
        mine = mine[mine["token_role"].isin(REGIONS) & (mine["module"] == "residual")]
        pieces.append(_means(mine.assign(part="region"), "token_role"))
    whole = _under(whole_heads, corruption)
    if len(whole) and len(heads):
        whole = whole[(whole["direction"] == "denoising") & ~whole["block"].isin(heads["block"].unique())]
        pieces.append(_means(whole.assign(part=whole["module"]), "head"))
    mine = _under(heads, corruption)
    if len(mine):
        renamed = mine.rename(columns={"mean_effect": "patching_effect"})
        pieces.append(_means(renamed.assign(part=renamed["module"]), "head"))
    mlp = _under(modules, corruption)
    if len(mlp):
        mlp = mlp[(mlp["module"] == "mlp") & ~mlp["token_role"].str.startswith("image")]
        by_role = mlp.groupby(["block", "layer", "token_role"], sort=False, observed=True)["patching_effect"].mean()
        best = by_role.groupby(["block", "layer"], sort=False, observed=True).max().reset_index(name="patching_effect")
        best = best[~best["block"].str.startswith("vision")]
        pieces.append(_means(best.assign(part="mlp", single=0), "single"))
    if not pieces:
        return pd.DataFrame(columns=["block", "part", "layer", "column", "effect"])
    found = pd.concat(pieces, ignore_index=True).dropna(subset="effect")
    known = list(dict.fromkeys([*(modules["block"] if len(modules) else []), *found["block"]]))
    order = {part: index for index, part in enumerate(("self_attention", "cross_attention", "mlp", "region"))}
    return found.sort_values(
        ["block", "part"], key=lambda names: names.map({**order, **{name: i for i, name in enumerate(known)}}),
        kind="stable", ignore_index=True,
    )  # fmt: skip


def _under(table: pd.DataFrame, corruption: str) -> pd.DataFrame:
    return table if table.empty else table[table["corruption"] == corruption]


def _means(table: pd.DataFrame, column: str) -> pd.DataFrame:
    keys = ["block", "part", "layer", column]
    means = table.groupby(keys, sort=False, observed=True)["patching_effect"].mean().reset_index()
    return means.rename(columns={column: "column", "patching_effect": "effect"})
