"""Activation patching: what would the corrupt run have answered, had this one activation been the clean one?

All sweeps are exact: each number is what a full forward pass with that one patch gives. How that is computed quickly
is in `vlmtrace.models.sweep`, and the plain way, one forward pass per patch, in `vlmtrace.models.sweep.reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import torch

from vlmtrace.core.arguments import NonEmpty, Positive, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.progress import counter
from vlmtrace.core.schema import validate_pairs
from vlmtrace.inputs.batch_runs import PairRuns, WholeRuns, both_answers
from vlmtrace.inputs.batching import Plan, Positions, batches_of_pairs, one_by_one
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.methods.patching.direction import DIRECTIONS, in_direction
from vlmtrace.methods.patching.metrics import concat_in_order, effect_table, patching_effect
from vlmtrace.methods.patching.plans import head_plan, module_plan, patches_of_batch
from vlmtrace.methods.patching.run_sweep import memory_bytes, memory_for_states, sweep_patches
from vlmtrace.models import VLM, Readout, Site
from vlmtrace.models.sweep import reference
from vlmtrace.models.types import AnswerIds


@checked
def patch_modules(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str = "image",
    modules: NonEmpty[str] | None = None,
    positions: Positions = "all",
    blocks: NonEmpty[str] | None = None,
    memory_gb: Positive | None = None,
    contrast: str = "answer",
    direction: str = "denoising",
) -> pd.DataFrame:
    """Patch whole activations from the clean into the corrupt run, one layer × position × module at a time.

    Activation patching by denoising (Vig et al. 2020, https://arxiv.org/abs/2004.12265; Meng et al. 2022,
    https://arxiv.org/abs/2202.05262), with pairs of images as in Golovanevsky et al. 2025
    (https://arxiv.org/abs/2406.16320).

    Args:
        model: the model to patch
        pairs: a pairs table
        corruption: "image" or "text"
        modules: e.g. ("residual", "mlp", "self_attention", "cross_attention"); None: all that a block offers
        positions: "all", "text" (all but image tokens), token roles ("correct", "image", "last", …) or indices
        blocks: e.g. ("vision_encoder", "text_encoder"); None: all
        memory_gb: gigabytes for the runs' activations and the patched states, whatever the number of sites; None: a
            quarter of what is free, on a CPU at most 1/4. Never less than the two runs and one patched state need.
        contrast: what the correct answer is compared with under text corruption: "answer", the corrupt run's own
            answer, so that effects of 0 and 1 mean the two answers that the runs give; "options", the incorrect option,
            as published. Under image corruption both are the incorrect option
        direction: "denoising": from the clean into the corrupt run, what is enough; "noising": from the corrupt into
            the clean run, what is needed. Effects are shares of the same gap, and 1 is then that as much is lost as the
            corruption takes

    Returns:
        The module_patching table, one row per pair, layer, position and module: sample_id, corruption, block, module,
        layer, position, token, token_role, and

        - p_correct: probability of the correct answer (of all of its tokens) in the patched run (0 to 1)
        - p_diff: p_correct less that of the run that is patched
        - logit_diff: LD_patched less LD of the run that is patched, in logits; of answers of several tokens LD is the
          difference of their log-probabilities
        - patching_effect: (LD_patched − LD_corrupt) / (LD_clean − LD_corrupt); of noising
          (LD_clean − LD_patched) / (LD_clean − LD_corrupt). Missing where clean and corrupt do not differ
        - direction
        - contrast_token: the answer that the correct one is compared with

    Raises:
        VlmtraceError: a name is unknown, the table breaks the contract, or the runs of a pair cannot be aligned

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> effects = vt.patch_modules(model, pairs, modules=["cross_attention"], blocks=["text_encoder"])
        >>> at_option = effects[effects["token_role"] == "correct"]
        >>> at_option.groupby("layer")["patching_effect"].mean().round(1).abs().tolist()
        [0.0, 0.0, 0.2, 0.1]
    """
    plan = module_plan(model, modules, blocks)
    return _patch(model, pairs, corruption, plan, positions, memory_gb, contrast, direction).drop(columns="head")


@checked
def patch_heads(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str = "image",
    modules: NonEmpty[str] | None = None,
    positions: Positions = "all",
    memory_gb: Positive | None = None,
    contrast: str = "answer",
    direction: str = "denoising",
) -> pd.DataFrame:
    """Patch single heads' outputs (before the output projection), one layer × position × head at a time.

    The method is that of `patch_modules`, the heads are those of the block that reads the question.

    Args:
        model: the model to patch
        pairs: a pairs table
        corruption: "image" or "text"
        modules: attention modules, e.g. ("cross_attention",); None: all of the head block
        positions: "all", "text" (all but image tokens), token roles ("correct", "image", "last", …) or indices
        memory_gb: as in `patch_modules`
        contrast: as in `patch_modules`
        direction: as in `patch_modules`

    Returns:
        the head_patching table, one row per pair, layer, position and head: the columns of `patch_modules`, with head
        (counted from 0) after layer

    Raises:
        VlmtraceError: a name is unknown, the table breaks the contract, or the runs of a pair cannot be aligned

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> effects = vt.patch_heads(model, pairs, modules=["cross_attention"])
        >>> over_positions = effects.groupby(["layer", "head"])["patching_effect"].sum()
        >>> len(over_positions), over_positions.nlargest(1).index.tolist()
        (32, [(3, 1)])
    """
    return _patch(model, pairs, corruption, head_plan(model, modules), positions, memory_gb, contrast, direction)


@checked
def patch_head_sets(
    model: VLM,
    pairs: pd.DataFrame,
    sets: NonEmpty[Sequence[tuple[str, int, int]]],
    corruption: str = "image",
    reverse: bool = False,
    contrast: str = "answer",
) -> pd.DataFrame:
    """Fix the output of every head at all positions: clean for the heads of a set, corrupt for all others.

    The embeddings are those of the corrupt run. With `reverse` it is the other way round: heads of the set corrupt,
    all others and the embeddings clean. What lies between the heads is computed anew. This is how circuits of heads
    are tested (Wang et al. 2022, https://arxiv.org/abs/2211.00593); see `vlmtrace.methods.circuits`.

    Args:
        model: the model to patch
        pairs: a pairs table
        sets: each a list of (module, layer, head) of the model's head block; it may be empty
        corruption: "image" or "text"
        reverse: corrupt the heads of the set instead of restoring them
        contrast: as in `patch_modules`

    Returns:
        one row per pair and set: sample_id, set (its index in `sets`), logit_diff (the LD of this run, in logits, not
        a difference of LDs) and patching_effect

    Raises:
        VlmtraceError: a name is unknown, a head does not exist, or the table breaks the contract

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> none, some = [], [("cross_attention", 2, head) for head in range(8)]
        >>> effects = vt.patch_head_sets(model, pairs, [none, some])
        >>> effects.groupby("set")["patching_effect"].mean().round(1).abs().tolist()
        [0.0, 0.6]
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    keep = {module: ~mask if reverse else mask for module, mask in head_masks(model, sets).items()}
    what = f"{len(sets)} sets of heads, {corruption}"
    return table_of_sets(
        model, pairs, what, corruption, contrast, lambda runs: fixed_heads(model, runs, keep, reverse).logit_diff[0]
    )


def table_of_sets(
    model: VLM,
    pairs: pd.DataFrame,
    what: str,
    corruption: str,
    contrast: str,
    read: Callable[[PairRuns], torch.Tensor],
) -> pd.DataFrame:
    """Run each pair with every set of heads, and say what its logit difference is then.

    Args:
        model: the model to run
        pairs: a pairs table
        what: of the progress bar
        corruption: "image" or "text"
        contrast: as in `patch_modules`
        read: from the runs of one pair to LD with each set, (set,)

    Returns:
        one row per pair and set: sample_id, set (its index), logit_diff, patching_effect

    Raises:
        VlmtraceError: the table of pairs breaks the contract
    """
    pairs = validate_pairs(pairs)
    tables: dict[int, pd.DataFrame] = {}
    with counter(len(pairs), what) as advance:
        for row, runs in one_by_one(model, pairs, corruption, contrast):
            logit_diff = read(runs).cpu().numpy()
            ends = (runs.clean_readout.logit_diff.item(), runs.corrupt_readout.logit_diff.item())
            columns = {"set": range(len(logit_diff)), "logit_diff": logit_diff}
            columns["patching_effect"] = patching_effect(logit_diff, *ends)
            tables[row] = pd.DataFrame({"sample_id": pairs["sample_id"].iloc[row], **columns})
            advance(1)
    return pd.concat([tables[row] for row in sorted(tables)], ignore_index=True)


def _patch(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str,
    plan: Plan,
    positions: Positions,
    memory_gb: float | None,
    contrast: str,
    direction: str,
) -> pd.DataFrame:
    one_of(corruption, CORRUPTIONS, "corruption")
    one_of(direction, DIRECTIONS, "direction")
    pairs = validate_pairs(pairs).reset_index(drop=True)
    memory = memory_bytes(model, memory_gb)
    tables: list[pd.DataFrame] = []
    with counter(len(pairs), f"patching {len(pairs)} pairs, {corruption} corruption") as advance:
        for batch, runs, roles in batches_of_pairs(model, pairs, corruption, plan, positions, contrast):
            runs = in_direction(runs, direction)
            for patches in patches_of_batch(plan, roles, len(batch), model.device):
                readout = sweep_patches(model, runs, patches, memory_for_states(memory, runs))
                logit_diff, p_correct = (value.cpu().numpy() for value in (readout.logit_diff, readout.p_correct))
                roles_of_block = roles[patches.block]
                tables.append(effect_table(batch, runs, corruption, patches, roles_of_block, logit_diff, p_correct))
            advance(len(batch))
    return concat_in_order(pairs, tables, positions).assign(direction=direction)


def fixed_heads(model: VLM, runs: PairRuns, keep: dict[str, torch.Tensor], reverse: bool) -> Readout:
    """Run one pair with the output of every head fixed.

    Args:
        model: the model to patch
        runs: of one pair
        keep: from `head_masks`: where the output is that of the clean run
        reverse: whether embeddings are clean, not corrupt

    Returns:
        readout (1, set)
    """

    def run(side: PairRuns | WholeRuns, answer_ids: AnswerIds) -> Readout:
        if model.uses_fast_sweep and model.fixes_heads:
            start = "clean" if reverse else "corrupt"
            return model.run_with_fixed_heads(side.clean, side.corrupt, keep, start, answer_ids)
        inputs = side.clean_inputs if reverse else side.inputs
        return reference.run_with_fixed_heads(model, side.clean, side.corrupt, inputs, keep, answer_ids)

    if runs.whole is None:
        return run(runs, runs.answer_ids)
    shared = both_answers(model, runs)
    if shared is not None and model.uses_fast_sweep:
        return run(runs, shared)
    return Readout.of_two(*(run(side, side.ids) for side in runs.whole))


def head_masks(model: VLM, sets: Sequence[Sequence[tuple[str, int, int]]]) -> dict[str, torch.Tensor]:
    """Masks (set, layer, head) by module, true for the heads of each set.

    Where a layer has fewer heads than others, what stands behind them is always false.

    Args:
        model: which heads there are
        sets: each a list of (module, layer, head)

    Raises:
        VlmtraceError: a head does not exist
    """
    block = model.head_block
    masks = {
        module: torch.zeros(len(sets), block.n_layers, block.n_heads, dtype=torch.bool) for module in block.head_modules
    }  # (set, layer, head)
    for row, heads in enumerate(sets):
        for module, layer, head in heads:
            one_of(module, masks, "module")
            model.check_site(Site(block.name, module, layer))
            if not 0 <= head < block.heads_at(layer):
                place = f"layer {layer} of {block.name}" if block.heads else block.name
                raise VlmtraceError(f"Head {head} does not exist: {place} has heads 0 to {block.heads_at(layer) - 1}.")
            masks[module][row, layer, head] = True
    return masks
