"""Explorers: one example at a time, seen from the side that a few controls choose.

    vlmtrace.widgets.module_explorer(model, pairs, module_patching)      # as the last line of a notebook's cell

Each is a plain function that draws into an empty figure (`draw_modules`, `draw_heads`, `draw_attention_on_image`), all
of its settings optional, and an `Explorer` that redraws it when a control changes. What the browser draws itself
(`Ask`, `Attention`, `RelevancyView`, `CausalView`, `Patching`, all of them: `explorer`) lives in `vlmtrace.explore`.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure, FigureBase

from vlmtrace.corruption import CORRUPTIONS
from vlmtrace.errors import VlmtraceError, one_of
from vlmtrace.explore import Ask as Ask
from vlmtrace.explore import Attention as Attention
from vlmtrace.explore import CausalView as CausalView
from vlmtrace.explore import Patching as Patching
from vlmtrace.explore import RelevancyView as RelevancyView
from vlmtrace.explore import explorer as explorer
from vlmtrace.explorer import Explorer, Options, dropdown, slider
from vlmtrace.models import VLM
from vlmtrace.plots.attention import draw_attention
from vlmtrace.plots.averages import check_table, patch_grids, pick, token_matrix
from vlmtrace.plots.effects import draw_patch_effects, site_title
from vlmtrace.plots.panels import effect_panel, head_panel, image_panel, masks_of, outline_legend, outline_masks
from vlmtrace.plots.style import PAGE_WIDTH, effect_limit, readable, signed_colorbar, thin_ticks
from vlmtrace.regions import on_image
from vlmtrace.tokens import token_table

#: The choice of a position that stands for all of them.
ALL_POSITIONS = "sum"


# Modules -----------------------------------------------------------------------------------------------------------


def module_explorer(model: VLM, pairs: pd.DataFrame, module_patching: pd.DataFrame) -> Explorer:
    """Where does patching restore the answer to one pair? Choose the pair, the corruption and the module.

    Raises:
        VlmtraceError: a table lacks a column, or they have no pair in common.
    """
    shown = _shared_pairs(pairs, module_patching, "module_patching")
    sites = module_patching[["block", "module"]].drop_duplicates().itertuples(index=False, name=None)
    options = [(f"{readable(block)}: {readable(module)}", (block, module)) for block, module in sites]
    controls = {
        "sample_id": dropdown("pair", _pair_options(shown)),
        "corruption": dropdown("corruption", [(name, name) for name in module_patching["corruption"].unique()]),
        "site": dropdown("module", options, preferred=(model.head_block.name, model.head_block.head_modules[-1])),
    }
    return Explorer(
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
    pair = _chosen_pair(pairs, sample_id)
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
    runs, axes = _runs_above(figure, 1.2 + 0.15 * max(effects["layer"].nunique(), 4))
    _draw_runs(runs, pair, effects["corruption"].iloc[0])
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
    grids = patch_grids(effects[effects["layer"].isin(chosen)], model.patch_grid(_clean_inputs(model, pair)))
    figure.set_size_inches(PAGE_WIDTH, 1.35 + PAGE_WIDTH / (len(chosen) + 2))
    axes = figure.subplots(1, len(chosen) + 2)
    draw_patch_effects(axes, pair, grids, limit)
    signed_colorbar(figure, axes, limit, effects["patching_effect"].dropna(), "one patch of this pair alone (n = 1)")


# Heads -------------------------------------------------------------------------------------------------------------


def head_explorer(model: VLM, pairs: pd.DataFrame, head_patching: pd.DataFrame) -> Explorer:
    """Which heads restore the answer to one pair? Choose the pair, the corruption, the module and the position.

    Raises:
        VlmtraceError: a table lacks a column, or they have no pair in common.
    """
    shown = _shared_pairs(pairs, head_patching, "head_patching")
    modules = [(readable(module), module) for module in head_patching["module"].unique()]

    def positions(settings: Mapping[str, Any]) -> Options:
        rows = head_patching[head_patching["sample_id"] == settings["sample_id"]].drop_duplicates("position")
        tokens = rows.sort_values("position")[["position", "token", "token_role"]].itertuples(index=False, name=None)
        return [("sum over positions", ALL_POSITIONS), *((_token_label(*token), token[0]) for token in tokens)]

    controls = {
        "sample_id": dropdown("pair", _pair_options(shown)),
        "corruption": dropdown("corruption", [(name, name) for name in head_patching["corruption"].unique()]),
        "module": dropdown("module", modules, preferred=model.head_block.head_modules[-1]),
        "position": dropdown("position", positions({"sample_id": shown["sample_id"].iloc[0]})),
    }
    draw = functools.partial(draw_heads, pairs=shown, head_patching=head_patching)
    return Explorer(draw, controls, follow={"position": positions})


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
    pair = _chosen_pair(pairs, sample_id)
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
        where = f"patched at {_token_label(*effects[['position', 'token', 'token_role']].iloc[0])}"
    cells = effects.groupby(["layer", "head"])["patching_effect"].sum(min_count=1)

    matrix = cells.unstack("head")
    annotate = matrix.shape[1] <= 16 and len(matrix) <= 12
    runs, axes = _runs_above(figure, 1.2 + (0.28 if annotate else 0.13) * len(matrix))
    _draw_runs(runs, pair, effects["corruption"].iloc[0])
    head_panel(axes, matrix, limit, annotate)
    signed_colorbar(figure, [axes], limit, cells.dropna(), f"{where}, this pair alone (n = 1)")
    figure.suptitle(site_title(effects))


# Attention ---------------------------------------------------------------------------------------------------------


def attention_explorer(model: VLM, pairs: pd.DataFrame) -> Explorer:
    """What does one head look at? Choose the pair, the layer, the head and the token that looks.

    Attention is read from the clean run, of the first module of the model's head block that looks at the image.

    Raises:
        VlmtraceError: the table of pairs lacks a column or has no row.
    """
    pairs = _told_apart(check_table(pairs, ["sample_id", "clean_image", "clean_prompt"], "pairs"))
    attention_of = _remember_last(functools.partial(image_attention, model))
    block = model.head_block

    def queries(settings: Mapping[str, Any]) -> Options:
        tokens = attention_of(_chosen_pair(pairs, settings["sample_id"])).tokens
        return [(_token_label(*token), token[0]) for token in tokens.itertuples(index=False, name=None)]

    first = pairs["sample_id"].iloc[0]
    roles = attention_of(_chosen_pair(pairs, first)).tokens.set_index("position")["token_role"]
    options = roles.index[roles == "correct"]
    controls = {
        "sample_id": dropdown("pair", _pair_options(pairs)),
        "layer": slider("layer", block.n_layers),
        "head": slider("head", block.n_heads),
        "position": dropdown("token", queries({"sample_id": first}), int(options[0]) if len(options) else None),
    }
    draw = functools.partial(draw_attention_on_image, pairs=pairs, attention_of=attention_of)
    return Explorer(draw, controls, follow={"position": queries})


def draw_attention_on_image(
    figure: Figure,
    *,
    pairs: pd.DataFrame,
    attention_of: Callable[[pd.Series], ImageAttention],
    sample_id: str | None = None,
    layer: int = 0,
    head: int = 0,
    position: int = 0,
) -> None:
    """The clean image of a pair, and the attention of one head and token over it, with the masks' outlines.

    Args:
        attention_of: from a row of the pairs to its attention, e.g. `functools.partial(image_attention, model)`
        sample_id: default: the first pair
        position: of the token that looks

    Raises:
        VlmtraceError: there is no such pair, layer, head or position.
    """
    pair = _chosen_pair(pairs, sample_id)
    attention = attention_of(pair)
    chosen = {"layer": layer, "head": head, "position": position}
    for (name, index), count in zip(chosen.items(), attention.weights.shape, strict=False):
        if not 0 <= index < count:
            raise VlmtraceError(f"There is no {name} {index} for {pair['sample_id']}: choose one of 0 to {count - 1}.")
    token = attention.tokens.set_index("position").loc[position]
    figure.set_size_inches(6, 3.8)
    draw_attention(figure, pair["clean_image"], attention.weights[layer, head, position], masks_of(pair))
    query = _token_label(position, token["token"], token["token_role"])
    figure.suptitle(f"{pair['clean_prompt']}\n{readable(attention.module)} {layer}.{head} from {query}")


class ImageAttention(NamedTuple):
    """Where every head of a module looks in one pair's clean run.

    Attributes:
        module: whose attention it is
        weights: (layer, head, query position, row, column) over the image, see `regions.on_image`
        tokens: position, token, token_role of the queries
    """

    module: str
    weights: np.ndarray
    tokens: pd.DataFrame


def image_attention(model: VLM, pair: pd.Series, module: str | None = None) -> ImageAttention:
    """Attention to the image in the clean run of one pair.

    Args:
        pair: a row of the pairs table
        module: of the model's head block; default: the one by which it looks at the image

    Raises:
        VlmtraceError: there is no such module, it does not look at the image, or no token stands for a place in it.
    """
    block = model.head_block
    module = one_of(module or model.image_module, block.attention_modules, f"attention of {block.name}")
    if module != model.image_module:
        raise VlmtraceError(f"{module} of {block.name} does not look at the image: choose {model.image_module}.")
    inputs = _clean_inputs(model, pair)
    weights = model.attention(inputs, block.name, module)[:, 0].cpu().numpy()
    tokens = token_table(model, pair.to_dict(), block.name, inputs)
    at_image = model.image_positions(inputs, model.image_block)
    boxes = model.image_cells(pair["clean_image"], inputs, model.image_block)
    return ImageAttention(module, on_image(weights[..., at_image], boxes), tokens)


# What they share ---------------------------------------------------------------------------------------------------


def _remember_last(function: Callable[[pd.Series], ImageAttention]) -> Callable[[pd.Series], ImageAttention]:
    """Keep the result for the pair asked for last: a change of head needs no forward pass."""
    kept: dict[str, ImageAttention] = {}

    def remembering(pair: pd.Series) -> ImageAttention:
        if pair["sample_id"] not in kept:
            found = function(pair)
            kept.clear()
            kept[pair["sample_id"]] = found
        return kept[pair["sample_id"]]

    return remembering


def _shared_pairs(pairs: pd.DataFrame, effects: pd.DataFrame, what: str) -> pd.DataFrame:
    """The pairs that have effects."""
    check_table(pairs, ["sample_id", "clean_image", "corrupt_image", "clean_prompt", "corrupt_prompt"], "pairs")
    check_table(
        effects, ["sample_id", "corruption", "block", "module", "layer", "position", "token", "token_role"], what
    )
    shown = pairs[pairs["sample_id"].isin(effects["sample_id"])]
    if shown.empty:
        raise VlmtraceError(f"No pair of the pairs table is in the {what} table: pass tables of the same task and run.")
    return shown


def _told_apart(pairs: pd.DataFrame) -> pd.DataFrame:
    """A sample_id is unique in its task only: where there are several tasks, let it begin with the task."""
    if "task" not in pairs or pairs["task"].nunique() == 1:
        return pairs
    return pairs.assign(sample_id=pairs["task"] + "/" + pairs["sample_id"])


def _pair_options(pairs: pd.DataFrame) -> Options:
    return [(f"{row.sample_id}: {row.clean_prompt}", row.sample_id) for row in pairs.itertuples()]


def _chosen_pair(pairs: pd.DataFrame, sample_id: str | None) -> pd.Series:
    """The row of one pair; None: the first."""
    if sample_id is None:
        return pairs.iloc[0]
    return pairs[pairs["sample_id"] == one_of(sample_id, pairs["sample_id"], "sample_id")].iloc[0]


def _token_label(position: int, token: str, role: str) -> str:
    return f"{position}: {token}" + ("" if role == token else f" ({role})")


def _clean_inputs(model: VLM, pair: pd.Series) -> Any:
    return model.encode([pair["clean_image"]], [model.prompt_text(pair["clean_prompt"])])


def _runs_above(figure: Figure, height: float) -> tuple[FigureBase, Any]:
    """Room for both runs, and axes of about `height` inches below."""
    figure.set_size_inches(PAGE_WIDTH, 2.9 + height)
    grid = figure.add_gridspec(2, 1, height_ratios=[2.2, height])
    return figure.add_subfigure(grid[0]), figure.add_subplot(grid[1])


def _draw_runs(panel: FigureBase, pair: pd.Series, corruption: str) -> None:
    """The images that the clean and the corrupt run see, under their prompts and, where known, the model's answers."""
    axes = panel.subplots(1, 2)
    image, prompt = CORRUPTIONS.get(corruption, ("clean_image", "clean_prompt"))
    runs: Sequence[tuple[str, str, str]] = [("clean", "clean_image", "clean_prompt"), (corruption, image, prompt)]
    masks = masks_of(pair)
    for place, (run, image_column, prompt_column) in zip(axes, runs, strict=True):
        size = image_panel(place, pair[image_column])
        if image_column == "clean_image":  # the masks are those of the clean image
            outline_masks(place, masks, size)
        said = pair.get("generated_answer" if run == "clean" else f"{run}_generated_answer")
        answer = f" — {said}" if isinstance(said, str) else ""
        name = "clean run" if run == "clean" else "corrupt run"
        place.set_title(textwrap.fill(f"{name}: {pair[prompt_column]}{answer}", 60))
    outline_legend(panel, masks)
