"""Activation patching the naive way: one whole forward pass with a hook for every patch.

Slow, obvious, and the same for every family. The tests, and the check when a model loads, compare the fast sweeps with
it.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from vlmtrace.models.hooks import HookPoint, attach_hooks
from vlmtrace.models.types import AnswerIds, Inputs, Patches, Readout, Site, Trace, positions_read
from vlmtrace.models.vlm import VLM


def with_patch(corrupt: Tensor, clean: Tensor, positions: list[int], head: int | None, n_heads: int) -> Tensor:
    """The corrupt activation (1, position, width) with some positions, or one head's slice of them, set to clean."""
    width = corrupt.shape[-1] // max(1, n_heads)  # a layer without heads has modules that are patched whole
    columns = slice(None) if head is None else slice(head * width, (head + 1) * width)
    patched = corrupt.clone()
    patched[:, positions, columns] = clean[:, positions, columns]
    return patched


@torch.no_grad()
def sweep(
    model: VLM, clean: Trace, inputs: Inputs, patches: Patches, answer_ids: AnswerIds, image: Tensor | None = None
) -> Readout:
    """Answer every patch of one pair by one hooked forward pass each.

    Args:
        model: any
        clean: trace of the pair's clean run
        inputs: the pair's corrupt inputs (batch 1)
        patches: what to patch
        answer_ids: (1, 2): first tokens of the correct and the incorrect answer
        image: what stands in the place of the image embeddings in the corrupt run; None: nothing does

    Returns:
        Readout of shape (1, patch)
    """
    readouts, block = [], model.blocks[patches.block]
    for i in range(len(patches)):
        chosen = (
            patches.positions[0, i : i + 1]
            if patches.position_masks is None
            else patches.position_masks[0, i].nonzero()[:, 0]
        )
        positions, head = chosen.tolist(), patches.heads[i]
        sites = [
            Site(patches.block, patches.modules[i], layer)
            for layer in patches.window(i)
            if block.has(patches.modules[i], layer)
        ]
        points = [
            (
                model.hook_point(site),
                partial(
                    with_patch,
                    clean=clean[site],
                    positions=positions,
                    head=head,
                    n_heads=block.heads_at(site.layer),
                ),
            )
            for site in sites
        ]
        with attach_hooks(points, n_pairs=1):
            readouts.append(read(model, inputs, answer_ids, image))
    return Readout.cat(readouts, dim=1)


def read(model: VLM, inputs: Inputs, answer_ids: AnswerIds, image: Tensor | None = None) -> Readout:
    """Run one forward pass of one pair and read the answer out: Readout of shape (1, 1)."""
    logits = model.last_logits(inputs, positions_read(answer_ids), image)
    return Readout.of_last(logits[:, None], answer_ids)


@torch.no_grad()
def run_with_fixed_heads(
    model: VLM,
    clean: Trace,
    corrupt: Trace,
    inputs: Inputs,
    keep_clean: dict[str, Tensor],
    answer_ids: AnswerIds,
) -> Readout:
    """Fix every head's output by hooks, one forward pass for each set; `inputs` give the embeddings (batch 1)."""
    readouts = []
    block = model.head_block
    for row in range(len(next(iter(keep_clean.values())))):
        points = []
        for module, keep in keep_clean.items():
            for layer in block.layers_with(module):
                site = Site(block.name, module, layer)
                n_heads = block.heads_at(layer)
                width = clean[site].shape[-1] // n_heads
                mask = keep[row, layer, :n_heads].repeat_interleave(width).to(clean[site].device)
                fixed = torch.where(mask, clean[site], corrupt[site])
                points.append((model.hook_point(site), lambda _value, fixed=fixed: fixed))
        with attach_hooks(points):
            readouts.append(read(model, inputs, answer_ids))
    return Readout.cat(readouts, dim=1)


def hook_points_act(model: VLM, inputs: Inputs) -> list[Site]:
    """Sites at which overwriting the activation leaves the logits as they were: must be empty (a hook that only reads).

    One layer of each block and module is tried: its activation is set to zero at all positions.
    """
    before = model.answer_logits(inputs)
    dead = []
    for block in model.blocks.values():
        for module in dict.fromkeys((*block.modules, *block.hooked_modules)):
            site = Site(block.name, module, block.layers_with(module)[-1])
            point: HookPoint = model.hook_point(site)
            with torch.no_grad(), attach_hooks([(point, torch.zeros_like)]):
                if torch.equal(model.answer_logits(inputs), before):
                    dead.append(site)
    return dead
