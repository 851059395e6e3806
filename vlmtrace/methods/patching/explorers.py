"""Notebook explorers of patching effects: one pair at a time."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from vlmtrace.core.schema import pick
from vlmtrace.display.aggregation import patch_grids, token_matrix
from vlmtrace.display.choices import (
    chosen_pair,
    clean_inputs,
    draw_runs,
    pair_options,
    runs_above,
    shared_pairs,
    token_label,
)
from vlmtrace.display.figure_explorer import FigureExplorer, Options, dropdown
from vlmtrace.display.panels import effect_panel, head_panel
from vlmtrace.display.style import PAGE_WIDTH, effect_limit, readable, signed_colorbar, thin_ticks
from vlmtrace.methods.patching.figures import draw_patch_effects, site_title
from vlmtrace.models import VLM

#: The choice of a position that stands for all of them.
ALL_POSITIONS = "sum"


# Modules -----------------------------------------------------------------------------------------------------------


def module_explorer(model: VLM, pairs: pd.DataFrame, module_patching: pd.DataFrame) -> FigureExplorer:
    """Where does patching restore the answer to one pair? Choose the pair, the corruption and the module.

    Raises:
        VlmtraceError: a table lacks a column, or they have no pair in common.
    """
    shown = shared_pairs(pairs, module_patching, "module_patching")
    sites = module_patching[["block", "module"]].drop_duplicates().itertuples(index=False, name=None)
    options = [(f"{readable(block)}: {readable(module)}", (block, module)) for block, module in sites]
    controls = {
        "sample_id": dropdown("pair", pair_options(shown)),
        "corruption": dropdown("corruption", [(name, name) for name in module_patching["corruption"].unique()]),
        "site": dropdown("module", options, preferred=(model.head_block.name, model.head_block.head_modules[-1])),
    }
    return FigureExplorer(
        functools.partial(draw_modules, model=model, pairs=shown, module_patching=module_patching), controls
    )


def draw_modules(
    figure: Figure,
    *,
    model: VLM,
    pairs: pd.DataFrame,
    module_patching: pd.DataFrame,
    sample_id: str | None = None,
    corruption: str | None = None,
    site: tuple[str, str] | None = None,
) -> None:
    """Both runs of a pair, and the effect of patching one module: layer × token, or layer × image patch.

    All modules of a block share one range of colors, so that they can be compared.

    Args:
        sample_id, corruption, site (block, module): default: the first in the tables

    Raises:
        VlmtraceError: the tables have no such rows.
    """
    pair = chosen_pair(pairs, sample_id)
    rows = pick(module_patching, "module_patching", sample_id=pair["sample_id"])
    rows = pick(rows, f"module_patching of {pair['sample_id']}", corruption=corruption or rows["corruption"].iloc[0])
    block, module = site or (rows["block"].iloc[0], rows["module"].iloc[0])
    in_block = pick(rows, f"module_patching of {pair['sample_id']}", block=block)
    effects = pick(in_block, f"module_patching of {block}", module=module)
    limit = effect_limit(in_block["patching_effect"])
    figure.suptitle(site_title(effects))
    if (effects["token_role"] == "image").any():
        _draw_patches(figure, model, pair, effects, limit)
    else:
        _draw_tokens(figure, pair, effects, limit)


def _draw_tokens(figure: Figure, pair: pd.Series, effects: pd.DataFrame, limit: float) -> None:
    """Both runs above, layer × token below."""
    runs, axes = runs_above(figure, 1.2 + 0.15 * max(effects["layer"].nunique(), 4))
    draw_runs(runs, pair, effects["corruption"].iloc[0])
    matrix, tokens = token_matrix(effects)
    effect_panel(axes, matrix, tokens, limit)
    roles = effects.drop_duplicates("position").set_index("position")["token_role"].reindex(matrix.columns)
    for label, role in zip(axes.get_xticklabels(), roles, strict=True):
        label.set_fontweight("bold" if role in ("correct", "incorrect") else "normal")
    signed_colorbar(figure, [axes], limit, effects["patching_effect"].dropna(), "this pair alone (n = 1)")


def _draw_patches(figure: Figure, model: VLM, pair: pd.Series, effects: pd.DataFrame, limit: float) -> None:
    """Both images, and the effect of each patch in as many layers as there is room for."""
    layers = sorted(effects["layer"].unique())
    chosen = [layers[index] for index in thin_ticks(len(layers), at_most=6)]
    grids = patch_grids(effects[effects["layer"].isin(chosen)], model.patch_grid(clean_inputs(model, pair)))
    figure.set_size_inches(PAGE_WIDTH, 1.35 + PAGE_WIDTH / (len(chosen) + 2))
    axes = figure.subplots(1, len(chosen) + 2)
    draw_patch_effects(axes, pair, grids, limit)
    signed_colorbar(figure, axes, limit, effects["patching_effect"].dropna(), "one patch of this pair alone (n = 1)")


# Heads -------------------------------------------------------------------------------------------------------------


def head_explorer(model: VLM, pairs: pd.DataFrame, head_patching: pd.DataFrame) -> FigureExplorer:
    """Which heads restore the answer to one pair? Choose the pair, the corruption, the module and the position.

    Raises:
        VlmtraceError: a table lacks a column, or they have no pair in common.
    """
    shown = shared_pairs(pairs, head_patching, "head_patching")
    modules = [(readable(module), module) for module in head_patching["module"].unique()]

    def positions(settings: Mapping[str, Any]) -> Options:
        rows = head_patching[head_patching["sample_id"] == settings["sample_id"]].drop_duplicates("position")
        tokens = rows.sort_values("position")[["position", "token", "token_role"]].itertuples(index=False, name=None)
        return [("sum over positions", ALL_POSITIONS), *((token_label(*token), token[0]) for token in tokens)]

    controls = {
        "sample_id": dropdown("pair", pair_options(shown)),
        "corruption": dropdown("corruption", [(name, name) for name in head_patching["corruption"].unique()]),
        "module": dropdown("module", modules, preferred=model.head_block.head_modules[-1]),
        "position": dropdown("position", positions({"sample_id": shown["sample_id"].iloc[0]})),
    }
    draw = functools.partial(draw_heads, pairs=shown, head_patching=head_patching)
    return FigureExplorer(draw, controls, follow={"position": positions})


def draw_heads(
    figure: Figure,
    *,
    pairs: pd.DataFrame,
    head_patching: pd.DataFrame,
    sample_id: str | None = None,
    corruption: str | None = None,
    module: str | None = None,
    position: int | str = ALL_POSITIONS,
) -> None:
    """Both runs of a pair, and the effect of patching each head of a module: layer × head.

    All modules share one range of colors, and so do all single positions, so that they can be compared.

    Args:
        sample_id, corruption, module: default: the first in the tables
        position: where the heads are patched; "sum": the effects at all positions, added up (to first order what
            patching all of them would do)

    Raises:
        VlmtraceError: the tables have no such rows.
    """
    pair = chosen_pair(pairs, sample_id)
    rows = pick(head_patching, "head_patching", sample_id=pair["sample_id"])
    of_pair = f"head_patching of {pair['sample_id']}"
    rows = pick(rows, of_pair, corruption=corruption or rows["corruption"].iloc[0])
    effects = pick(rows, of_pair, module=module or rows["module"].iloc[0])
    if position == ALL_POSITIONS:
        limit = effect_limit(rows.groupby(["module", "layer", "head"])["patching_effect"].sum(min_count=1))
        where = "sum over positions"
    else:
        limit = effect_limit(rows["patching_effect"])
        effects = pick(effects, of_pair, position=position)
        where = f"patched at {token_label(*effects[['position', 'token', 'token_role']].iloc[0])}"
    cells = effects.groupby(["layer", "head"])["patching_effect"].sum(min_count=1)

    matrix = cells.unstack("head")
    annotate = matrix.shape[1] <= 16 and len(matrix) <= 12
    runs, axes = runs_above(figure, 1.2 + (0.28 if annotate else 0.13) * len(matrix))
    draw_runs(runs, pair, effects["corruption"].iloc[0])
    head_panel(axes, matrix, limit, annotate)
    signed_colorbar(figure, [axes], limit, cells.dropna(), f"{where}, this pair alone (n = 1)")
    figure.suptitle(site_title(effects))
