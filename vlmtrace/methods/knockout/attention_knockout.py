"""Knock-outs: cut the ways by which the image could reach the answer, and see which one the clean run needs.

Patching asks what is enough to bring an answer back; a knock-out asks what it cannot do without. Two kinds:

- `knock_out_attention` forbids some positions to attend to others in a window of layers ("image → last": the last
  position no longer sees the image), as in Geva et al. 2023 for facts and in many studies of VLMs since.
- `replace_image_tokens` puts the mean image token in the place of those that show an object, the background, or all,
  before the language side reads them (Neo et al. 2025).

Both act on the clean run, so what they take away is negative: logit_diff = LD_knocked − LD_clean, and patching_effect
= logit_diff / (LD_clean − LD_corrupt). −1: as much is lost as the corruption takes; 0: the way was not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import validate_pairs
from vlmtrace.inputs.batching import batches_of_pairs
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.image_regions import IMAGE_REGIONS, image_regions, named_positions
from vlmtrace.inputs.image_tokens import mean_image_token
from vlmtrace.inputs.pair_runs import PairRuns
from vlmtrace.methods.patching.metrics import concat_in_order, patching_effect
from vlmtrace.models import VLM, Inputs, Readout
from vlmtrace.models.attention_mask import cut
from vlmtrace.models.vlm import inputs_of_pair

#: From where to where: the positions attended to, and those that attend.
AttentionEdge = tuple[str, str]

#: Share of the layers that a window takes where none is given: about a fifth, as in the papers (9 of 48).
WINDOW_SHARE = 0.2


def knock_out_attention(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str = "image",
    edges: Sequence[AttentionEdge] | None = None,
    window: int | None = None,
) -> pd.DataFrame:
    """Cut attention from some positions to others in the clean run, in a window of layers around each layer.

    Args:
        pairs: a pairs table
        corruption: whose gap the effect is a share of
        edges: (source, target) names: what is attended to, and what attends. Regions of the image ("image", "object",
            "distractor", "background"), "options", "all", or token roles; None: the model's own `edges`
        window: how many layers are cut at once; None: a fifth of them
    Returns:
        the module_patching table: one row a pair, layer (the middle of the window) and edge; position is missing,
        token is the number of layers cut, token_role "source → target"
    Raises:
        VlmtraceError: an unknown name, or a broken table
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    pairs = validate_pairs(pairs).reset_index(drop=True)
    block = model.head_block
    chosen = list(model.edges if edges is None else edges)
    size = max(1, round(WINDOW_SHARE * block.n_layers)) if window is None else window
    if not 1 <= size <= block.n_layers:
        raise VlmtraceError(f"window={size} is not a number of layers of {block.name}: choose 1 to {block.n_layers}.")
    tables = []
    with counter(len(pairs), f"knock-outs in {len(pairs)} pairs") as advance:
        for group, runs, _ in batches_of_pairs(model, pairs, corruption, {block.name: []}, "all"):
            for edge in chosen:
                module, blocked = _blocked(model, group, runs.clean_inputs, edge)
                usable = blocked.flatten(1).any(1).cpu().numpy()
                for layer in range(block.n_layers):
                    # Windows at the ends are cut short, so that each is centred on its layer.
                    first = layer - (size - 1) // 2
                    layers = range(max(0, first), min(block.n_layers, first + size))
                    with torch.no_grad(), cut(model, module, layers, blocked):
                        readout = Readout.of(model.answer_logits(runs.clean_inputs), runs.answer_ids)
                    where = {"module": module, "layer": layer, "token": f"{len(layers)} layers"}
                    rows = _rows(group, runs, corruption, readout, model, where, " → ".join(edge))
                    tables.append(rows[usable])
            advance(len(group))
    return concat_in_order(pairs, tables, "all")


def _blocked(model: VLM, group: pd.DataFrame, inputs: Inputs, edge: AttentionEdge) -> tuple[str, Tensor]:
    """The attention module that an edge belongs to, and which keys it takes from which queries."""
    source, target = edge
    block = model.head_block
    looks_across = source in IMAGE_REGIONS and model.image_module == "cross_attention"
    blocked = []
    for i, pair in enumerate(group.to_dict("records")):
        one = inputs_of_pair(inputs, i, len(group))
        queries = named_positions(model, pair, block.name, one, ["all", target])
        keys = named_positions(model, pair, model.image_block if looks_across else block.name, one, ["all", source])
        nothing = np.zeros_like
        forbidden = np.outer(queries.get(target, nothing(queries["all"])), keys.get(source, nothing(keys["all"])))
        if not looks_across:
            # A position always sees itself, or nothing would be left of a softmax.
            np.fill_diagonal(forbidden, False)
        blocked.append(forbidden)
    module = model.image_module if looks_across else "self_attention"
    return module, torch.as_tensor(np.stack(blocked), device=model.device)


