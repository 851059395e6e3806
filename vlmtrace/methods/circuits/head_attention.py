"""What one head attends to in one pair, for its card."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display.selection import Selection
from vlmtrace.display.session import Session
from vlmtrace.display.style import ATTENTION, new_figure, paper_style

#: Attention of more text tokens than this is not sent: a card has no room for it.
MOST_TOKENS = 160


class HeadAttention(NamedTuple):
    """What one head attends to in the clean run, from the tokens of the text.

    Attributes:
        queries: position, token, token_role of the rows; image tokens are left out
        keys: position, token, token_role of the columns
        weights: (query, key), float32; rows sum to 1
        patches: (patch,), the keys that stand for a place in the image; empty where the head does not see the image
        boxes: (patch, 4): top, left, bottom, right in fractions of the image
    """

    queries: pd.DataFrame
    keys: pd.DataFrame
    weights: np.ndarray
    patches: np.ndarray
    boxes: np.ndarray


def head_attention(session: Session, chosen: Selection | None) -> HeadAttention:
    """Attention of a head in the clean run of a session's example, from the tokens of the text.

    Args:
        session: whose example
        chosen: a head

    Raises:
        VlmtraceError: the head's module gives no attention weights, or the prompt is too long to be drawn
    """
    assert chosen is not None and chosen.layer is not None  # it is a head
    model, example = session.model, session.example
    weights = model.attention(example.inputs(), chosen.block, chosen.module)[chosen.layer, 0, chosen.head].cpu().numpy()
    keys_block = chosen.block
    if chosen.module == "cross_attention":
        # The text encoder looks at the image, and a decoder behind it at what the text encoder made of it.
        keys_block = model.image_block if chosen.block == model.head_block.name else model.head_block.name
    queries, keys = example.tokens(chosen.block), example.tokens(keys_block)
    text = ~example.image_positions(chosen.block)[: len(queries)]
    if text.sum() > MOST_TOKENS:
        raise VlmtraceError(
            f"The prompt has {int(text.sum())} tokens, more than the {MOST_TOKENS} that a card draws: look at it in "
            "Attention."
        )
    at_image = example.image_positions(keys_block)
    patches, boxes = np.empty(0, dtype=int), np.empty((0, 4))
    if at_image.any():
        cells = example.cells(keys_block)
        placed = ~np.isnan(cells).any(axis=1)
        patches, boxes = at_image.nonzero()[0][placed], cells[placed]
    return HeadAttention(queries[text].reset_index(drop=True), keys, weights[text], patches, boxes)


@paper_style
def draw_attention(found: HeadAttention, title: str) -> Figure:
    """Draw attention from each token of the text to each key, the image's patches in sum.

    Args:
        found: what the head attends to
        title: of the figure
    """
    words = ~np.isin(np.arange(len(found.keys)), found.patches)
    columns = found.keys["token"].astype(str)[words].tolist()
    matrix = found.weights[:, words]
    if len(found.patches):
        matrix = np.column_stack([found.weights[:, found.patches].sum(1), matrix])
        columns = ["image", *columns]
    figure = new_figure(height=3.2)
    axes = figure.subplots()
    shown = axes.imshow(matrix, cmap=ATTENTION, vmin=0, vmax=float(matrix.max()) or 1, aspect="auto")
    axes.set_yticks(range(len(found.queries)), found.queries["token"].astype(str))
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set(xlabel="looked at", ylabel="looks")
    figure.colorbar(shown, ax=axes).set_label("attention")
    figure.suptitle(title)
    return figure
