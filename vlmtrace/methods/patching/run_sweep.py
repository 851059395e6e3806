"""Run a sweep over patches within a given memory, by the model's fast sweep or by one forward pass per patch.

Shapes: B pairs of a batch, N patches, S positions of a block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import psutil
import torch
import torch.nn.functional as F

from vlmtrace.core.arguments import Positive, checked
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.batch_runs import PairRuns, both_answers
from vlmtrace.models import VLM, Inputs, Patches, Readout, Trace
from vlmtrace.models.sweep import reference
from vlmtrace.models.sweep.joined_answers import Joined, Side, join
from vlmtrace.models.sweep.layer_masks import BLOCK
from vlmtrace.models.types import AnswerIds, Block, BothAnswers, JoinedAnswers
from vlmtrace.models.vlm import inputs_of_pair

#: Share of the free memory that a sweep may take when `memory_gb` is not given.
MEMORY_SHARE = 0.25

#: On a CPU no more than this many bytes by default: larger batches leave its cache and gain nothing.
CPU_MEMORY = 2**28


@checked
def memory_bytes(model: VLM, memory_gb: Positive | None) -> int:
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
        # States go through all of a model's devices: the one with the least room decides.
        return int(min(torch.cuda.mem_get_info(one)[0] for one in model.devices) * MEMORY_SHARE)
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
    windows = [_layers_set(patches, i, model.blocks[block]) for i in range(len(patches))]
    sites = {(patches.modules[i], layer) for i, window in enumerate(windows) for layer in window}
    differs = {
        (module, layer): (runs.clean[block, module, layer] != runs.corrupt[block, module, layer]).any(-1).cpu()
        for module, layer in sites
    }
    active = [
        i
        for i, window in enumerate(windows)
        if any(_changes(patches, i, differs[patches.modules[i], layer]) for layer in window)
    ]
    base = runs.corrupt_readout
    values = [column[:, None].repeat(1, len(patches)) for column in (base.correct, base.incorrect, base.log_normalizer)]
    if active:
        chosen = patches.subset(active)
        shared = both_answers(model, runs) if patches.block != model.answer_block else None
        if runs.whole is None:
            swept = _sweep(model, runs.clean, runs.corrupt, runs.inputs, chosen, runs.answer_ids, memory)
        elif shared is not None and _is_fast(model, chosen, runs.inputs):
            swept = model.sweep(runs.clean, runs.corrupt, runs.inputs, chosen, shared, memory)
        elif _is_fast(model, chosen, runs.inputs) and (joined := joined_runs(model, runs, [patches.block])):
            longer = _lengthened(chosen, joined.clean)
            swept = model.sweep(joined.clean, joined.corrupt, runs.whole[0].inputs, longer, joined.ids, memory)
        else:
            # Each answer is given in a run of its own: what a patch does to both is what it does in both runs.
            both = [
                _sweep(model, one.clean, one.corrupt, one.inputs, _lengthened(chosen, one.clean), one.ids, memory)
                for one in runs.whole
            ]
            swept = Readout.of_two(*both)
        _refuse_not_finite(model, chosen, swept)
        for value, new in zip(values, (swept.correct, swept.incorrect, swept.log_normalizer), strict=True):
            value[:, active] = new
    return Readout(*values)


def joined_runs(model: VLM, runs: PairRuns, blocks: Collection[str]) -> Joined | None:
    """The runs of both answers as one, see `vlmtrace.models.sweep.joined_answers`.

    Args:
        model: that ran
        runs: of answers of several tokens
        blocks: in which something is changed, at the prompt's positions alone

    Returns:
        both as one; None where they cannot be joined, or something else is changed than the block in which answers
        stand behind their prompt
    """
    assert runs.whole is not None, "both answers have one token"
    if not model.joins_answers or set(blocks) != {BLOCK}:
        return None
    return join(model, *(Side(side.ids, side.clean, side.corrupt) for side in runs.whole))


def _is_fast(model: VLM, patches: Patches, inputs: Inputs) -> bool:
    known = patches.position_masks is None or model.sweeps_regions
    return known and model.uses_fast_sweep and not model.sweep_unsupported_reason(inputs)


def _sweep(
    model: VLM, clean: Trace, corrupt: Trace, inputs: Inputs, patches: Patches, answer_ids: AnswerIds, memory: int
) -> Readout:
    if _is_fast(model, patches, inputs):
        return model.sweep(clean, corrupt, inputs, patches, answer_ids, memory)
    readouts = []
    assert not isinstance(answer_ids, BothAnswers | JoinedAnswers), "only a fast sweep reads two answers at once"
    n = len(answer_ids)
    for row in range(n):
        one = slice(row, row + 1)
        image = None if corrupt.image is None else corrupt.image[one]
        mine = inputs_of_pair(inputs, row, n)
        readouts.append(reference.sweep(model, clean.rows(one), mine, patches.of_pair(row), answer_ids[one], image))
    return Readout.cat(readouts, dim=0)


def _refuse_not_finite(model: VLM, patches: Patches, swept: Readout) -> None:
    bad = ~(swept.correct - swept.incorrect + swept.log_normalizer).isfinite()  # (pair, patch)
    if bad.any():
        i = int(bad.any(0).nonzero()[0])
        raise VlmtraceError(
            f"A patch of {patches.modules[i]} of layer {patches.layers[i]} of {patches.block} makes {model.name} give "
            "numbers that are not finite, though both of its runs are: load it with dtype float32."
        )


def _lengthened(patches: Patches, trace: Trace) -> Patches:
    """The same patches of a run whose sequence goes on with an answer; none of them sets a position of the answer."""
    masks = patches.position_masks
    if masks is None:
        return patches
    length = trace[patches.block, patches.modules[0], patches.layers[0]].shape[1]
    return dataclasses.replace(patches, position_masks=F.pad(masks, (0, length - masks.shape[-1])))


def _layers_set(patches: Patches, patch: int, block: Block) -> list[int]:
    """The layers that a patch sets: those of its window that have the module."""
    return [layer for layer in patches.window(patch) if block.has(patches.modules[patch], layer)]


def _changes(patches: Patches, patch: int, differs: torch.Tensor) -> bool:
    """Whether a patch changes any pair's activation, given where (pair, position) it differs."""
    if patches.position_masks is not None:
        return bool((differs & patches.position_masks[:, patch].cpu()).any())
    return bool(differs.gather(1, patches.positions[:, patch : patch + 1].cpu()).any())
