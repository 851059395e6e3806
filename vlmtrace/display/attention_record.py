"""Attention to the image and to the prompt in the clean run of an example, with the tokens that it goes from and to."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display.answers import Answer
from vlmtrace.models import VLM, Inputs


class AttentionRecord(NamedTuple):
    """Attention of one module in the clean run, with the tokens that it goes from and to.

    Attributes:
        block: whose attention
        module: of the block
        weights: (layer, head, query, key), float32; over all keys of the module, rows sum to 1
        queries: one row per row of `weights`: position, token, token_role
        keys: one row per column of `weights`: position, token, token_role
        patches: (patch,), the keys that stand for a place in the image
        boxes: (patch, 4), where those lie: top, left, bottom, right in fractions of the image
    """

    block: str
    module: str
    weights: np.ndarray
    queries: pd.DataFrame
    keys: pd.DataFrame
    patches: np.ndarray
    boxes: np.ndarray


class Asked(Protocol):
    """What attention is read from: an `Example`, which keeps what it has computed."""

    model: VLM

    def inputs(self) -> Inputs:
        """Of the clean run."""

    def answer(self) -> Answer:
        """Of the clean run."""

    def tokens(self, block: str) -> pd.DataFrame:
        """Of a block, see `Example.tokens`."""

    def cells(self, block: str) -> np.ndarray:
        """Where image positions lie, see `Example.cells`."""

    def image_positions(self, block: str) -> np.ndarray:
        """Which positions are the image's, see `Example.image_positions`."""

    def attention(self) -> AttentionRecord:
        """To the image, see `Example.attention`."""


def image_attention(example: Asked) -> AttentionRecord:
    """Attention of the module that looks at the image, see `Example.attention`.

    Args:
        example: any

    Raises:
        VlmtraceError: no image token stands for a place in the image
    """
    model, block, module = example.model, example.model.head_block.name, example.model.image_module
    inputs, tokens = example.inputs(), example.tokens(block)
    at_image = example.image_positions(model.image_block)
    boxes = example.cells(model.image_block)
    placed = ~np.isnan(boxes).any(axis=1)
    if not placed.any():
        raise VlmtraceError(
            f"No image token of {model.name} stands for a place in the image: nothing can be drawn on it."
        )
    patches = at_image.nonzero()[0][placed]
    if model.image_block != block:
        weights = model.attention(inputs, block, module)[:, 0].cpu().numpy()
        return AttentionRecord(
            block, module, weights, tokens, example.tokens(model.image_block), patches, boxes[placed]
        )
    tokens = pd.concat([tokens, _answer_rows(example, len(tokens))], ignore_index=True)
    weights = model.attention(model.extend(inputs, example.answer().ids), block, module)[:, 0].cpu().numpy()
    text = ~np.isin(tokens["position"], at_image.nonzero()[0])
    return AttentionRecord(
        block, module, weights[:, :, text], tokens[text].reset_index(drop=True), tokens, patches, boxes[placed]
    )


def answer_attention(example: Asked) -> tuple[AttentionRecord, np.ndarray]:
    """Attention from each answer token, see `Example.answer_attention`.

    Args:
        example: any
    """
    model, record, answer = example.model, example.attention(), example.answer()
    rows = _answer_rows(example, 0)
    if model.image_block == record.block:
        prompt = len(example.tokens(record.block))
        queries = record.queries["position"].isin(range(prompt - 1, prompt - 1 + len(rows))).to_numpy()
        steps = record.weights[:, :, queries]
        words = record.queries[record.queries["position"] < prompt].reset_index(drop=True)
        question = record._replace(weights=steps[..., words["position"].to_numpy()], queries=rows, keys=words)
        return question, steps[..., record.patches].mean(axis=1)
    block = model.answer_block
    found = model.attention(model.extend(example.inputs(), answer.ids), block, "cross_attention")
    steps = found[:, 0, :, : len(rows)].cpu().numpy()
    through = steps.mean(axis=1) @ record.weights[..., record.patches].mean(axis=1)
    return AttentionRecord(block, "cross_attention", steps, rows, record.queries, record.patches, record.boxes), through


def _answer_rows(example: Asked, first: int) -> pd.DataFrame:
    tokens = example.answer().tokens
    return pd.DataFrame(
        {"position": range(first, first + len(tokens)), "token": tokens, "token_role": ["answer"] * len(tokens)}
    )
