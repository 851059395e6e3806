"""Pairs in groups of equal shape, their clean and corrupt runs, and the table that tells what a sweep found.

What exact patching and its gradient approximations share: which sites are meant, which positions, which pairs can
go together, and how effects become rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from vlmtrace.corruption import run_inputs, token_mismatch
from vlmtrace.errors import VlmtraceError, one_of
from vlmtrace.metrics import patching_effect
from vlmtrace.models import VLM, Inputs, Patches, Readout, Trace
from vlmtrace.tokens import token_table

#: Pairs that share a sweep: enough to fill the processor with a small model, few enough to stay in its cache.
PAIRS_AT_ONCE = 8

#: Pairs whose prepared images are held at once while groups are formed.
SLAB = 64

#: "all", token roles, or indices.
Positions = str | Sequence[str] | Sequence[int]

#: By block, what is patched at every position: (module, layer, head or None for the whole activation).
Plan = dict[str, list[tuple[str, int, int | None]]]


def module_plan(model: VLM, modules: Sequence[str] | None, blocks: Sequence[str] | None) -> Plan:
    """Every layer of the chosen modules (None: all) of the chosen blocks (None: all).

    Raises:
        VlmtraceError: a block or module is unknown
    """
    known = list(model.blocks) if blocks is None else [one_of(name, model.blocks, "block") for name in blocks]
    chosen = _choose_modules({name: model.blocks[name].modules for name in known}, modules)
    return {
        name: [(module, layer, None) for layer in range(model.blocks[name].n_layers) for module in wanted]
        for name, wanted in chosen.items()
    }


def head_plan(model: VLM, modules: Sequence[str] | None) -> Plan:
    """Every layer and head of the chosen attention modules (None: all) of the head block."""
    block = model.head_block
    chosen = _choose_modules({block.name: block.head_modules}, modules)
    return {
        block.name: [
            (module, layer, head)
            for layer in range(block.n_layers)
            for module in chosen[block.name]
            for head in range(block.n_heads)
        ]
    }


def _choose_modules(offered: dict[str, tuple[str, ...]], wanted: Sequence[str] | None) -> dict[str, list[str]]:
    if wanted is None:
        return {name: list(modules) for name, modules in offered.items()}
    every = list(dict.fromkeys(module for modules in offered.values() for module in modules))
    for module in wanted:
        one_of(module, every, "module")
    chosen = {name: [module for module in modules if module in wanted] for name, modules in offered.items()}
    return {name: modules for name, modules in chosen.items() if modules}


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


def encode_pair(model: VLM, pairs: pd.DataFrame, row: int, corruption: str) -> tuple[Inputs, Inputs]:
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


def run_pairs(model: VLM, pairs: pd.DataFrame, encoded: Sequence[tuple[Inputs, Inputs]]) -> PairRuns:
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


def groups(
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
            encoded[row] = encode_pair(model, pairs, row, corruption)
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
                yield group, run_pairs(model, group, [encoded[row] for row in chosen]), roles


def _choose_positions(table: pd.DataFrame, positions: Positions) -> pd.DataFrame:
    if isinstance(positions, str) and positions == "all":
        return table
    wanted = [positions] if isinstance(positions, str) else list(positions)
    column = "token_role" if all(isinstance(name, str) for name in wanted) else "position"
    return table[table[column].isin(wanted)]


def site_patches(
    block: str, sites: Sequence[tuple[str, int, int | None]], positions: np.ndarray, n_pairs: int, device: torch.device
) -> Patches:
    """Every site at every position, site by site; the same for all pairs of a group."""
    repeated = [site for site in sites for _ in positions]
    modules, layers, heads = (list(column) for column in zip(*repeated, strict=True))
    where = torch.as_tensor(np.tile(positions, len(sites)), device=device)
    return Patches(block, modules, layers, heads, where.expand(n_pairs, -1))


def region_patches(
    block: str, sites: Sequence[tuple[str, int, int | None]], members: np.ndarray, device: torch.device
) -> Patches:
    """Every site with every region of positions, site by site.

    Args:
        members: (pair, region, length of the block) bool
    """
    repeated = [site for site in sites for _ in range(members.shape[1])]
    modules, layers, heads = (list(column) for column in zip(*repeated, strict=True))
    every = torch.as_tensor(np.tile(members, (1, len(sites), 1)), device=device)
    return Patches(block, modules, layers, heads, every.int().argmax(-1), every)


def effect_table(
    group: pd.DataFrame,
    runs: PairRuns,
    corruption: str,
    patches: Patches,
    roles: pd.DataFrame,
    logit_diff: np.ndarray,
    p_correct: np.ndarray,
) -> pd.DataFrame:
    """The rows of a head_patching table (module_patching: drop head) for a group and its patches of one block.

    Args:
        patches: from `site_patches`
        roles: the group's token tables at the patched positions, one pair after the other
        logit_diff, p_correct: (pair, patch), of the patched run
    """
    n_pairs, n_patches = logit_diff.shape
    base_p = runs.corrupt_readout.p_correct.cpu().numpy()[:, None]
    clean_ld, corrupt_ld = (r.logit_diff.cpu().numpy()[:, None] for r in (runs.clean_readout, runs.corrupt_readout))

    def of_position(column: str) -> np.ndarray:
        by_pair = roles[column].to_numpy().reshape(n_pairs, -1)
        return np.tile(by_pair, (1, n_patches // by_pair.shape[1])).ravel()

    return pd.DataFrame(
        {
            "sample_id": np.repeat(group["sample_id"].to_numpy(), n_patches),
            "corruption": corruption,
            "block": patches.block,
            "module": patches.modules * n_pairs,
            "layer": patches.layers * n_pairs,
            "head": patches.heads * n_pairs,
            "position": of_position("position"),
            "token": of_position("token"),
            "token_role": of_position("token_role"),
            "p_correct": p_correct.ravel(),
            "p_diff": (p_correct - base_p).ravel(),
            "logit_diff": (logit_diff - corrupt_ld).ravel(),
            "patching_effect": patching_effect(logit_diff, clean_ld, corrupt_ld).ravel(),
        }
    )


def in_order_of(pairs: pd.DataFrame, tables: list[pd.DataFrame], positions: Positions) -> pd.DataFrame:
    """Tables of groups as one, in the order of the pairs.

    Raises:
        VlmtraceError: no pair has any of the positions
    """
    if not tables:
        raise VlmtraceError(f"No position matches {positions!r}: choose 'all', token roles of the prompts, or indices.")
    order = {sample: i for i, sample in enumerate(pairs["sample_id"])}
    table = pd.concat(tables, ignore_index=True)
    return table.sort_values("sample_id", key=lambda column: column.map(order), kind="stable", ignore_index=True)
