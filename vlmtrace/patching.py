"""Activation patching: what would the corrupt run have answered, had this one activation been the clean one?

`patch_modules` asks it for every layer × position × module, `patch_heads` for every layer × position × head. Both
are exact: each number is what a full forward pass with that one activation replaced would give. How that is done
quickly is the models' business (`models/*_sweep.py`); the plain way stands in `models/reference.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import psutil
import torch

from vlmtrace.corruption import CORRUPTIONS, run_inputs, token_mismatch
from vlmtrace.errors import VlmtraceError, one_of
from vlmtrace.metrics import patching_effect
from vlmtrace.models import VLM, Inputs, Patches, Readout, Site, Trace, reference
from vlmtrace.progress import counter, progress
from vlmtrace.tasks.schema import validate_pairs
from vlmtrace.tokens import token_table

#: Share of the free memory that a sweep's intermediate states may take when `memory_gb` is not given.
MEMORY_SHARE = 0.25

#: Pairs that share a sweep: enough to fill the processor with a small model, few enough to stay in its cache.
PAIRS_AT_ONCE = 8

#: Pairs whose prepared images are held at once while groups are formed.
SLAB = 64

Positions = str | Sequence[str] | Sequence[int]

#: By block, what is patched at every position: (module, layer, head or None for the whole activation).
Plan = dict[str, list[tuple[str, int, int | None]]]


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
        memory_gb: gigabytes for intermediate states; None: a quarter of what is free
    Returns:
        the module_patching table: sample_id, corruption, block, module, layer, position, token, token_role, p_correct,
        p_diff, logit_diff, patching_effect
    Raises:
        VlmtraceError: an unknown name, a broken table, or a pair whose runs cannot be aligned
    """
    known = list(model.blocks) if blocks is None else [one_of(name, model.blocks, "block") for name in blocks]
    offered = {name: model.blocks[name].modules for name in known}
    chosen = _choose_modules(offered, modules)
    plan: Plan = {
        name: [(module, layer, None) for layer in range(model.blocks[name].n_layers) for module in wanted]
        for name, wanted in chosen.items()
    }
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
    block = model.head_block
    chosen = _choose_modules({block.name: block.head_modules}, modules)
    plan: Plan = {
        block.name: [
            (module, layer, head)
            for layer in range(block.n_layers)
            for module in chosen[block.name]
            for head in range(block.n_heads)
        ]
    }
    return _patch(model, pairs, corruption, plan, positions, memory_gb)


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
        run = _run_pairs(model, pairs.iloc[[row]], [_encode_pair(model, pairs, row, corruption)])
        if model.exact_fast_path:
            start = "clean" if reverse else "corrupt"
            readout = model.run_with_heads(run.clean, run.corrupt, keep, start, run.answer_ids)
        else:
            inputs = run.clean_inputs if reverse else run.inputs
            readout = reference.run_with_heads(model, run.clean, run.corrupt, inputs, keep, run.answer_ids)
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


@dataclass(frozen=True)
class PairRuns:
    """Clean and corrupt run of a group of pairs of equal length."""

    clean_inputs: Inputs
    inputs: Inputs
    clean: Trace
    corrupt: Trace
    answer_ids: torch.Tensor
    clean_readout: Readout
    corrupt_readout: Readout


def _encode_pair(model: VLM, pairs: pd.DataFrame, row: int, corruption: str) -> tuple[Inputs, Inputs]:
    """Clean and corrupt inputs of one pair (batch 1), aligned position by position.

    Raises:
        VlmtraceError: the two runs do not have the same shape
    """
    one = pairs.iloc[[row]]
    name = one["sample_id"].iloc[0]
    problem = token_mismatch(model, one.iloc[0])
    if problem:
        raise VlmtraceError(f"Pair {name!r}: {problem}")
    clean, corrupt = (run_inputs(model, one, run) for run in ("clean", corruption))
    for key in clean:
        if clean[key].shape != corrupt[key].shape:
            raise VlmtraceError(
                f"Pair {name!r}: clean and corrupt {key} differ in shape, {tuple(clean[key].shape)} and "
                f"{tuple(corrupt[key].shape)}: bring both images to the same size."
            )
    return clean, corrupt


