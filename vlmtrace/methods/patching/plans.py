"""Pairs in groups of equal shape, their clean and corrupt runs, and the table that tells what a sweep found.

What exact patching and its gradient approximations share: which sites are meant, which positions, which pairs can
go together, and how effects become rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vlmtrace.core.errors import one_of
from vlmtrace.inputs.batching import Plan
from vlmtrace.models import VLM, Patches


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


def site_patches(
    block: str, sites: Sequence[tuple[str, int, int | None]], positions: np.ndarray, n_pairs: int, device: torch.device
) -> Patches:
    """Every site at every position, site by site; the same for all pairs of a group."""
    repeated = [site for site in sites for _ in positions]
    modules, layers, heads = (list(column) for column in zip(*repeated, strict=True))
    where = torch.as_tensor(np.tile(positions, len(sites)), device=device)
    return Patches(block, modules, layers, heads, where.expand(n_pairs, -1))


def region_patches(
    block: str, sites: Sequence[tuple[str, int, int | None]], position_masks: np.ndarray, device: torch.device
) -> Patches:
    """Every site with every region of positions, site by site.

    Args:
        position_masks: (pair, region, length of the block) bool
    """
    repeated = [site for site in sites for _ in range(position_masks.shape[1])]
    modules, layers, heads = (list(column) for column in zip(*repeated, strict=True))
    every = torch.as_tensor(np.tile(position_masks, (1, len(sites), 1)), device=device)
    return Patches(block, modules, layers, heads, every.int().argmax(-1), every)
