"""Notebook explorers of patching effects: one pair at a time, its modules or its heads."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_table, pick
from vlmtrace.core.stored import StoredTable, choose, in_memory, values_of
from vlmtrace.display.aggregation import patch_grids, token_matrix
from vlmtrace.display.choices import chosen_row, row_options
from vlmtrace.display.figure_explorer import FigureExplorer, Options, dropdown
from vlmtrace.display.panels import (
    effect_panel,
    emphasize_options,
    head_panel,
    image_panel,
    masks_of,
    outline_legend,
    outline_masks,
)
from vlmtrace.display.style import PAGE_WIDTH, effect_limit, signed_colorbar, thin_ticks
from vlmtrace.display.wording import readable, token_label
from vlmtrace.inputs.corruption import CORRUPTIONS, run_inputs
from vlmtrace.inputs.pictures import given_images, picture_of
from vlmtrace.inputs.token_roles import shows_image
from vlmtrace.methods.patching.figures import draw_patch_effects, site_title
from vlmtrace.models import VLM

#: The choice of a position that stands for the sum over all of them.
ALL_POSITIONS = "sum"


@checked
def module_explorer(model: VLM, pairs: pd.DataFrame, module_patching: pd.DataFrame) -> FigureExplorer:
    """Where does patching restore the answer to one pair? Choose the pair, the corruption and the module.

    Args:
        model: the model that was patched
        pairs: a pairs table; answers of the runs are shown where it has them (from `evaluate`)
        module_patching: from `patch_modules`, of some of these pairs

    Returns:
        the explorer; as the last line of a notebook's cell it is displayed

    Raises:
        VlmtraceError: a table lacks a column, or they have no pair in common
    """
    shown = _pairs_with_effects(pairs, module_patching, "module_patching")
    sites = module_patching[["block", "module"]].drop_duplicates().itertuples(index=False, name=None)
    options = [(f"{readable(block)}: {readable(module)}", (block, module)) for block, module in sites]
    controls = {
        "sample_id": dropdown("pair", row_options(shown, "clean_prompt")),
        "corruption": dropdown("corruption", [(name, name) for name in module_patching["corruption"].unique()]),
        "site": dropdown("module", options, preferred=(model.head_block.name, model.head_block.head_modules[-1])),
    }
    draw = functools.partial(draw_modules, model=model, pairs=shown, module_patching=module_patching)
    return FigureExplorer(draw, controls)


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
        figure: where to draw; its size is set
        model: the model that was patched
        pairs: a pairs table
        module_patching: from `patch_modules`
        sample_id: of the pair; None: the first
        corruption: "image" or "text"; None: the first of the pair in the table
        site: (block, module); None: the first of the pair in the table

    Raises:
        VlmtraceError: the tables have no such rows
    """
    pair = chosen_row(pairs, sample_id)
    rows = pick(module_patching, "module_patching", sample_id=pair["sample_id"])
    rows = pick(rows, f"module_patching of {pair['sample_id']}", corruption=corruption or rows["corruption"].iloc[0])
    block, module = site or (rows["block"].iloc[0], rows["module"].iloc[0])
    in_block = pick(rows, f"module_patching of {pair['sample_id']}", block=block)
    effects = pick(in_block, f"module_patching of {block}", module=module)
    limit = effect_limit(in_block["patching_effect"])
    figure.suptitle(site_title(effects))
    if shows_image(effects["token_role"]).any():
        _draw_patches(figure, model, pair, effects, limit)
    else:
        _draw_tokens(figure, pair, effects, limit)


def _draw_tokens(figure: Figure, pair: pd.Series, effects: pd.DataFrame, limit: float) -> None:
    """Both runs above, layer × token below."""
    axes = _draw_runs_above(
        figure, pair, effects["corruption"].iloc[0], 1.2 + 0.15 * max(effects["layer"].nunique(), 4)
    )
    matrix, tokens = token_matrix(effects)
    effect_panel(axes, matrix, tokens, limit)
    roles = effects.drop_duplicates("position").set_index("position")["token_role"].reindex(matrix.columns)
    emphasize_options(axes, list(roles))
    signed_colorbar(figure, [axes], limit, effects["patching_effect"].dropna(), "this pair alone (n = 1)")


def _draw_patches(figure: Figure, model: VLM, pair: pd.Series, effects: pd.DataFrame, limit: float) -> None:
    """Both images, and the effect of each patch in as many layers as there is room for."""
    layers = sorted(effects["layer"].unique())
    chosen = [layers[index] for index in thin_ticks(len(layers), at_most=6)]
    clean_inputs = run_inputs(model, pair.to_frame().T, "clean")
    grids = patch_grids(effects[effects["layer"].isin(chosen)], model.patch_grids(given_images(pair), clean_inputs))
    figure.set_size_inches(PAGE_WIDTH, 1.35 + PAGE_WIDTH / (len(chosen) + 2))
    axes = figure.subplots(1, len(chosen) + 2)
    draw_patch_effects(axes, pair, grids, limit)
    signed_colorbar(figure, axes, limit, effects["patching_effect"].dropna(), "one patch of this pair alone (n = 1)")


