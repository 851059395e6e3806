"""Runs of pairs, and what patches that act together do in them: where each acts, and what is read out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from vlmtrace.core.errors import one_of
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import validate_pairs
from vlmtrace.inputs.batching import one_by_one
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.named_positions import named_positions
from vlmtrace.inputs.pair_runs import PairRuns
from vlmtrace.methods.patching.intervention import Patch, check_patch, patched_readout
from vlmtrace.methods.patching.together import fast_ones, interventions_of, readout_of
from vlmtrace.models import VLM, Inputs, Readout, Site

#: Interventions that share a forward pass.
BATCH_SIZE = 32


def placed_patch(model: VLM, pair: Mapping[str, Any], inputs: Inputs, patch: Patch) -> Patch:
    """The patch with indices where its positions are names.

    Args:
        model: tells tokens and image positions
        pair: a row of a pairs table
        inputs: the pair's inputs (batch 1)
        patch: whose positions are indices, names, or None

    Returns:
        the patch with indices; none where the pair has nothing of a name

    Raises:
        VlmtraceError: no position of the block could have that name
    """
    names = [name for name in patch.positions or () if isinstance(name, str)]
    if not names:
        return patch
    model.check_site(patch.site)
    found = named_positions(model, pair, patch.block, inputs, names)
    indices = {int(i) for chosen in found.values() for i in chosen.nonzero()[0]}
    indices |= {index for index in patch.positions or () if not isinstance(index, str)}
    return patch._replace(positions=tuple(sorted(indices)))


def runs_by_pair(
    model: VLM, pairs: pd.DataFrame, corruption: str, title: str, contrast: str = "answer"
) -> Iterator[tuple[int, dict[str, Any], PairRuns]]:
    """Clean and corrupt runs, pair by pair; pairs of equal shape come one after the other.

    Args:
        model: runs them
        pairs: a pairs table
        corruption: "image" or "text"
        title: what the progress bar says
        contrast: "answer" or "options", see `patch_modules`

    Yields:
        the pair's number in the table, its row, and its runs (batch 1)

    Raises:
        VlmtraceError: the table breaks the contract or has no row, or the runs of a pair cannot be aligned
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    pairs = validate_pairs(pairs).reset_index(drop=True)
    with counter(len(pairs), f"{title}, {len(pairs)} pairs") as advance:
        for row, runs in one_by_one(model, pairs, corruption, contrast):
            yield row, pairs.iloc[[row]].to_dict("records")[0], runs
            advance(1)


def together_readout(
    model: VLM, runs: PairRuns, interventions: Sequence[Sequence[Patch]], batch_size: int = BATCH_SIZE
) -> Readout:
    """Readout under each of several interventions, also at sites that no sweep goes through.

    Args:
        model: the model to patch
        runs: of one pair (batch 1); what their traces lack is added to them
        interventions: each a list of patches that act together
        batch_size: at most so many in one forward pass, where the model has no fast path for them

    Returns:
        readout of shape (intervention,)

    Raises:
        VlmtraceError: a patch names what the model does not have
    """
    add_missing_sites(model, runs, [patch.site for patches in interventions for patch in patches])
    for patches in interventions:
        for patch in patches:
            check_patch(model, runs, patch)
    given = interventions_of(model, runs, interventions)
    # The fast path may know some of them only.
    fast = fast_ones(model, runs, given)
    slow = sorted(set(range(len(given))) - set(fast))
    readouts = []
    if fast:
        swept = readout_of(model, runs, given.subset(fast))
        readouts.append(Readout(*(value[0] for value in (swept.correct, swept.incorrect, swept.log_normalizer))))
    if slow:
        readouts.append(patched_readout(model, runs, [interventions[i] for i in slow], batch_size))
    found = Readout.cat(readouts, dim=0)
    back = torch.tensor(fast + slow, device=found.correct.device).argsort()
    return Readout(found.correct[back], found.incorrect[back], found.log_normalizer[back])


def add_missing_sites(model: VLM, runs: PairRuns, sites: Sequence[Site]) -> None:
    """Run again for sites that a trace leaves out since no sweep goes through them, such as heads of a vision encoder.

    Args:
        model: that was run
        runs: whose traces get these sites
        sites: any
    """
    wanted = [model.check_site(site) for site in dict.fromkeys(sites)]
    for side in (runs, *(runs.whole or ())):
        for trace, inputs in ((side.clean, side.clean_inputs), (side.corrupt, side.inputs)):
            missing = [site for site in wanted if site not in trace.activations]
            if missing:
                trace.activations.update(model.trace(inputs, missing).activations)
