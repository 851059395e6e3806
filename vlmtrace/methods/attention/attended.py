"""The attention of one pair's heads, added up by region of the image, in little memory.

The weights of all heads, queries and keys are many: of a language model of 32 layers and heads whose sequence holds 600
tokens, 1.5 gigabytes for one pair. So pairs share a forward pass only where their weights are few, and of each layer
only the keys that lie in the image become double, one layer after the other.

Shapes: B pairs of a batch, L layers, H heads, Q query positions, K keys, I image tokens, R regions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vlmtrace.core.types import Array
from vlmtrace.models import VLM, Inputs
from vlmtrace.models.several_images import Images
from vlmtrace.models.vlm import inputs_of_pair

#: Weights of a batch in more bytes than this are computed pair by pair.
LARGE = 2**28


def pair_by_pair(model: VLM, inputs: Inputs, images: Sequence[Images]) -> Iterator[Tensor]:
    """The attention of the heads that look at the image, by one forward pass where all pairs' weights are few.

    Args:
        model: the model to run
        inputs: of a batch
        images: of each pair

    Yields:
        (L, H, Q, K), float32, of each pair
    """
    block, module, n = model.head_block, model.image_module, len(images)
    ones = [inputs_of_pair(inputs, i, n) for i in range(n)]
    queries, keys = (len(model.image_positions(ones[0], name, images[0])) for name in (block.name, model.image_block))
    if 4 * n * block.n_layers * block.n_heads * queries * keys <= LARGE:
        yield from model.attention(inputs, block.name, module).unbind(1)
    else:
        for one in ones:
            yield model.attention(one, block.name, module)[:, 0]


def on_regions(weights: Tensor, places: Array, regions: Array) -> tuple[Array, Array]:
    """Attention added up by region of the image, and what does not fall on it.

    Args:
        weights: (L, H, Q, K)
        places: (I,), the keys that stand for a place in the image
        regions: (I, R), how much of each belongs to a region

    Returns:
        shares (L, H, Q, R), and what is off the image (L, H, Q)
    """
    at = torch.as_tensor(places, device=weights.device)
    shares, off_image = [], []
    for layer in weights:
        on_image = layer[..., at].double().cpu().numpy()  # (H, Q, I)
        shares.append(np.einsum("hqi,ir->hqr", on_image, regions))
        off_image.append(1 - on_image.sum(-1))
    return np.stack(shares), np.stack(off_image)


def tidy(tokens: pd.DataFrame, shares: Array, off_image: Array, regions: Sequence[str]) -> pd.DataFrame:
    """One row per layer, head and query.

    Args:
        tokens: position, token and token_role of each query
        shares: (L, H, Q, R)
        off_image: (L, H, Q)
        regions: names of the R regions

    Returns:
        layer, head, position, token, token_role, the shares of the regions, and off_image
    """
    layer, head, query = (index.ravel() for index in np.indices(off_image.shape))
    table = pd.DataFrame({"layer": layer, "head": head})
    for name in ("position", "token", "token_role"):
        table[name] = tokens[name].to_numpy()[query]
    table[list(regions)] = shares.reshape(-1, len(regions))
    return table.assign(off_image=off_image.ravel())
