"""Attention of any module of an example's clean run: of the language side, and of the vision encoder."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.display.attention_record import AttentionRecord
from vlmtrace.display.example import Example
from vlmtrace.models import VLM

#: The vision encoder by the name that its block has in every model.
VISION = "vision_encoder"


def places(model: VLM) -> list[tuple[str, str]]:
    """Modules whose attention can be looked at, the one that looks at the image first.

    Args:
        model: any

    Returns:
        (block, module)
    """
    main = (model.head_block.name, model.image_module)
    every = [(block.name, module) for block in model.blocks.values() for module in block.attention_modules]
    return [main, *(place for place in every if place != main)]


def record_of(example: Example, block: str, module: str) -> AttentionRecord:
    """Attention of one module in the clean run.

    Of the language side, rows are the tokens of the text: those of image tokens are left out, so that what is kept
    grows with the image only once. Of the vision encoder, rows are its tokens that are no patches ([CLS]), and the mean
    over all patches.

    Args:
        example: whose clean run
        block: e.g. "text_encoder"
        module: e.g. "self_attention"

    Returns:
        the record; without patches where the module does not look at the image

    Raises:
        VlmtraceError: there is no such module, it gives no weights, or the vision encoder works on several tiles
    """
    model = example.model
    one_of(f"{block}.{module}", [".".join(place) for place in places(model)], f"attention of {model.name}")
    if (block, module) == places(model)[0]:
        return example.attention()
    return example.keep(("attention record", block, module), lambda: _record(example, block, module))


def _record(example: Example, block: str, module: str) -> AttentionRecord:
    model = example.model
    found = model.attention(example.inputs(), block, module)
    if found.shape[1] != 1:
        raise VlmtraceError(
            f"The vision encoder of {model.name} works on {found.shape[1]} tiles of this image, each by itself: what "
            "its heads look at is not drawn then."
        )
    weights, looked_at = found[:, 0].cpu().numpy(), _keys_block(model, block, module)
    queries, keys = example.tokens(block), example.tokens(looked_at)
    patches, boxes = _patches(example, looked_at)
    at_image = np.zeros(len(queries), dtype=bool)
    at_image[_patches(example, block)[0]] = True
    rows, tokens = weights[:, :, ~at_image], queries[~at_image]
    if block == VISION:
        mean = pd.DataFrame({"position": [-1], "token": ["patches"], "token_role": ["mean over patches"]})
        rows = np.concatenate([rows, weights[:, :, at_image].mean(axis=2, keepdims=True)], axis=2)
        tokens = pd.concat([tokens, mean], ignore_index=True)
    return AttentionRecord(block, module, rows, tokens.reset_index(drop=True), keys, patches, boxes)


def _keys_block(model: VLM, block: str, module: str) -> str:
    """The block whose positions a module's keys are."""
    if module != "cross_attention":
        return block
    # The text encoder looks at the image, and a decoder behind it at what the text encoder made of it.
    return model.image_block if block == model.head_block.name else model.head_block.name


def _patches(example: Example, block: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a block that have a place in the image, and where."""
    at_image = example.image_positions(block)
    if not at_image.any():
        return np.empty(0, dtype=int), np.empty((0, 4))
    cells = example.cells(block)
    placed = ~np.isnan(cells).any(axis=1)
    return at_image.nonzero()[0][placed], cells[placed]
