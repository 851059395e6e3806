"""Mean ablation of image tokens: what does the clean run lose where some of them say nothing of their image?

Shapes: B pairs of a batch, I image tokens, D their width, R regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vlmtrace.core.arguments import NonEmpty, Seed, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import validate_pairs
from vlmtrace.inputs.batch_runs import PairRuns, repeated_runs
from vlmtrace.inputs.batching import batches_of_pairs
from vlmtrace.inputs.control_regions import check_control_region, control_regions
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.image_regions import IMAGE_REGIONS, image_regions, is_region
from vlmtrace.inputs.image_tokens import mean_image_token
from vlmtrace.inputs.pair_runs import read_again
from vlmtrace.inputs.pictures import given_images
from vlmtrace.methods.knockout.rows import rows_of
from vlmtrace.methods.patching.metrics import concat_in_order
from vlmtrace.models import VLM, Inputs
from vlmtrace.models.vlm import inputs_of_pair


@checked
def replace_image_tokens(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str = "image",
    regions: NonEmpty[str] = IMAGE_REGIONS,
    reference: pd.DataFrame | None = None,
    contrast: str = "answer",
    seed: Seed = 0,
) -> pd.DataFrame:
    """Put the mean image token in the place of image tokens, as the language side receives them in the clean run.

    Mean ablation of image tokens (Neo et al. 2025, https://arxiv.org/abs/2410.07149).

    Args:
        model: the model to run
        pairs: a pairs table, with mask columns for "object", "distractor" and "background"
        corruption: "image" or "text": effects are shares of the gap that it makes
        regions: which tokens are replaced; each region is one ablation. "object with margin" are those of the object
            and all that touch one of them; "as many as object", "as many as object with margin" are so many others,
            drawn for each pair: the control
        reference: pairs whose clean images give the mean; None: `pairs`
        contrast: as in `patch_modules`
        seed: of the draws

    Returns:
        the module_patching table, one row per pair and region: module is "image_embeddings", layer 0, position missing,
        token says how many tokens were replaced ("12 tokens"), token_role is the region; p_correct, p_diff, logit_diff
        and patching_effect as in `knock_out_attention`. A pair has no rows for a region that its image has nothing of

    Raises:
        VlmtraceError: a region is unknown, the table breaks the contract, or later layers of the model receive image
            features again, so that replacing them once does not remove the image

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> effects = vt.replace_image_tokens(model, pairs, regions=["object", "image"])
        >>> effects.groupby("token_role")["patching_effect"].mean().round(1).abs().to_dict()
        {'image': 0.5, 'object': 0.0}
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    for region in regions:
        check_control_region(region)
    if model.injects_image_features_later:
        # Where no position is an image token, there is no attention to one that could be cut.
        seen = any(is_region(source) for source, _ in model.edges)
        instead = "cut attention instead (knock_out_attention)" if seen else "patch its modules instead (patch_modules)"
        raise VlmtraceError(
            f"{model.name} adds image features behind later layers too, so that replacing image tokens does not remove "
            f"the image: {instead}."
        )
    pairs = validate_pairs(pairs).reset_index(drop=True)
    mean = mean_image_token(model, pairs if reference is None else reference)
    tables = []
    with counter(len(pairs), f"replacing image tokens of {len(pairs)} pairs") as advance:
        for batch, runs, _ in batches_of_pairs(model, pairs, corruption, {model.head_block.name: []}, "all", contrast):
            chosen = [
                _chosen(model, pair, inputs_of_pair(runs.clean_inputs, i, len(batch)), list(regions), seed)
                for i, pair in enumerate(batch.to_dict("records"))
            ]
            with torch.no_grad():
                image = model.image_embeddings(runs.clean_inputs)  # (B, I, D)
                tables += _replaced(model, batch, runs, corruption, image, mean, regions, chosen)
            advance(len(batch))
    return concat_in_order(pairs, tables, "all")


def _chosen(model: VLM, pair: dict[str, Any], inputs: Inputs, regions: list[str], seed: int) -> dict[str, np.ndarray]:
    """By region, which image tokens of a pair's clean image belong to it: bool (I,)."""
    boxes = model.image_cells(given_images(pair), inputs, model.image_block)
    return control_regions(image_regions(model, pair, inputs), boxes, regions, str(pair["sample_id"]), seed)


def _replaced(
    model: VLM,
    batch: pd.DataFrame,
    runs: PairRuns,
    corruption: str,
    image: Tensor,
    mean: Tensor,
    regions: Sequence[str],
    chosen: Sequence[dict[str, np.ndarray]],
) -> list[pd.DataFrame]:
    """Rows for each region; all regions of all pairs go through the model as one batch."""
    position_masks = torch.zeros(len(regions), *image.shape[:2], dtype=torch.bool, device=image.device)  # (R, B, I)
    for number, region in enumerate(regions):
        for row, found in enumerate(chosen):
            if region in found:
                position_masks[number, row] = torch.as_tensor(found[region], device=image.device)
    ablated = torch.where(position_masks[..., None], mean.to(image.dtype), image)  # (R, B, I, D)
    readout = read_again(model, repeated_runs(runs, len(regions)), image=ablated.flatten(0, 1))
    tables = []
    for number, region in enumerate(regions):
        mine = position_masks[number]  # (B, I)
        columns = {
            "module": "image_embeddings",
            "layer": 0,
            "token": [f"{n} tokens" for n in mine.sum(1).tolist()],
            "token_role": region,
        }
        of_region = readout.rows(slice(number * len(batch), (number + 1) * len(batch)))
        rows = rows_of(batch, runs, corruption, of_region, model, columns)
        tables.append(rows[mine.any(1).cpu().numpy()])
    return tables
