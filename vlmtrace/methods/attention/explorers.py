"""Notebook explorer of a head's attention on the image."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.schema import check_table
from vlmtrace.display.aggregation import unique_sample_ids
from vlmtrace.display.choices import chosen_row, remember_last, row_options
from vlmtrace.display.figure_explorer import FigureExplorer, Options, dropdown, slider
from vlmtrace.display.panels import masks_of
from vlmtrace.display.wording import head_name, token_label
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.image_regions import on_image
from vlmtrace.inputs.pictures import cells, given_images, picture_of
from vlmtrace.inputs.token_roles import token_table
from vlmtrace.methods.attention.figures import draw_attention
from vlmtrace.models import VLM
from vlmtrace.models.layer_kinds import check_has_weights


class ImageAttention(NamedTuple):
    """Where every head of a module looks in one pair's clean run.

    Attributes:
        module: whose attention it is
        weights: (layer, head, query position, row, column), shares of attention over the image, see `on_image` of
            `vlmtrace.inputs`; several images lie side by side
        tokens: columns position, token, token_role; one row per query position
    """

    module: str
    weights: np.ndarray
    tokens: pd.DataFrame


@checked
def image_attention(model: VLM, pair: pd.Series, module: str | None = None) -> ImageAttention:
    """Read the attention to the image in the clean run of one pair.

    Args:
        model: the model to run
        pair: a row of a pairs table
        module: of the model's head block; None: the one by which it looks at the image

    Returns:
        attention of all layers, heads and query positions

    Raises:
        VlmtraceError: there is no such module, it does not look at the image, or no token stands for a place in it
    """
    block = model.head_block
    check_has_weights(model.name, block)
    module = one_of(module or model.image_module, block.attention_modules, f"attention of {block.name}")
    if module != model.image_module:
        raise VlmtraceError(f"{module} of {block.name} does not look at the image: choose {model.image_module}.")
    inputs = run_inputs(model, pair.to_frame().T, "clean")
    weights = model.attention(inputs, block.name, module)[:, 0].cpu().numpy()  # (layer, head, query, key)
    tokens = token_table(model, pair.to_dict(), block.name, inputs)
    at_image = model.image_positions(inputs, model.image_block, given_images(pair))
    boxes = cells(model, pair, inputs, model.image_block)
    return ImageAttention(module, on_image(weights[..., at_image], boxes), tokens)


@checked
def attention_explorer(model: VLM, pairs: pd.DataFrame) -> FigureExplorer:
    """What does one head look at? Choose the pair, the layer, the head and the token that looks.

    The heads are those of `VLM.image_module`: the cross-attention of a question encoder, or the self-attention of a
    language model whose sequence holds the image's tokens. At first the correct option looks, where it is one token.

    Args:
        model: the model to run, once per pair that is chosen
        pairs: a pairs table; the masks' outlines are drawn where it has them

    Returns:
        the explorer; as the last line of a notebook's cell it is displayed

    Raises:
        VlmtraceError: the table of pairs lacks a column or has no row
    """
    pairs = unique_sample_ids(check_table(pairs, ["sample_id", "clean_image", "clean_prompt"], "pairs"))
    attention_of = remember_last(functools.partial(image_attention, model))
    block = model.head_block

    def queries(settings: Mapping[str, Any]) -> Options:
        tokens = attention_of(chosen_row(pairs, settings["sample_id"])).tokens
        return [(token_label(*token), token[0]) for token in tokens.itertuples(index=False, name=None)]

    first = pairs["sample_id"].iloc[0]
    roles = attention_of(chosen_row(pairs, first)).tokens.set_index("position")["token_role"]
    options = roles.index[roles == "correct"]
    controls = {
        "sample_id": dropdown("pair", row_options(pairs, "clean_prompt")),
        "layer": slider("layer", block.n_layers),
        "head": slider("head", block.n_heads),
        "position": dropdown("token", queries({"sample_id": first}), int(options[0]) if len(options) else None),
    }
    draw = functools.partial(draw_attention_on_image, pairs=pairs, attention_of=attention_of)
    return FigureExplorer(draw, controls, follow={"position": queries})


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
        figure: where to draw; its size is set
        pairs: a pairs table
        attention_of: from a row of the pairs to its attention, e.g. `functools.partial(image_attention, model)`
        sample_id: of the pair; None: the first
        layer: counted from 0
        head: counted from 0
        position: of the token that looks

    Raises:
        VlmtraceError: there is no such pair, layer, head or position
    """
    pair = chosen_row(pairs, sample_id)
    attention = attention_of(pair)
    chosen = {"layer": layer, "head": head, "position": position}
    for (name, index), count in zip(chosen.items(), attention.weights.shape, strict=False):
        if not 0 <= index < count:
            raise VlmtraceError(f"There is no {name} {index} for {pair['sample_id']}: choose one of 0 to {count - 1}.")
    token = attention.tokens.set_index("position").loc[position]
    figure.set_size_inches(6, 3.8)
    draw_attention(figure, picture_of(pair), attention.weights[layer, head, position], masks_of(pair))
    query = token_label(position, token["token"], token["token_role"])
    figure.suptitle(f"{pair['clean_prompt']}\n{head_name(attention.module, layer, head)} from {query}")