def _run_pairs(model: VLM, pairs: pd.DataFrame, encoded: Sequence[tuple[Inputs, Inputs]]) -> PairRuns:
    clean_inputs, inputs = (
        {key: torch.cat([side[key] for side in sides]) for key in sides[0]} for sides in zip(*encoded, strict=True)
    )
    ids = model.answer_ids(list(pairs["correct_answer"]), list(pairs["incorrect_answer"]))
    clean, corrupt = model.trace(clean_inputs), model.trace(inputs)
    return PairRuns(
        clean_inputs,
        inputs,
        clean,
        corrupt,
        ids,
        Readout.of(clean.logits, ids),
        Readout.of(corrupt.logits, ids),
    )


def _choose_modules(offered: dict[str, tuple[str, ...]], wanted: Sequence[str] | None) -> dict[str, list[str]]:
    if wanted is None:
        return {name: list(modules) for name, modules in offered.items()}
    every = list(dict.fromkeys(module for modules in offered.values() for module in modules))
    for module in wanted:
        one_of(module, every, "module")
    chosen = {name: [module for module in modules if module in wanted] for name, modules in offered.items()}
    return {name: modules for name, modules in chosen.items() if modules}


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


def _patch(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str,
    plan: Plan,
    positions: Positions,
    memory_gb: float | None,
) -> pd.DataFrame:
    one_of(corruption, CORRUPTIONS, "corruption")
    pairs = validate_pairs(pairs).reset_index(drop=True)
    memory = _memory(model, memory_gb)
    tables: list[pd.DataFrame] = []
    with counter(len(pairs), f"patching {len(pairs)} pairs, {corruption} corruption") as advance:
        for group, runs, roles in _groups(model, pairs, corruption, plan, positions):
            for block, sites in plan.items():
                if len(roles[block]):
                    tables.append(_patch_block(model, group, runs, corruption, block, sites, roles[block], memory))
            advance(len(group))
    if not tables:
        raise VlmtraceError(f"No position matches {positions!r}: choose 'all', token roles of the prompts, or indices.")
    table = pd.concat(tables, ignore_index=True)
    order = {sample: i for i, sample in enumerate(pairs["sample_id"])}
    return table.sort_values("sample_id", key=lambda column: column.map(order), kind="stable", ignore_index=True)


def _memory(model: VLM, memory_gb: float | None) -> int:
    if memory_gb is not None:
        if memory_gb <= 0:
            raise VlmtraceError(f"memory_gb={memory_gb} leaves no room for a sweep: give a positive number.")
        return int(memory_gb * 2**30)
    free = (
        torch.cuda.mem_get_info(model.device)[0] if model.device.type == "cuda" else psutil.virtual_memory().available
    )
    return int(free * MEMORY_SHARE)


def _groups(
    model: VLM, pairs: pd.DataFrame, corruption: str, plan: Plan, positions: Positions
) -> Iterator[tuple[pd.DataFrame, PairRuns, dict[str, pd.DataFrame]]]:
    """Groups of pairs of equal shape whose patched positions agree.

    Yields:
        the group's pairs, their runs, and by block the chosen rows of their token tables, one pair after the other
    """
    for slab in range(0, len(pairs), SLAB):
        found: dict[tuple, list[int]] = {}
        encoded, tables = {}, {}
        for row in range(slab, min(slab + SLAB, len(pairs))):
            encoded[row] = _encode_pair(model, pairs, row, corruption)
            clean = encoded[row][0]
            pair = pairs.iloc[row].to_dict()
            tables[row] = {
                block: _choose_positions(token_table(model, pair, block, clean), positions) for block in plan
            }
            shapes = tuple(tuple(value.shape) for value in clean.values())
            places = tuple(tuple(table["position"]) for table in tables[row].values())
            found.setdefault((shapes, places), []).append(row)
        for rows in found.values():
            for start in range(0, len(rows), PAIRS_AT_ONCE):
                chosen = rows[start : start + PAIRS_AT_ONCE]
                group = pairs.iloc[chosen]
                roles = {block: pd.concat([tables[row][block] for row in chosen]) for block in plan}
                yield group, _run_pairs(model, group, [encoded[row] for row in chosen]), roles


