"""Run the model with a circuit of heads: what is inside is computed, what is outside is ablated.

This is the circuit of the literature (Wang et al. 2022, https://arxiv.org/abs/2211.00593): the model runs on the clean
input, all heads outside the circuit get the output that they have on the corrupt input (resample ablation, at all
positions), and the circuit's heads compute theirs from what reaches them then. Contrast `patch_head_sets`, which fixes
the output of *every* head: there a late head brings along what earlier heads gave it in the clean run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pandas as pd
import torch
from torch import Tensor

from vlmtrace.core.arguments import Count, NonEmpty, checked
from vlmtrace.core.errors import one_of
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.pair_runs import PairRuns, WholeRuns
from vlmtrace.methods.circuits.sites import HeadSite, check_heads
from vlmtrace.methods.patching.direction import in_direction
from vlmtrace.methods.patching.sweeps import table_of_sets
from vlmtrace.methods.patching.together import is_fast, readout_of
from vlmtrace.models import VLM, Readout, Site
from vlmtrace.models.hooks import HookPoint, attach_hooks
from vlmtrace.models.interventions import Interventions, Setting
from vlmtrace.models.types import WholeAnswer
from vlmtrace.models.vlm import repeat_inputs


@checked
@torch.no_grad()
def run_circuits(
    model: VLM,
    pairs: pd.DataFrame,
    sets: NonEmpty[Sequence[HeadSite]],
    corruption: str = "image",
    batch_size: Count = 64,
    contrast: str = "answer",
) -> pd.DataFrame:
    """Run clean inputs with all heads outside a set ablated: they get their output of the corrupt run.

    With all heads in the set this is the clean run. With none, every head of the head block is corrupt, and embeddings
    and feed-forwards work on clean input. Several sets of a pair share a forward pass.

    Args:
        model: the model to run
        pairs: a pairs table
        sets: each a list of (module, layer, head) of the model's head block; it may be empty
        corruption: "image" or "text": of the run that gives the ablated heads their output
        batch_size: at most so many sets in one forward pass, where the model has no fast path for them
        contrast: what LD compares the correct answer with, as in `patch_modules`

    Returns:
        one row per pair and set: sample_id, set (its index in `sets`), logit_diff (LD of this run, in logits) and
        patching_effect, (LD − LD_corrupt) / (LD_clean − LD_corrupt), missing where clean and corrupt do not differ

    Raises:
        VlmtraceError: a name is unknown, a head does not exist, or the table breaks the contract

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.methods.circuits import run_circuits
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> block = model.head_block
        >>> every = [(module, layer, head) for module in block.head_modules
        ...          for layer in range(block.n_layers) for head in range(block.n_heads)]
        >>> run_circuits(model, pairs, [[], every]).groupby("set")["patching_effect"].mean().round(3).abs().tolist()
        [0.0, 1.0]
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    for heads in sets:
        check_heads(model, heads)
    what = f"{len(sets)} circuits, {corruption}"
    return table_of_sets(
        model, pairs, what, corruption, contrast, lambda runs: circuit_readout(model, runs, sets, batch_size).logit_diff
    )


@torch.no_grad()
def circuit_readout(model: VLM, runs: PairRuns, sets: Sequence[Sequence[HeadSite]], batch_size: int = 64) -> Readout:
    """Run one pair with all heads outside a set ablated, as `run_circuits`.

    Args:
        model: the model to run
        runs: of one pair
        sets: each a list of (module, layer, head)
        batch_size: at most so many sets in one forward pass, where the model has no fast path for them

    Returns:
        readout (set,); where answers have several tokens, of the runs with either answer given
    """
    given = _interventions(model, sets)
    # What `readout_of` changes is the corrupt run: here that is the clean one.
    swapped = in_direction(runs, "noising")
    if is_fast(model, swapped, given):
        found = readout_of(model, swapped, given, whole_sequence=True)  # (1, set)
        return Readout(*(value[0] for value in (found.correct, found.incorrect, found.log_normalizer)))
    # The vision encoder lies before every head of the block, and its input is clean, whatever the answer given.
    image = model.image_embeddings(runs.clean_inputs) if "vision_encoder" in model.blocks else None
    if runs.whole is None:
        logits = _logits(model, runs, sets, batch_size, 1, image)[:, 0]
        return Readout.of(logits, runs.answer_ids.expand(len(logits), -1))
    both = []
    for side in runs.whole:
        last = _logits(model, side, sets, batch_size, side.ids.n_positions, image)
        both.append(Readout.of_last(last, WholeAnswer(side.ids.ids.expand(len(last), -1))))
    return Readout.of_two(*both)


def _interventions(model: VLM, sets: Sequence[Sequence[HeadSite]]) -> Interventions:
    """One intervention for each set: all heads outside it get their corrupt output, at all positions."""
    overwritten = {}
    for (module, layer), inside in _heads_inside(model, sets).items():
        left = (~inside.all(-1)).nonzero()[:, 0].tolist()
        if left:
            mask = ~inside[left][None, :, None]  # (1, n, 1, head)
            overwritten[Site(model.head_block.name, module, layer)] = Setting(left, mask.to(model.device))
    return Interventions(len(sets), overwritten)


def _heads_inside(model: VLM, sets: Sequence[Sequence[HeadSite]]) -> dict[tuple[str, int], Tensor]:
    """By module and layer, which heads are in each set: (set, head) bool."""
    block = model.head_block
    inside = {
        (module, layer): torch.zeros(len(sets), block.heads_at(layer), dtype=torch.bool)
        for module in block.head_modules
        for layer in block.layers_with(module)
    }
    for row, heads in enumerate(sets):
        for module, layer, head in heads:
            inside[module, layer][row, head] = True
    return inside


def _logits(
    model: VLM,
    side: PairRuns | WholeRuns,
    sets: Sequence[Sequence[HeadSite]],
    batch_size: int,
    n: int,
    image: Tensor | None,
) -> Tensor:
    """Logits (set, n, vocabulary) of a pair's last n positions: each row of a pass has its own set of heads."""
    logits = []
    for start in range(0, len(sets), batch_size):
        batch = sets[start : start + batch_size]
        inputs = repeat_inputs(side.clean_inputs, len(batch))
        embeddings = None if image is None else image.expand(len(batch), *image.shape[1:])
        with attach_hooks(list(_ablations(model, side, batch)), n_pairs=len(batch)):
            logits.append(model.last_logits(inputs, n, embeddings))
    return torch.cat(logits)


def _ablations(
    model: VLM, side: PairRuns | WholeRuns, sets: Sequence[Sequence[HeadSite]]
) -> Iterator[tuple[HookPoint, Callable[[Tensor], Tensor]]]:
    """Hooks of all sites of heads where some set leaves some head out."""
    for (module, layer), inside in _heads_inside(model, sets).items():
        if not inside.all():
            site = Site(model.head_block.name, module, layer)
            yield model.hook_point(site), _ablate_outside(inside[:, None], side.corrupt[site])


def _ablate_outside(inside: Tensor, corrupt: Tensor) -> Callable[[Tensor], Tensor]:
    """A hook: heads inside (set, 1, head) keep what they compute, all others get the output in corrupt (1, S, D)."""
    # (set, 1, D)
    keep = inside.repeat_interleave(corrupt.shape[-1] // inside.shape[-1], dim=-1).to(corrupt.device)
    return lambda value: torch.where(keep, value, corrupt)
