"""Activation patching of whole regions: all image tokens of the object at once, of the background, of the image.

Shapes: B pairs of a batch, R regions, S positions of a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vlmtrace.core.arguments import NonEmpty, Positive, checked
from vlmtrace.core.errors import one_of
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import validate_pairs
from vlmtrace.inputs.batch_runs import PairRuns
from vlmtrace.inputs.batching import Plan, batches_of_pairs
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.image_regions import IMAGE_REGIONS
from vlmtrace.inputs.named_positions import named_positions
from vlmtrace.methods.patching.direction import DIRECTIONS, in_direction
from vlmtrace.methods.patching.metrics import concat_in_order, effect_table
from vlmtrace.methods.patching.plans import head_plan, module_plan, region_patches
from vlmtrace.methods.patching.run_sweep import memory_bytes, memory_for_states, sweep_patches
from vlmtrace.models import VLM, Patches
from vlmtrace.models.vlm import inputs_of_pair


@checked
def patch_regions(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str = "image",
    modules: NonEmpty[str] | None = None,
    regions: NonEmpty[str] = IMAGE_REGIONS,
    block: str | None = None,
    memory_gb: Positive | None = None,
    contrast: str = "answer",
    direction: str = "denoising",
    heads: bool = False,
) -> pd.DataFrame:
    """Patch all positions of a region at once: every image token of the object, of the background, of the image.

    Single image tokens seldom matter, since their neighbours show the same; a region says whether the object does. With
    `heads`, single heads are patched there, as by `patch_heads`: exact also where single image tokens are too many.

    Args:
        model: the model to patch
        pairs: a pairs table, with mask columns for "object", "distractor" and "background"
        corruption: "image" or "text"
        modules: as in `patch_modules`
        regions: names of positions: "object", "distractor", "background" (masks of the clean image say which),
            "changed", "unchanged" (pixels that differ between the pair's images say which), "image", "options", "all",
            or token roles; "object" is the role of a word only in a block without image tokens (see `patch_modules`)
        block: whose positions; None: the block whose sequence holds the image tokens, of heads the head block
        memory_gb: as in `patch_modules`
        contrast: as in `patch_modules`
        direction: as in `patch_modules`
        heads: patch one head at a time, of the block that reads the question (the head block), and not whole modules

    Returns:
        the module_patching table (see `patch_modules`), one row per pair, layer, module and region; with `heads` the
        head_patching table, one row per pair, layer, head and region. position is missing, token says how many
        positions were patched ("12 positions"), token_role is the region. A pair has no rows for a region that its
        image or prompt has nothing of

    Raises:
        VlmtraceError: a name is unknown, the table breaks the contract, or the runs of a pair cannot be aligned

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> effects = vt.patch_regions(model, pairs, modules=["residual"], regions=["object", "image"])
        >>> effects.groupby("token_role")["patching_effect"].mean().round(1).to_dict()
        {'image': 1.0, 'object': 0.5}

        Heads of a decoder-only model, at the image tokens that differ between the pair's images:

        >>> model = vt.load_model("tiny-llava")
        >>> effects = vt.patch_regions(model, pairs, regions=["changed"], heads=True)
        >>> len(effects) == len(pairs) * len(model.head_block.every_head)
        True
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    one_of(direction, DIRECTIONS, "direction")
    plan: Plan = head_plan(model, modules) if heads else module_plan(model, modules, [block or model.image_block])
    if heads and block is not None:
        one_of(block, plan, "block whose heads a sweep patches")
    [block] = plan
    pairs = validate_pairs(pairs).reset_index(drop=True)
    memory = memory_bytes(model, memory_gb)
    tables: list[pd.DataFrame] = []
    with counter(len(pairs), f"patching regions of {len(pairs)} pairs, {corruption} corruption") as advance:
        for batch, runs, roles in batches_of_pairs(model, pairs, corruption, plan, "all", contrast):
            length = len(roles[block]) // len(batch)
            position_masks = np.zeros((len(batch), len(regions), length), dtype=bool)  # (B, R, S)
            for row, pair in enumerate(batch.to_dict("records")):
                inputs = inputs_of_pair(runs.clean_inputs, row, len(batch))
                found = named_positions(model, pair, block, inputs, regions)
                for column, name in enumerate(regions):
                    position_masks[row, column] = found.get(name, False)
            patches = region_patches(block, plan[block], position_masks, model.device)
            runs = in_direction(runs, direction)
            tables.append(_region_table(model, batch, runs, corruption, patches, position_masks, regions, memory))
            advance(len(batch))
    table = concat_in_order(pairs, tables, "all").assign(direction=direction)
    return table if heads else table.drop(columns="head")


def _region_table(
    model: VLM,
    batch: pd.DataFrame,
    runs: PairRuns,
    corruption: str,
    patches: Patches,
    position_masks: np.ndarray,
    regions: Sequence[str],
    memory: int,
) -> pd.DataFrame:
    readout = sweep_patches(model, runs, patches, memory_for_states(memory, runs))
    sizes = position_masks.sum(axis=-1).ravel()
    roles = pd.DataFrame(
        {
            "position": pd.array([pd.NA] * len(sizes), dtype="Int64"),
            "token": [f"{size} positions" for size in sizes],
            "token_role": list(regions) * len(batch),
        }
    )
    logit_diff, p_correct = (value.cpu().numpy() for value in (readout.logit_diff, readout.p_correct))
    table = effect_table(batch, runs, corruption, patches, roles, logit_diff, p_correct)
    # Where a pair has nothing of a region, nothing was patched: that is no effect of 0.
    return table[table["token"] != "0 positions"]
