"""Which layer of a table of words is no layer, but what leaves the last one."""

from __future__ import annotations

import pandas as pd


def output_layer(patch_words: pd.DataFrame) -> int | None:
    """The number under which a table has what leaves the last layer.

    Args:
        patch_words: from `word_layers`, of all layers or of some; without the column is_output, which tables of earlier
            versions lack, its largest number counts

    Returns:
        the number; None where the table does not have it
    """
    layers = patch_words["layer"]
    if "is_output" in patch_words:
        layers = layers[patch_words["is_output"].astype(bool)]
    return int(layers.max()) if len(layers) else None
