"""HunyuanOCR and HunyuanVL: squares of patches by convolution, a newline behind each row, a mark at either end."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmtrace.core.types import Array
from vlmtrace.models.families.spec import FamilySpec
from vlmtrace.models.patch_layout import PatchList, squares_of
from vlmtrace.models.types import Inputs


def _pack(hf: Any, patches: Array, inputs: Inputs, newline: float) -> Array:
    """Squares, what follows each row, and what stands at the image's beginning and end."""
    side = hf.config.vision_config.spatial_merge_size
    squares = squares_of(patches, side, boxes=bool(np.isnan(newline)))
    rows = np.concatenate([squares, np.full_like(squares[:, :, :1], newline)], axis=2)
    tokens = rows.reshape(len(rows), -1, rows.shape[-1])
    mark = np.full_like(tokens[:, :1], newline)
    return np.concatenate([mark, tokens, mark], axis=1).reshape(-1, rows.shape[-1])


def _counted_apart(config: Any, inputs: Inputs) -> Inputs:
    """Inputs with the positions that each pair has alone.

    One axis of the positions is the number of an image, and transformers counts through all sequences of a batch.
    """
    ids, grids = inputs["input_ids"], inputs.get("image_grid_thw")
    if grids is None or len(ids) == 1:
        return inputs
    model: Any = import_module("transformers.models.hunyuan_vl.modeling_hunyuan_vl").HunYuanVLModel  # slow to import

    shell = SimpleNamespace(config=config)
    shell.get_vision_position_ids = partial(model.get_vision_position_ids, shell)
    rows = zip(ids.split(1), inputs["mm_token_type_ids"].split(1), grids.chunk(len(ids)), strict=True)
    # (axis, 1, position) each
    apart: list[Tensor] = [model.get_rope_index(shell, row, kinds, image_grid_thw=grid)[0] for row, kinds, grid in rows]
    return {**inputs, "position_ids": torch.cat(apart, dim=1)}


def _adapt(spec: FamilySpec, config: Any) -> FamilySpec:
    return replace(spec, as_batch=partial(_counted_apart, config))


FAMILIES = [
    FamilySpec(
        "hunyuan_vl",
        "HunyuanOCR and HunyuanVL",
        "HunYuanVLForConditionalGeneration",
        image_tokens="one per square of patches, newlines between rows, marks at both ends",
        handled="positions along several axes, newlines",
        vision="model.vision_tower",
        vision_types=("hunyuan_vl_vision",),
        # Its attention gives no weights unless flash attention computes it.
        vision_attention_weights=False,
        several_images=True,
        layout=PatchList(),
        square_side=lambda config: config.vision_config.spatial_merge_size,
        pack=_pack,
        adapt=_adapt,
        caps_logits=False,
    )
]
