"""The layers in which attention was cut together, as the rows of a table of knockouts tell them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd


def layers_of_window(cut: pd.DataFrame, place: Mapping[str, Any]) -> list[int]:
    """Find the layers that were cut at once around one layer.

    Args:
        cut: from `knock_out_attention`
        place: block, module and layer (the middle of the window)

    Returns:
        their numbers; the layer alone where the table does not tell how many were cut

    Example:
        >>> place = {"block": "language_model", "module": "self_attention", "layer": 1}
        >>> rows = pd.DataFrame([place | {"token": "4 layers"}, place | {"layer": 3, "token": "5 layers"}])
        >>> layers_of_window(rows, place)
        [0, 1, 2, 3]
    """
    layer = int(place["layer"])
    mine = cut[(cut["block"] == place["block"]) & (cut["module"] == place["module"])]
    said = mine.loc[mine["layer"] == layer, "token"] if "token" in mine else pd.Series(dtype=str)
    if said.empty or not re.match(r"\d+ layers", str(said.iloc[0])):
        return [layer]
    size, _, named = str(said.iloc[0]).partition(" layers")
    if named.startswith(": "):
        return [int(one) for one in named[2:].split(", ")]
    # Windows at the ends are cut short: the largest says how far they reach on both sides.
    whole = mine["token"].astype(str).str.extract(r"^(\d+) layers")[0].dropna().astype(int).max()
    first = max(0, layer - (int(whole) - 1) // 2)
    return list(range(first, first + int(size)))


def layers_in_words(layers: list[int], layer: int) -> str:
    """Name the layers of a window.

    Args:
        layers: that were cut
        layer: the middle of the window

    Returns:
        the words, to stand behind "in"

    Example:
        >>> layers_in_words([7], 7), layers_in_words([5, 6, 7, 8], 6)
        ('layer 7', '4 layers around layer 6')
    """
    return f"layer {layer}" if len(layers) == 1 else f"{len(layers)} layers around layer {layer}"
