"""Activation patching: what would the corrupt run have answered, had this one activation been the clean one?

`patch_modules` asks it for every layer × position × module, `patch_heads` for every layer × position × head. Both
are exact: each number is what a full forward pass with that one activation replaced would give. How that is done
quickly is the models' business (`models/*_sweep.py`); the plain way stands in `models/reference.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import psutil
import torch

from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.progress import counter, progress
from vlmtrace.core.schema import validate_pairs
from vlmtrace.inputs.batching import Plan, Positions, batches_of_pairs
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.image_regions import IMAGE_REGIONS, named_positions
from vlmtrace.inputs.pair_runs import PairRuns, encode_pair, run_pairs
from vlmtrace.methods.patching.metrics import concat_in_order, effect_table, patching_effect
from vlmtrace.methods.patching.plans import head_plan, module_plan, region_patches, site_patches
from vlmtrace.models import VLM, Patches, Readout, Site, Trace
from vlmtrace.models.sweep import reference
from vlmtrace.models.vlm import inputs_of_pair

#: Share of the free memory that a sweep may take when `memory_gb` is not given.
MEMORY_SHARE = 0.25

#: On a CPU no more than this many bytes by default: larger batches leave its cache and gain nothing.
CPU_MEMORY = 2**28


def patch_modules(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str = "image",
    modules: Sequence[str] | None = None,
    positions: Positions = "all",
    blocks: Sequence[str] | None = None,
    memory_gb: float | None = None,
) -> pd.DataFrame:
    """Patch whole activations from the clean into the corrupt run, one layer × position × module at a time.

    Args:
        pairs: a pairs table (contract columns)
        corruption: "image" or "text"
        modules: e.g. ("residual", "mlp", "self_attention", "cross_attention"); None: all that a block offers
        positions: "all", token roles ("correct", "image", "last", …) or indices
        blocks: e.g. ("vision_encoder", "text_encoder"); None: all
        memory_gb: gigabytes for the runs' activations and the patched states, whatever the number of sites; None: a
            quarter of what is free, on a CPU at most 1/4. Never less than the two runs and one patched state need.
    Returns:
        the module_patching table: sample_id, corruption, block, module, layer, position, token, token_role, p_correct,
        p_diff, logit_diff, patching_effect
    Raises:
        VlmtraceError: an unknown name, a broken table, or a pair whose runs cannot be aligned
    """
    plan = module_plan(model, modules, blocks)
    return _patch(model, pairs, corruption, plan, positions, memory_gb).drop(columns="head")


def patch_heads(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str = "image",
    modules: Sequence[str] | None = None,
    positions: Positions = "all",
    memory_gb: float | None = None,
) -> pd.DataFrame:
    """Patch single heads' outputs (before the output projection), one layer × position × head at a time.

    Args, Raises: as `patch_modules`; `modules` are attention modules, e.g. ("cross_attention",).
    Returns:
        the head_patching table: as module_patching, with head after layer
    """
    return _patch(model, pairs, corruption, head_plan(model, modules), positions, memory_gb)


def patch_regions(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str = "image",
    modules: Sequence[str] | None = None,
    regions: Sequence[str] = IMAGE_REGIONS,
    block: str | None = None,
    memory_gb: float | None = None,
) -> pd.DataFrame:
    """Patch all positions of a region at once: every image token of the object, of the background, of the image.

    Args:
        modules: as in `patch_modules`
        regions: names of positions: "object", "distractor", "background", "image" (masks say which), "options",
            "all", or token roles
        block: where; None: the block whose sequence holds the image tokens
        others: as in `patch_modules`
    Returns:
        the module_patching table; position is missing, token is the number of positions, token_role the region. A
        pair has no rows for a region that its image or prompt has nothing of
    Raises:
        VlmtraceError: as `patch_modules`
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    where = block or model.image_block
    plan = module_plan(model, modules, [where])
    pairs = validate_pairs(pairs).reset_index(drop=True)
    memory = memory_bytes(model, memory_gb)
    tables: list[pd.DataFrame] = []
    with counter(len(pairs), f"patching regions of {len(pairs)} pairs, {corruption} corruption") as advance:
        for group, runs, roles in batches_of_pairs(model, pairs, corruption, plan, "all"):
            length = len(roles[where]) // len(group)
            position_masks = np.zeros((len(group), len(regions), length), dtype=bool)
            for row, pair in enumerate(group.to_dict("records")):
                inputs = inputs_of_pair(runs.clean_inputs, row, len(group))
                found = named_positions(model, pair, where, inputs, regions)
                for column, name in enumerate(regions):
                    position_masks[row, column] = found.get(name, False)
            patches = region_patches(where, plan[where], position_masks, model.device)
            tables.append(_region_table(model, group, runs, corruption, patches, position_masks, regions, memory))
            advance(len(group))
    return concat_in_order(pairs, tables, "all").drop(columns="head")