@checked
def head_explorer(model: VLM, pairs: pd.DataFrame, head_patching: pd.DataFrame | StoredTable) -> FigureExplorer:
    """Which heads restore the answer to one pair? Choose the pair, the corruption, the module and the position.

    Args:
        model: the model that was patched
        pairs: a pairs table; answers of the runs are shown where it has them (from `evaluate`)
        head_patching: from `patch_heads`, of some of these pairs

    Returns:
        the explorer; as the last line of a notebook's cell it is displayed

    Raises:
        VlmtraceError: a table lacks a column, or they have no pair in common
    """
    shown = _pairs_with_effects(pairs, head_patching, "head_patching")
    modules = [(readable(module), module) for module in values_of(head_patching, "module")]

    def positions(settings: Mapping[str, Any]) -> Options:
        rows = in_memory(choose(head_patching, sample_id=settings["sample_id"])).drop_duplicates("position")
        tokens = rows.sort_values("position")[["position", "token", "token_role"]].itertuples(index=False, name=None)
        return [("sum over positions", ALL_POSITIONS), *((token_label(*token), token[0]) for token in tokens)]

    controls = {
        "sample_id": dropdown("pair", row_options(shown, "clean_prompt")),
        "corruption": dropdown("corruption", [(name, name) for name in values_of(head_patching, "corruption")]),
        "module": dropdown("module", modules, preferred=model.head_block.head_modules[-1]),
        "position": dropdown("position", positions({"sample_id": shown["sample_id"].iloc[0]})),
    }
    draw = functools.partial(draw_heads, pairs=shown, head_patching=head_patching)
    return FigureExplorer(draw, controls, follow={"position": positions})


def draw_heads(
    figure: Figure,
    *,
    pairs: pd.DataFrame,
    head_patching: pd.DataFrame | StoredTable,
    sample_id: str | None = None,
    corruption: str | None = None,
    module: str | None = None,
    position: int | str = ALL_POSITIONS,
) -> None:
    """Both runs of a pair, and the effect of patching each head of a module: layer × head.

    All modules share one range of colors, and so do all single positions, so that they can be compared.

    Args:
        figure: where to draw; its size is set
        pairs: a pairs table
        head_patching: from `patch_heads`
        sample_id: of the pair; None: the first
        corruption: "image" or "text"; None: the first of the pair in the table
        module: None: the first of the pair in the table
        position: where the heads are patched; "sum": the effects at all positions, added up (to first order what
            patching all of them would do)

    Raises:
        VlmtraceError: the tables have no such rows
    """
    pair = chosen_row(pairs, sample_id)
    if isinstance(head_patching, StoredTable):
        head_patching = head_patching.only(sample_id=pair["sample_id"]).read()
    rows = pick(head_patching, "head_patching", sample_id=pair["sample_id"])
    of_pair = f"head_patching of {pair['sample_id']}"
    rows = pick(rows, of_pair, corruption=corruption or rows["corruption"].iloc[0])
    effects = pick(rows, of_pair, module=module or rows["module"].iloc[0])
    if position == ALL_POSITIONS:
        limit = effect_limit(rows.groupby(["module", "layer", "head"])["patching_effect"].sum(min_count=1))
        over = "sum over positions"
    else:
        limit = effect_limit(rows["patching_effect"])
        effects = pick(effects, of_pair, position=position)
        over = f"patched at {token_label(*effects[['position', 'token', 'token_role']].iloc[0])}"
    cells = effects.groupby(["layer", "head"])["patching_effect"].sum(min_count=1)

    matrix = cells.unstack("head")
    annotate = matrix.shape[1] <= 16 and len(matrix) <= 12
    axes = _draw_runs_above(
        figure, pair, effects["corruption"].iloc[0], 1.2 + (0.28 if annotate else 0.13) * len(matrix)
    )
    head_panel(axes, matrix, limit, annotate)
    signed_colorbar(figure, [axes], limit, cells.dropna(), f"{over}, this pair alone (n = 1)")
    figure.suptitle(site_title(effects))


def _pairs_with_effects(pairs: pd.DataFrame, effects: pd.DataFrame | StoredTable, table_name: str) -> pd.DataFrame:
    """The pairs that have effects; both tables are checked."""
    check_table(pairs, ["sample_id", "clean_image", "corrupt_image", "clean_prompt", "corrupt_prompt"], "pairs")
    needed = ["sample_id", "corruption", "block", "module", "layer", "position", "token", "token_role"]
    check_table(effects, needed, table_name)
    shown = pairs[pairs["sample_id"].isin(values_of(effects, "sample_id"))]
    if shown.empty:
        raise VlmtraceError(
            f"No pair of the pairs table is in the {table_name} table: pass tables of the same task and run."
        )
    return shown


def _draw_runs_above(figure: Figure, pair: pd.Series, corruption: str, height: float) -> Axes:
    """Draw both runs in the upper part of the figure; returns axes of about `height` inches below them."""
    figure.set_size_inches(PAGE_WIDTH, 2.9 + height)
    grid = figure.add_gridspec(2, 1, height_ratios=[2.2, height])
    runs, axes = figure.add_subfigure(grid[0]), figure.add_subplot(grid[1])
    _draw_runs(runs, pair, corruption)
    return axes


def _draw_runs(panel: FigureBase, pair: pd.Series, corruption: str) -> None:
    """The images that the clean and the corrupt run see, under their prompts and, where known, the model's answers."""
    image, prompt = CORRUPTIONS.get(corruption, ("clean_image", "clean_prompt"))
    runs: Sequence[tuple[str, str, str]] = [("clean", "clean_image", "clean_prompt"), (corruption, image, prompt)]
    masks = masks_of(pair)
    for axes, (run, image_column, prompt_column) in zip(panel.subplots(1, 2), runs, strict=True):
        size = image_panel(axes, picture_of(pair, image_column))
        if image_column == "clean_image":  # the masks are those of the clean image
            outline_masks(axes, masks, size)
        said = pair.get("generated_answer" if run == "clean" else f"{run}_generated_answer")
        answer = f" — {said}" if isinstance(said, str) else ""
        name = "clean run" if run == "clean" else "corrupt run"
        axes.set_title(textwrap.fill(f"{name}: {pair[prompt_column]}{answer}", 60))
    outline_legend(panel, masks)
