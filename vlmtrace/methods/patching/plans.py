"""Which sites a sweep visits, and the patches that it makes there: the same for exact patching and for gradients.

A plan lists, by block, the sites (module, layer, head) that are patched at every position; `site_patches` and
`region_patches` combine them with positions. Shapes: B pairs of a batch, R regions, S positions of the block,
N patches = sites × positions (or × regions).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch

from vlmtrace.core.errors import one_of
from vlmtrace.inputs.batching import Plan
from vlmtrace.models import VLM, Patches


def module_plan(model: VLM, modules: Sequence[str] | None, blocks: Sequence[str] | None) -> Plan:
    """Plan whole activations: the chosen modules of the chosen blocks, in every layer that has them.

    Args:
        model: the model whose blocks are meant
        modules: e.g. ("residual", "mlp"); None: all that a block offers
        blocks: e.g. ("text_encoder",); None: all

    Returns:
        by block, (module, layer, None) of each site

    Raises:
        VlmtraceError: a block or module is unknown
    """
    known = list(model.blocks) if blocks is None else [one_of(name, model.blocks, "block") for name in blocks]
    chosen = _choose_modules({name: model.blocks[name].modules for name in known}, modules)
    return {
        name: [
            (module, layer, None)
            for layer in range(model.blocks[name].n_layers)
            for module in wanted
            if model.blocks[name].has(module, layer)
        ]
        for name, wanted in chosen.items()
    }


def head_plan(model: VLM, modules: Sequence[str] | None) -> Plan:
    """Plan single heads: every layer and head of the chosen attention modules of the head block.

    Args:
        model: the model whose heads are meant
        modules: e.g. ("cross_attention",); None: all attention modules of the head block

    Returns:
        for the head block, (module, layer, head) of each site

    Raises:
        VlmtraceError: a module is unknown
    """
    block = model.head_block
    chosen = _choose_modules({block.name: block.head_modules}, modules)
    return {
        block.name: [
            (module, layer, head)
            for layer in range(block.n_layers)
            for module in chosen[block.name]
            for head in range(block.heads_at(layer))
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
    """Make a patch for every site at every position, the same for all pairs of a batch.

    Args:
        block: whose sites
        sites: (module, layer, head) each; head None: the whole activation
        positions: (position,), indices in the block's sequence
        n_pairs: of the batch
        device: of the model

    Returns:
        patches site by site, and within a site position by position
    """
    repeated = [site for site in sites for _ in positions]
    modules, layers, heads = (list(column) for column in zip(*repeated, strict=True))
    repeated_positions = torch.as_tensor(np.tile(positions, len(sites)), device=device)  # (N,)
    return Patches(block, modules, layers, heads, repeated_positions.expand(n_pairs, -1))


def patches_of_batch(
    plan: Plan, roles: dict[str, pd.DataFrame], n_pairs: int, device: torch.device
) -> Iterator[Patches]:
    """Make the patches of a batch, block by block; a block that has none of the positions is left out.

    Args:
        plan: by block, its sites
        roles: by block, the pairs' token tables at the patched positions, one pair after the other
        n_pairs: of the batch
        device: of the model

    Yields:
        the patches of one block
    """
    for block, sites in plan.items():
        positions = roles[block]["position"].to_numpy()[: len(roles[block]) // n_pairs]
        if len(positions):
            yield site_patches(block, sites, positions, n_pairs, device)


def region_patches(
    block: str, sites: Sequence[tuple[str, int, int | None]], position_masks: np.ndarray, device: torch.device
) -> Patches:
    """Make a patch for every site with every region of positions.

    Args:
        block: whose sites
        sites: (module, layer, head) each; head None: the whole activation
        position_masks: (pair, region, position) bool: which positions belong to the region
        device: of the model

    Returns:
        patches site by site, and within a site region by region
    """
    repeated = [site for site in sites for _ in range(position_masks.shape[1])]
    modules, layers, heads = (list(column) for column in zip(*repeated, strict=True))
    masks = torch.as_tensor(np.tile(position_masks, (1, len(sites), 1)), device=device)  # (B, N, S)
    first_positions = masks.int().argmax(-1)  # (B, N)
    return Patches(block, modules, layers, heads, first_positions, masks)
