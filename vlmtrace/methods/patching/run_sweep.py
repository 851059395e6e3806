"""Run a sweep over patches within a given memory, by the model's fast sweep or by one forward pass per patch.

Shapes: B pairs of a batch, N patches, S positions of a block.
"""

from __future__ import annotations

import psutil
import torch

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.pair_runs import PairRuns
from vlmtrace.models import VLM, Patches, Readout, Trace
from vlmtrace.models.sweep import reference
from vlmtrace.models.vlm import inputs_of_pair

#: Share of the free memory that a sweep may take when `memory_gb` is not given.
MEMORY_SHARE = 0.25

#: On a CPU no more than this many bytes by default: larger batches leave its cache and gain nothing.
CPU_MEMORY = 2**28


def memory_bytes(model: VLM, memory_gb: float | None) -> int:
    """Bytes that a sweep may take.

    Args:
        model: its device decides what is free
        memory_gb: gigabytes; None: `default_memory`

    Returns:
        bytes

    Raises:
        VlmtraceError: memory_gb is not positive
    """
    if memory_gb is not None:
        if memory_gb <= 0:
            raise VlmtraceError(f"memory_gb={memory_gb} leaves no room for a sweep: give a positive number.")
        return int(memory_gb * 2**30)
    return default_memory(model)


def default_memory(model: VLM) -> int:
    """Bytes that a sweep may take where `memory_gb` is not given.

    Args:
        model: its device decides what is free

    Returns:
        a quarter of the free memory, on a CPU at most `CPU_MEMORY`
    """
    if model.device.type == "cuda":
        return int(torch.cuda.mem_get_info(model.device)[0] * MEMORY_SHARE)
    return min(CPU_MEMORY, int(psutil.virtual_memory().available * MEMORY_SHARE))


def memory_for_states(memory: int, runs: PairRuns) -> int:
    """Bytes that are left for patched states beside the activations of both runs; at least 1.

    Args:
        memory: bytes that the sweep may take
        runs: whose activations are in memory

    Returns:
        bytes
    """
    return max(1, memory - runs.clean.nbytes - runs.corrupt.nbytes)


def sweep_patches(model: VLM, runs: PairRuns, patches: Patches, memory: int) -> Readout:
    """Sweep over patches of one block; an activation that equals the corrupt one changes nothing and is not run.

    Args:
        model: the model to patch
        runs: clean and corrupt runs of a batch of pairs
        patches: of one block, for these pairs
        memory: bytes for the patched states

    Returns:
        readout of shape (pair, patch)
    """
    block = patches.block
    # By site, (B, S): the positions at which the pair's activation differs at all.
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
    readouts = []
    for row in range(len(runs.answer_ids)):
        one = slice(row, row + 1)
        clean = Trace(runs.clean.logits[one], {site: value[one] for site, value in runs.clean.activations.items()})
        inputs = inputs_of_pair(runs.inputs, row, len(runs.answer_ids))
        image = None if runs.corrupt.image is None else runs.corrupt.image[one]
        readouts.append(reference.sweep(model, clean, inputs, patches.of_pair(row), runs.answer_ids[one], image))
    return Readout.cat(readouts, dim=0)
