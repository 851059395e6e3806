"""Heads as (module, layer, head), checked, and random ones to compare with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.schema import check_columns
from vlmtrace.models import VLM

#: A head of the model's head block: (module, layer, head).
HeadSite = tuple[str, int, int]


def every_head(model: VLM) -> list[HeadSite]:
    """All heads of a model's head block, module by module.

    Args:
        model: any

    Returns:
        (module, layer, head) each
    """
    block = model.head_block
    return [(module, layer, head) for module in block.head_modules for layer, head in block.every_head]


def check_heads(model: VLM, heads: Sequence[HeadSite]) -> list[HeadSite]:
    """Check that heads exist.

    Args:
        model: whose head block has them
        heads: (module, layer, head) each

    Returns:
        the heads, as plain numbers

    Raises:
        VlmtraceError: the model has no such module, layer or head
    """
    block = model.head_block
    for module, layer, head in heads:
        one_of(module, block.head_modules, f"module of {block.name}")
        if not (0 <= layer < block.n_layers and 0 <= head < block.heads_at(layer)):
            most = "at most " if block.heads else ""
            raise VlmtraceError(
                f"The ranking names head {head} of layer {layer}, but {block.name} of {model.name} has "
                f"{block.n_layers} layers of {most}{block.n_heads} heads: rank the heads of this model."
            )
    return [(module, int(layer), int(head)) for module, layer, head in heads]


def ranked_heads(model: VLM, ranking: pd.DataFrame | Sequence[HeadSite]) -> list[HeadSite]:
    """A ranking as (module, layer, head), each of them checked to exist and to stand there once.

    Args:
        model: whose head block has them
        ranking: from `rank_heads`, or (module, layer, head) in order

    Returns:
        the heads in order

    Raises:
        VlmtraceError: a head is unknown, or ranked twice, or none is ranked
    """
    if isinstance(ranking, pd.DataFrame):
        check_columns(ranking, ["module", "layer", "head"], "ranking")
        ranking = list(ranking[["module", "layer", "head"]].itertuples(index=False, name=None))
    heads = check_heads(model, ranking)
    if not heads or len(set(heads)) < len(heads):
        raise VlmtraceError("The ranking must name at least one head, and each head once: use rank_heads.")
    return heads


def random_order(model: VLM, ranked: Sequence[HeadSite], generator: np.random.Generator) -> list[HeadSite]:
    """Heads drawn without replacement, each from the heads of the module and layer that stand at its rank.

    Args:
        model: whose heads are drawn
        ranked: the ranking to match
        generator: of random numbers

    Returns:
        as many heads; the first k of them are of the same modules and layers as the first k ranked
    """
    block = model.head_block
    layers = dict.fromkeys((module, layer) for module, layer, _ in ranked)
    shuffled = {key: iter(generator.permutation(block.heads_at(key[1])).tolist()) for key in layers}
    return [(module, layer, next(shuffled[module, layer])) for module, layer, _ in ranked]