def replace_image_tokens(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str = "image",
    regions: Sequence[str] = IMAGE_REGIONS,
    reference: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Put the mean image token in the place of image tokens, as the language side receives them in the clean run.

    Args:
        pairs: a pairs table, with mask columns for regions other than "image"
        corruption: whose gap the effect is a share of
        regions: which tokens, one replacement each
        reference: pairs whose clean images give the mean; None: `pairs`
    Returns:
        the module_patching table: one row a pair and region; module is "image_embeddings", layer 0, position missing,
        token the number of tokens replaced, token_role the region
    Raises:
        VlmtraceError: an unknown region, a broken table, or a model whose later layers receive image features again
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    for region in regions:
        one_of(region, IMAGE_REGIONS, "region")
    if model.injects_image_features_later:
        raise VlmtraceError(
            f"{model.name} adds image features behind later layers too, so that replacing image tokens does not remove "
            "the image: cut attention instead."
        )
    pairs = validate_pairs(pairs).reset_index(drop=True)
    mean = mean_image_token(model, pairs if reference is None else reference)
    tables = []
    with counter(len(pairs), f"replacing image tokens of {len(pairs)} pairs") as advance:
        for group, runs, _ in batches_of_pairs(model, pairs, corruption, {model.head_block.name: []}, "all"):
            chosen = [
                image_regions(model, pair, inputs_of_pair(runs.clean_inputs, i, len(group)))
                for i, pair in enumerate(group.to_dict("records"))
            ]
            with torch.no_grad():
                image = model.image_embeddings(runs.clean_inputs)
                for region in regions:
                    tables.append(_replaced(model, group, runs, corruption, image, mean, region, chosen))
            advance(len(group))
    return concat_in_order(pairs, tables, "all")


def _replaced(
    model: VLM,
    group: pd.DataFrame,
    runs: PairRuns,
    corruption: str,
    image: Tensor,
    mean: Tensor,
    region: str,
    chosen: Sequence[dict[str, Any]],
) -> pd.DataFrame:
    position_masks = torch.zeros(image.shape[:2], dtype=torch.bool, device=image.device)
    for row, found in enumerate(chosen):
        if region in found:
            position_masks[row] = torch.as_tensor(found[region], device=image.device)
    new = torch.where(position_masks[..., None], mean.to(image.dtype), image)
    readout = Readout.of(model.answer_logits(runs.clean_inputs, image=new), runs.answer_ids)
    where = {"module": "image_embeddings", "layer": 0, "token": [f"{n} tokens" for n in position_masks.sum(1).tolist()]}
    rows = _rows(group, runs, corruption, readout, model, where, region)
    return rows[position_masks.any(1).cpu().numpy()]


def _rows(
    group: pd.DataFrame,
    runs: PairRuns,
    corruption: str,
    readout: Readout,
    model: VLM,
    where: dict[str, Any],
    role: str,
) -> pd.DataFrame:
    """Rows of a module_patching table for one intervention in each clean run of a group."""

    def numbers(value: Callable[[Readout], Tensor]) -> list[Any]:
        return [value(found).cpu().numpy() for found in (readout, runs.clean_readout, runs.corrupt_readout)]

    (ld, clean_ld, corrupt_ld), (p, clean_p, _) = numbers(lambda r: r.logit_diff), numbers(lambda r: r.p_correct)
    return pd.DataFrame(
        {
            "sample_id": group["sample_id"].to_numpy(),
            "corruption": corruption,
            "block": model.head_block.name,
            **{name: where[name] for name in ("module", "layer")},
            "position": pd.array([pd.NA] * len(group), dtype="Int64"),
            "token": where["token"],
            "token_role": role,
            "p_correct": p,
            "p_diff": p - clean_p,
            "logit_diff": ld - clean_ld,
            # patching_effect measures from the corrupt run; here what is lost counts from the clean one.
            "patching_effect": patching_effect(ld, clean_ld, corrupt_ld) - 1,
        }
    )