def _region_table(
    model: VLM,
    group: pd.DataFrame,
    runs: PairRuns,
    corruption: str,
    patches: Patches,
    position_masks: np.ndarray,
    regions: Sequence[str],
    memory: int,
) -> pd.DataFrame:
    readout = sweep_patches(model, runs, patches, max(1, memory - runs.clean.nbytes - runs.corrupt.nbytes))
    sizes = position_masks.sum(axis=-1).ravel()
    roles = pd.DataFrame(
        {
            "position": pd.array([pd.NA] * len(sizes), dtype="Int64"),
            "token": [f"{size} positions" for size in sizes],
            "token_role": list(regions) * len(group),
        }
    )
    logit_diff, p_correct = (value.cpu().numpy() for value in (readout.logit_diff, readout.p_correct))
    table = effect_table(group, runs, corruption, patches, roles, logit_diff, p_correct)
    # Where a pair has nothing of a region, nothing was patched: that is no effect of 0.
    return table[table["token"] != "0 positions"]


def patch_head_sets(
    model: VLM,
    pairs: pd.DataFrame,
    sets: Sequence[Sequence[tuple[str, int, int]]],
    corruption: str = "image",
    reverse: bool = False,
) -> pd.DataFrame:
    """Fix the output of every head at all positions: clean for the heads of a set, corrupt for all others.

    The embeddings are those of the corrupt run. With `reverse` it is the other way round: heads of the set corrupt,
    all others and the embeddings clean. Layers between the heads compute on.

    Args:
        sets: each a list of (module, layer, head) of the model's head block
    Returns:
        columns sample_id, set (its index), logit_diff (LD, not a difference of LDs), patching_effect
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    keep = _head_masks(model, sets)
    if reverse:
        keep = {module: ~mask for module, mask in keep.items()}
    tables = []
    for row in progress(range(len(pairs)), f"{len(sets)} sets of heads, {corruption}"):
        run = run_pairs(model, pairs.iloc[[row]], [encode_pair(model, pairs, row, corruption)])
        if model.uses_fast_sweep:
            start = "clean" if reverse else "corrupt"
            readout = model.run_with_fixed_heads(run.clean, run.corrupt, keep, start, run.answer_ids)
        else:
            inputs = run.clean_inputs if reverse else run.inputs
            readout = reference.run_with_fixed_heads(model, run.clean, run.corrupt, inputs, keep, run.answer_ids)
        logit_diff = readout.logit_diff[0].cpu().numpy()
        effect = patching_effect(logit_diff, run.clean_readout.logit_diff.item(), run.corrupt_readout.logit_diff.item())
        tables.append(
            pd.DataFrame(
                {
                    "sample_id": pairs["sample_id"].iloc[row],
                    "set": range(len(sets)),
                    "logit_diff": logit_diff,
                    "patching_effect": effect,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


# How a sweep is put together ------------------------------------------------------------


def _patch(
    model: VLM, pairs: pd.DataFrame, corruption: str, plan: Plan, positions: Positions, memory_gb: float | None
) -> pd.DataFrame:
    one_of(corruption, CORRUPTIONS, "corruption")
    pairs = validate_pairs(pairs).reset_index(drop=True)
    memory = memory_bytes(model, memory_gb)
    tables: list[pd.DataFrame] = []
    with counter(len(pairs), f"patching {len(pairs)} pairs, {corruption} corruption") as advance:
        for group, runs, roles in batches_of_pairs(model, pairs, corruption, plan, positions):
            for block, sites in plan.items():
                if len(roles[block]) == 0:
                    continue
                places = roles[block]["position"].to_numpy()[: len(roles[block]) // len(group)]
                patches = site_patches(block, sites, places, len(group), model.device)
                readout = sweep_patches(model, runs, patches, max(1, memory - runs.clean.nbytes - runs.corrupt.nbytes))
                logit_diff, p_correct = (value.cpu().numpy() for value in (readout.logit_diff, readout.p_correct))
                tables.append(effect_table(group, runs, corruption, patches, roles[block], logit_diff, p_correct))
            advance(len(group))
    return concat_in_order(pairs, tables, positions)


def memory_bytes(model: VLM, memory_gb: float | None) -> int:
    """Bytes that a sweep may take: as given, or `default_memory`."""
    if memory_gb is not None:
        if memory_gb <= 0:
            raise VlmtraceError(f"memory_gb={memory_gb} leaves no room for a sweep: give a positive number.")
        return int(memory_gb * 2**30)
    return default_memory(model)


def default_memory(model: VLM) -> int:
    """Bytes that a sweep may take where `memory_gb` is not given."""
    if model.device.type == "cuda":
        return int(torch.cuda.mem_get_info(model.device)[0] * MEMORY_SHARE)
    return min(CPU_MEMORY, int(psutil.virtual_memory().available * MEMORY_SHARE))


def sweep_patches(model: VLM, runs: PairRuns, patches: Patches, memory: int) -> Readout:
    """Sweep over patches of one block; an activation that equals the corrupt one changes nothing and is not run.

    Args:
        memory: bytes for the patched states
    Returns:
        Readout of shape (pair, patch)
    """
    block = patches.block
    # By site, the positions at which any pair's activation differs at all.
    sites = {(patches.modules[i], layer) for i in range(len(patches)) for layer in patches.window(i)}
    differs = {
        (module, layer): (runs.clean[block, module, layer] != runs.corrupt[block, module, layer]).any(-1).cpu()
        for module, layer in sites
    }
    active = [
        i
        for i in range(len(patches))
        if any(_changes(patches, i, differs[patches.modules[i], layer]) for layer in patches.window(i))
    ]
    base = runs.corrupt_readout
    values = [column[:, None].repeat(1, len(patches)) for column in (base.correct, base.incorrect, base.log_normalizer)]
    if active:
        chosen = patches.subset(active)
        known = patches.position_masks is None or model.sweeps_regions
        if known and model.uses_fast_sweep and not model.sweep_unsupported_reason(runs.inputs):
            swept = model.sweep(runs.clean, runs.corrupt, runs.inputs, chosen, runs.answer_ids, memory)
        else:
            swept = _reference_sweep(model, runs, chosen)
        for value, new in zip(values, (swept.correct, swept.incorrect, swept.log_normalizer), strict=True):
            value[:, active] = new
    return Readout(*values)


def _changes(patches: Patches, patch: int, differs: torch.Tensor) -> bool:
    """Whether a patch changes any pair's activation, given where (pair, position) it differs."""
    if patches.position_masks is not None:
        return bool((differs & patches.position_masks[:, patch].cpu()).any())
    return bool(differs.gather(1, patches.positions[:, patch : patch + 1].cpu()).any())


