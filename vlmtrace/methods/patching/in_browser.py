"""Patches, effects and answers as the browser is told them: in words, and in numbers that JSON has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.display.example import Example
from vlmtrace.display.wording import readable
from vlmtrace.methods.patching.intervention import Patch


def told(example: Example, patch: Patch) -> dict[str, Any]:
    """A patch, with its name in a list and in a picture.

    Args:
        example: whose tokens stand at its positions
        patch: with indices of positions

    Returns:
        the patch's fields, text and short
    """
    tokens = example.tokens(patch.block).set_index("position")["token"]
    where = (
        "everywhere" if patch.positions is None else "at " + ", ".join(f"{tokens[i]} ({i})" for i in patch.positions)
    )
    heads = "" if patch.heads is None else ", head " + ", ".join(f"{patch.layer}.{head}" for head in patch.heads)
    text = f"{readable(patch.block)}, {readable(patch.module)}, layer {patch.layer}{heads}, {where}"
    # In the waterfall a head is named by its numbers, and what is no head by its layer.
    short = f"layer {patch.layer}" if patch.heads is None else ", ".join(f"{patch.layer}.{h}" for h in patch.heads)
    if patch.positions is not None:
        at = ", ".join(tokens[i] for i in patch.positions)
        is_short = len(patch.positions) < 4 and len(at) < 16
        short += f" at {at}" if is_short else f" at {len(patch.positions)} positions"
    return {**patch._asdict(), "text": text, "short": short}


def worth_showing(table: pd.DataFrame, options: list[int], least: float = 0.005) -> pd.DataFrame:
    """The tokens that have a share in any run, and the two options whatever theirs; at most six.

    Args:
        table: of `Outcome.table`
        options: ids of the two options
        least: the least share
    """
    share = table[["clean", "corrupt", "patched"]].max(axis=1)
    return table[(share >= least) | table["token_id"].isin(options)].head(6)


def number(value: float) -> float | None:
    """A number as JSON has it; None where it is missing.

    Args:
        value: any
    """
    return float(value) if np.isfinite(value) else None


def rows_of(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    """A table's rows as JSON has them.

    Args:
        table: None: no rows
    """
    if table is None:
        return []
    return [
        {str(key): number(value) if isinstance(value, float) else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]


def by_layer(effects: pd.DataFrame, columns: str, n_layers: int) -> list[list[float | None]]:
    """Layer × position or head; None where a layer lacks the module, or has fewer heads than others.

    Args:
        effects: one row per layer and column
        columns: "position" or "head"
        n_layers: of the block
    """
    matrix = effects.pivot(index="layer", columns=columns, values="patching_effect").sort_index(axis=1)
    return [[number(value) for value in row] for row in matrix.reindex(range(n_layers)).to_numpy()]
