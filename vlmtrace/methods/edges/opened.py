"""What a view says of one node, and of one edge: where a head looks, and at which tokens and patches an edge acts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.types import Array
from vlmtrace.display.example import Example
from vlmtrace.methods.edges.drawing import Place, place_of
from vlmtrace.models.edges.nodes import IMAGE, INPUT, Node
from vlmtrace.models.edges.wiring import wirings_of


class Looked(NamedTuple):
    """What one head attends to in the clean run.

    Attributes:
        queries: position, token, token_role of the rows
        keys: position, token, token_role of the columns
        keys_block: the block that the keys are positions of
        weights: (query, key), rows sum to 1
    """

    queries: pd.DataFrame
    keys: pd.DataFrame
    keys_block: str
    weights: Array


def attention_of(example: Example, place: Place) -> Looked:
    """What a head attends to in the clean run of an example.

    Args:
        example: of a model whose edges are known
        place: of a head

    Raises:
        VlmtraceError: its module gives no weights
    """
    model = example.model

    def compute() -> Array:
        return model.attention(example.inputs(), place.block, place.module)[:, 0].cpu().numpy()

    # (layer, head, query, key): all heads of a module come from one forward pass
    weights = example.keep(("attention of heads", place.block, place.module), compute)[place.layer, place.head]
    wiring = next(wiring for wiring in wirings_of(model) if wiring.block == place.block)
    at = wiring.looked_at.get(place.module, place.block)
    keys = model.image_block if at == IMAGE else str(at)
    return Looked(example.tokens(place.block), example.tokens(keys), keys, weights)


def block_of(example: Example, node: Node) -> str:
    """The block whose positions a node's output has.

    Args:
        example: of a model whose edges are known
        node: that sends
    """
    if node.block != INPUT:
        return node.block
    return example.model.image_block if node == IMAGE else example.model.head_block.name


def tokens_of(example: Example, node: Node) -> pd.DataFrame:
    """The positions of a node's output.

    Args:
        example: of a model whose edges are known
        node: that sends

    Returns:
        one row per position: position, token, token_role
    """
    block = block_of(example, node)
    tokens = example.tokens(block)
    if node.block == INPUT and block == example.model.head_block.name:
        # One sequence holds the image's rows and the prompt's.
        at_image = example.image_positions(block)
        tokens = tokens[at_image if node == IMAGE else ~at_image]
    return tokens.reset_index(drop=True)


def placed_boxes(example: Example) -> tuple[Array, Array]:
    """Which image positions have a place in the image, and where: (position,) bool and (place, 4).

    Args:
        example: any
    """
    boxes = example.cells(example.model.image_block)
    placed = ~np.isnan(boxes).any(axis=1)
    return placed, boxes[placed]


def words_and_patches(example: Example, block: str, tokens: pd.DataFrame, values: Array) -> dict[str, Any]:
    """Amounts at the positions of a block, those of the image's patches and those of all else.

    Args:
        example: any
        block: whose positions
        tokens: the positions that there are amounts for, with the columns position and token
        values: (token,)

    Returns:
        patches: an amount for each of `placed_boxes`, none where the tokens are no image's; words: [token, amount] of
        all else, with what has no place in the image, such as [CLS]; amounts that are missing are None
    """
    at_image = example.image_positions(block)
    placed = at_image.nonzero()[0][placed_boxes(example)[0]].tolist() if at_image.any() else []
    by_position = dict(zip(tokens["position"].tolist(), values.tolist(), strict=True))
    has_image = not by_position.keys().isdisjoint(placed)
    named = zip(tokens["position"].tolist(), tokens["token"].astype(str), strict=True)
    in_image = set(placed)
    return {
        "words": [[token, plain(by_position[position])] for position, token in named if position not in in_image],
        "patches": [plain(by_position.get(position, 0.0)) for position in placed] if has_image else [],
    }


def plain(value: float) -> float | None:
    """A number as JSON has it; None where it is missing.

    Args:
        value: any
    """
    return float(value) if np.isfinite(value) else None


def attention_of_drawn(example: Example, nodes: pd.DataFrame) -> dict[str, Any]:
    """Of each drawn head where it looks, mean over all tokens of the text; what cannot be read is left out.

    Args:
        example: of a model whose edges are known
        nodes: of a `DrawnCircuit`

    Returns:
        by node, see `words_and_patches`
    """
    found = {}
    for label in nodes["node"][nodes["kind"] == "head"]:
        place = place_of(label)
        try:
            looked = attention_of(example, place)
        except VlmtraceError:
            continue
        at_image = example.image_positions(place.block)
        text = ~at_image[: len(looked.queries)] if at_image.any() else np.ones(len(looked.queries), dtype=bool)
        mean = looked.weights[text].mean(axis=0)
        found[label] = words_and_patches(example, looked.keys_block, looked.keys, mean)
    return found


def opened_node(example: Example, opened: str, query: int | None, effects: pd.DataFrame) -> dict[str, Any]:
    """What an opened node reads and who reads it, by effect, and where a head looks.

    Args:
        example: of a model whose edges are known
        opened: the node
        query: the position from which a head looks; None: the mean over all
        effects: of edges, with sender, receiver and patching_effect
    """
    found: dict[str, Any] = {"name": opened, "query": query, "attention": None, "refused": ""}
    reads = effects["receiver"].astype(str).map(lambda label: place_of(label).node == opened)
    for name, rows in (("reads", effects[reads]), ("readBy", effects[effects["sender"] == opened])):
        rows = rows.dropna(subset=["patching_effect"])
        rows = rows.sort_values("patching_effect", key=np.abs, ascending=False, kind="stable").head(6)
        found[name] = [[str(row.sender), str(row.receiver), float(row.patching_effect)] for row in rows.itertuples()]
    place = place_of(opened)
    if place.head is None:
        return found
    try:
        looked = attention_of(example, place)
    except VlmtraceError as error:
        return found | {"refused": str(error)}
    # Rows of image tokens are left out: there are too many to choose from.
    at_image = example.image_positions(place.block)
    queries = zip(looked.queries["position"].tolist(), looked.queries["token"].astype(str), strict=True)
    row = looked.weights.mean(axis=0) if query is None else looked.weights[query]
    found["attention"] = {
        "queries": [[position, token] for position, token in queries if not at_image[position]],
        **words_and_patches(example, looked.keys_block, looked.keys, row),
    }
    return found