def _reference_sweep(model: VLM, runs: PairRuns, patches: Patches) -> Readout:
    parts = []
    for row in range(len(runs.answer_ids)):
        one = slice(row, row + 1)
        clean = Trace(runs.clean.logits[one], {site: value[one] for site, value in runs.clean.activations.items()})
        inputs = inputs_of_pair(runs.inputs, row, len(runs.answer_ids))
        image = None if runs.corrupt.image is None else runs.corrupt.image[one]
        parts.append(reference.sweep(model, clean, inputs, patches.of_pair(row), runs.answer_ids[one], image))
    return Readout.cat(parts, dim=0)


def _head_masks(model: VLM, sets: Sequence[Sequence[tuple[str, int, int]]]) -> dict[str, torch.Tensor]:
    block = model.head_block
    masks = {
        module: torch.zeros(len(sets), block.n_layers, block.n_heads, dtype=torch.bool) for module in block.head_modules
    }
    for row, heads in enumerate(sets):
        for module, layer, head in heads:
            one_of(module, masks, "module")
            model.check_site(Site(block.name, module, layer))
            if not 0 <= head < block.n_heads:
                raise VlmtraceError(f"Head {head} does not exist: {block.name} has heads 0 to {block.n_heads - 1}.")
            masks[module][row, layer, head] = True
    return masks
