"""Interventions in the runs of pairs, by the model's fast path where it has one.

Shapes: P pairs of a batch, I interventions, S positions of a block, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vlmtrace.inputs.batch_runs import PairRuns, both_answers
from vlmtrace.methods.patching.intervention import Patch
from vlmtrace.methods.patching.run_sweep import default_memory, joined_runs, memory_for_states
from vlmtrace.models import VLM, Readout
from vlmtrace.models.interventions import Interventions, Setting
from vlmtrace.models.types import Site


def is_fast(model: VLM, runs: PairRuns, given: Interventions) -> bool:
    """Whether the model has a fast path for all of several interventions, as it is and for these inputs.

    Args:
        model: any
        runs: of a batch of pairs
        given: the interventions
    """
    return model.uses_fast_sweep and model.intervenes_in(given) and not model.sweep_unsupported_reason(runs.inputs)


def fast_ones(model: VLM, runs: PairRuns, given: Interventions) -> list[int]:
    """The numbers of the interventions for which `is_fast` holds.

    Args:
        model: any
        runs: of a batch of pairs
        given: the interventions
    """
    if not model.uses_fast_sweep or model.sweep_unsupported_reason(runs.inputs):
        return []
    if model.intervenes_in(given):
        return list(range(len(given)))
    return [i for i in range(len(given)) if model.intervenes_in(given.subset([i]))]


def interventions_of(model: VLM, runs: PairRuns, sets: Sequence[Sequence[Patch]]) -> Interventions:
    """Sets of patches as interventions in the prompt's positions.

    Args:
        model: that has the sites
        runs: of one pair, whose traces hold all sites
        sets: each a list of patches that act together, with indices of positions

    Returns:
        one intervention for each set
    """
    by_site: dict[Site, dict[int, list[Patch]]] = {}
    for number, patches in enumerate(sets):
        for patch in patches:
            by_site.setdefault(patch.site, {}).setdefault(number, []).append(patch)
    overwritten = {}
    for site, by_set in by_site.items():
        by_head = any(patch.heads is not None for patches in by_set.values() for patch in patches)
        n_heads = model.blocks[site.block].heads_at(site.layer) if by_head else 1
        mask = torch.zeros(1, len(by_set), runs.corrupt[site].shape[1], n_heads, dtype=torch.bool)
        for row, patches in enumerate(by_set.values()):
            for patch in patches:
                positions = slice(None) if (at := patch.indices) is None else list(at)
                chosen = mask[0, row, positions]  # (position, H)
                chosen[:, slice(None) if patch.heads is None else list(patch.heads)] = True
                mask[0, row, positions] = chosen
        overwritten[site] = Setting(list(by_set), mask.to(model.device))
    return Interventions(len(sets), overwritten)


def readout_of(model: VLM, runs: PairRuns, given: Interventions, whole_sequence: bool = False) -> Readout:
    """Readout (P, I) of interventions that copy from the clean into the corrupt runs, by the model's fast path.

    Args:
        model: see `is_fast`
        runs: of a batch of pairs
        given: the interventions; masks of positions are those of the prompt
        whole_sequence: masks hold for all positions, also those of an answer that is given

    Returns:
        readout of shape (pair, intervention); an intervention that changes nothing is not run
    """
    given = given.acting(runs.clean, runs.corrupt, list(model.blocks))
    idle = set(given.idle)
    active = [i for i in range(len(given)) if i not in idle]
    base = runs.corrupt_readout
    values = [column[:, None].repeat(1, len(given)) for column in (base.correct, base.incorrect, base.log_normalizer)]
    if active:
        chosen = given.subset(active)
        memory = memory_for_states(default_memory(model), runs)
        shared = both_answers(model, runs) if model.answer_block not in chosen.blocks else None
        if runs.whole is None or shared is not None:
            ids = runs.answer_ids if shared is None else shared
            found = model.intervene(runs.clean, runs.corrupt, runs.inputs, chosen, ids, memory)
        elif not whole_sequence and (joined := joined_runs(model, runs, chosen.blocks)):
            longer = chosen.lengthened(joined.corrupt)
            found = model.intervene(joined.clean, joined.corrupt, runs.whole[0].inputs, longer, joined.ids, memory)
        else:
            found = Readout.of_two(
                *(
                    model.intervene(
                        side.clean,
                        side.corrupt,
                        side.inputs,
                        chosen if whole_sequence else chosen.lengthened(side.corrupt),
                        side.ids,
                        memory,
                    )
                    for side in runs.whole
                )
            )
        for value, new in zip(values, (found.correct, found.incorrect, found.log_normalizer), strict=True):
            value[:, active] = new
    return Readout(*values)