def _choose_positions(table: pd.DataFrame, positions: Positions) -> pd.DataFrame:
    if isinstance(positions, str) and positions == "all":
        return table
    wanted = [positions] if isinstance(positions, str) else list(positions)
    column = "token_role" if all(isinstance(name, str) for name in wanted) else "position"
    return table[table[column].isin(wanted)]


def _patch_block(
    model: VLM,
    group: pd.DataFrame,
    runs: PairRuns,
    corruption: str,
    block: str,
    sites: Sequence[tuple[str, int, int | None]],
    roles: pd.DataFrame,
    memory: int,
) -> pd.DataFrame:
    n_pairs = len(group)
    positions = roles["position"].to_numpy().reshape(n_pairs, -1)[0]
    site_of = np.repeat(np.arange(len(sites)), len(positions))
    place = np.tile(np.arange(len(positions)), len(sites))
    modules, layers, heads = (list(column) for column in zip(*(sites[int(i)] for i in site_of), strict=True))
    patches = Patches(
        block,
        modules,
        layers,
        heads,
        torch.as_tensor(positions[place], device=model.device).expand(n_pairs, -1),
    )
    readout = _sweep(model, runs, patches, memory)
    p_correct, logit_diff = (value.cpu().numpy() for value in (readout.p_correct, readout.logit_diff))
    base_p = runs.corrupt_readout.p_correct.cpu().numpy()[:, None]
    clean_ld, corrupt_ld = (r.logit_diff.cpu().numpy()[:, None] for r in (runs.clean_readout, runs.corrupt_readout))
    token, role = (roles[name].to_numpy().reshape(n_pairs, -1)[:, place].ravel() for name in ("token", "token_role"))
    return pd.DataFrame(
        {
            "sample_id": np.repeat(group["sample_id"].to_numpy(), len(patches)),
            "corruption": corruption,
            "block": block,
            "module": modules * n_pairs,
            "layer": layers * n_pairs,
            "head": heads * n_pairs,
            "position": np.tile(positions[place], n_pairs),
            "token": token,
            "token_role": role,
            "p_correct": p_correct.ravel(),
            "p_diff": (p_correct - base_p).ravel(),
            "logit_diff": (logit_diff - corrupt_ld).ravel(),
            "patching_effect": patching_effect(logit_diff, clean_ld, corrupt_ld).ravel(),
        }
    )


def _sweep(model: VLM, runs: PairRuns, patches: Patches, memory: int) -> Readout:
    """Sweep over the patches that change anything; an activation that equals the corrupt one changes nothing."""
    block = patches.block
    differs = {
        (module, layer): not torch.equal(runs.clean[block, module, layer], runs.corrupt[block, module, layer])
        for module, layer in set(zip(patches.modules, patches.layers, strict=True))
    }
    active = [i for i in range(len(patches)) if differs[patches.modules[i], patches.layers[i]]]
    base = runs.corrupt_readout
    values = [column[:, None].repeat(1, len(patches)) for column in (base.correct, base.incorrect, base.log_normalizer)]
    if active:
        chosen = patches.subset(active)
        if model.exact_fast_path:
            swept = model.sweep(runs.clean, runs.corrupt, runs.inputs, chosen, runs.answer_ids, memory)
        else:
            swept = _reference_sweep(model, runs, chosen)
        for value, new in zip(values, (swept.correct, swept.incorrect, swept.log_normalizer), strict=True):
            value[:, active] = new
    return Readout(*values)


def _reference_sweep(model: VLM, runs: PairRuns, patches: Patches) -> Readout:
    parts = []
    for row in range(len(runs.answer_ids)):
        one = slice(row, row + 1)
        clean = Trace(runs.clean.logits[one], {site: value[one] for site, value in runs.clean.activations.items()})
        inputs = {name: value[one] for name, value in runs.inputs.items()}
        mine = Patches(patches.block, patches.modules, patches.layers, patches.heads, patches.positions[one])
        parts.append(reference.sweep(model, clean, inputs, mine, runs.answer_ids[one]))
    return Readout.cat(parts, dim=0)
