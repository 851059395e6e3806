"""What a patch does to first order: the gradient of the logit difference, times the change of the activation.

Shapes: B pairs of a batch, S positions of a block, D its width, N patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vlmtrace.inputs.pair_runs import PairRuns, WholeRuns
from vlmtrace.models import VLM, Patches, Readout, Site
from vlmtrace.models.hooks import attach_hooks
from vlmtrace.models.types import AnswerIds, WholeAnswer, positions_read


def site_gradients(model: VLM, runs: PairRuns, sites: Sequence[Site], steps: int = 1) -> dict[Site, Tensor]:
    """Gradient of each pair's logit difference with respect to the activation at every site.

    Args:
        model: the model to trace
        runs: clean and corrupt runs of a batch of pairs
        sites: where the gradient is wanted
        steps: how many gradients are averaged, see `attribute_modules`

    Returns:
        by site, (pair, position, width): at the corrupt run (steps = 1) or averaged on the way to the clean one
    """
    # α = 0 is the corrupt run; with more steps the midpoints of equal intervals (midpoint rule).
    alphas = [0.0] if steps == 1 else [(i + 0.5) / steps for i in range(steps)]
    total: dict[Site, Tensor] = {}
    for alpha in alphas:
        for entries, together in _sites_by_entries(model, sites):
            for site, gradient in _gradients_at(model, runs, together, alpha, entries).items():
                total[site] = total.get(site, torch.zeros_like(gradient)) + gradient / len(alphas)
    return total


def _sites_by_entries(model: VLM, sites: Sequence[Site]) -> list[tuple[tuple[str, ...], list[Site]]]:
    """Sites that one backward pass can serve, each with the blocks whose input is set on the way to the clean run.

    Where image tokens stand in the text sequence, setting the language model's input would cut it off from the vision
    encoder: for sites of the vision encoder only the encoder's own input is set, and the rest follows from it.
    """
    if not model.has_visual_tokens:
        return [(model.entry_blocks, list(sites))]
    found = []
    for i, block in enumerate(model.entry_blocks):
        own = [site for site in sites if site.block == block]
        if own:
            found.append((model.entry_blocks[: i + 1], own))
    return found


def _gradients_at(
    model: VLM, runs: PairRuns, sites: Sequence[Site], alpha: float, entries: Sequence[str]
) -> dict[Site, Tensor]:
    """Gradients of the logit difference part of the way from the corrupt to the clean run."""
    if runs.whole is None:
        return _gradients_of_run(model, runs, runs.answer_ids, sites, alpha, entries)
    correct, contrast = (_gradients_of_run(model, one, one.ids, sites, alpha, entries) for one in runs.whole)
    # Either run goes on with an answer: what both have in common are the positions of the prompt.
    lengths = {site: runs.clean[site].shape[1] for site in sites}
    return {site: correct[site][:, :n] - contrast[site][:, :n] for site, n in lengths.items()}


def _gradients_of_run(
    model: VLM,
    runs: PairRuns | WholeRuns,
    answer_ids: AnswerIds,
    sites: Sequence[Site],
    alpha: float,
    entries: Sequence[str],
) -> dict[Site, Tensor]:
    probes: dict[Site, Tensor] = {}

    def probe(site: Site) -> Callable[[Tensor], Tensor]:
        def add_zero(value: Tensor) -> Tensor:
            # Adding a zero that requires a gradient reads the gradient at this very activation, whatever comes before.
            probes[site] = torch.zeros_like(value, requires_grad=True)
            return value + probes[site]

        return add_zero

    def start(block: str) -> Callable[[Tensor], Tensor]:
        return lambda _value: torch.lerp(runs.corrupt.layer_inputs[block], runs.clean.layer_inputs[block], alpha)

    points = [(model.entry_point(block), start(block)) for block in entries]
    points += [(model.hook_point(site), probe(site)) for site in sites]
    with torch.enable_grad(), attach_hooks(points, len(runs.inputs["input_ids"])):
        logits = model.last_logits(runs.inputs, positions_read(answer_ids))
        readout = Readout.of_last(logits, answer_ids)
        total = (readout.correct if isinstance(answer_ids, WholeAnswer) else readout.logit_diff).sum()
        # Pairs of a batch do not touch each other, so the gradient of the sum is each pair's own.
        found = torch.autograd.grad(total, list(probes.values()), allow_unused=True)
    gradients = zip(probes.items(), found, strict=True)
    return {site: torch.zeros_like(zero) if g is None else g for (site, zero), g in gradients}


def first_order(model: VLM, runs: PairRuns, gradients: dict[Site, Tensor], patches: Patches) -> np.ndarray:
    """What each patch does to LD, to first order: ∇LD·(clean − corrupt).

    Args:
        model: the model to trace
        runs: clean and corrupt runs of a batch of pairs
        gradients: of `site_gradients`
        patches: of one block, at single positions that all pairs share

    Returns:
        (pair, patch), in logits
    """
    block = model.blocks[patches.block]
    numbers: dict[Site, dict[int | None, list[int]]] = {}  # by site and head, which patches
    for i, (module, layer, head) in enumerate(zip(patches.modules, patches.layers, patches.heads, strict=True)):
        numbers.setdefault(Site(patches.block, module, layer), {}).setdefault(head, []).append(i)
    positions = patches.positions[0].cpu()  # (N,), fetched from the device once
    change = torch.empty(patches.positions.shape)  # (B, N)
    for site, by_head in numbers.items():
        step = runs.clean[site] - runs.corrupt[site]  # (B, S, D)
        by_column = gradients[site].float() * step.float()  # (B, S, D)
        # A layer without heads has modules that are patched whole.
        product = by_column.unflatten(-1, (max(1, block.heads_at(site.layer)), -1)).sum(-1).cpu()  # (B, S, head)
        for head, mine in by_head.items():
            chosen = product[:, positions[mine]]  # (B, patch, head)
            change[:, mine] = chosen.sum(-1) if head is None else chosen[..., head]
    return change.numpy()
