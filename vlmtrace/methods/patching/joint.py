"""Patches that act together: sets of heads or modules, and whole heads (all positions at once) of every block.

A sweep patches one head at one position. The sum of such effects is that of the whole head to first order only, and
of a set of heads only where none of them does what another would have done. Here everything that is patched in one
intervention acts in one forward pass, and all else is computed anew; interventions of a pair share batches.
`patch_head_sets` asks another question: it fixes **all** heads, those outside the set at what they were.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from vlmtrace.core.arguments import Count, NonEmpty, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.inputs.pair_runs import PairRuns
from vlmtrace.methods.patching.direction import DIRECTIONS, in_direction
from vlmtrace.methods.patching.intervention import Patch
from vlmtrace.methods.patching.joint_runs import BATCH_SIZE, placed_patch, runs_by_pair, together_readout
from vlmtrace.methods.patching.metrics import patching_effect
from vlmtrace.models import VLM, Readout

#: A patch, or a whole head of the model's head block: (module, layer, head).
Part = Patch | tuple[str, int, int]


@checked
def patch_together(
    model: VLM,
    pairs: pd.DataFrame,
    sets: NonEmpty[Sequence[Part]],
    corruption: str = "image",
    direction: str = "denoising",
    contrast: str = "answer",
    batch_size: Count = BATCH_SIZE,
) -> pd.DataFrame:
    """Patch all members of a set in one run, one set after the other; everything else is computed anew.

    Args:
        model: the model to patch
        pairs: a pairs table
        sets: each a list of patches (`Patch`), whose positions may be indices or names (token roles, "options",
            "object", "image", …), or of whole heads (module, layer, head) of the block that reads the question; it
            may be empty
        corruption: "image" or "text"
        direction: "denoising": from the clean into the corrupt run; "noising": from the corrupt into the clean one
        contrast: what the correct answer is compared with, see `patch_modules`
        batch_size: at most so many sets in one forward pass, where the model has no fast path for them

    Returns:
        one row per pair and set: sample_id, unit (where the pairs have it), corruption, direction, set (its index in
        `sets`), and

        - p_correct: probability of the correct answer in the patched run (0 to 1); p_diff: that less the probability
          in the run that was patched
        - logit_diff: LD_patched less LD of the run that was patched, in logits
        - patching_effect: 1 where the patched run is as the run from which was copied. Denoising: the clean answer is
          back. Noising: as much is lost as the corruption takes. Missing where clean and corrupt do not differ
        - contrast_token: the answer that the correct one is compared with

        A name of which a pair's prompt or image has nothing patches nothing in that pair

    Raises:
        VlmtraceError: a patch names what the model does not have, or the pair's runs cannot be aligned

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> sets = [[("cross_attention", 3, head) for head in heads] for heads in ([0], [1], [0, 1])]
        >>> effects = vt.patch_together(model, pairs, sets)
        >>> effects.groupby("set")["patching_effect"].mean().round(1).abs().tolist()
        [0.0, 0.1, 0.1]
    """
    one_of(direction, DIRECTIONS, "direction")
    patches = [as_patches(model, members) for members in sets]
    check_any(patches, "set")
    tables: dict[int, list[pd.DataFrame]] = {}
    title = f"{len(sets)} sets, {direction}, {corruption} corruption"
    for row, pair, runs in runs_by_pair(model, pairs, corruption, title, contrast):
        runs = in_direction(runs, direction)
        placed = [[placed_patch(model, pair, runs.clean_inputs, patch) for patch in members] for members in patches]
        readout = together_readout(model, runs, placed, batch_size)
        what = {"corruption": corruption, "direction": direction, "set": range(len(sets))}
        tables.setdefault(row, []).append(effect_rows(pair, runs, readout, what))
    return pd.concat([table for row in sorted(tables) for table in tables[row]], ignore_index=True)


@checked
def patch_whole_heads(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str = "image",
    direction: str = "denoising",
    blocks: Sequence[str] | None = None,
    contrast: str = "answer",
    batch_size: Count = BATCH_SIZE,
) -> pd.DataFrame:
    """Patch every head of every attention block, at all of its positions at once.

    `patch_heads` goes through the positions of the block that reads the question. Here come also the heads of the
    vision encoder and of an answer decoder, and a head's effect is that of the whole head, not a sum over positions.

    Args:
        model: the model to patch
        pairs: a pairs table
        corruption: "image" or "text"
        direction: "denoising" or "noising", see `patch_together`
        blocks: e.g. ("text_decoder",); None: all that have heads
        contrast: what the correct answer is compared with, see `patch_modules`
        batch_size: at most so many heads in one forward pass, where the model has no fast path for them

    Returns:
        the whole_heads table, one row per pair and head: sample_id, unit (where the pairs have it), corruption,
        direction, block, module, layer, head, and the numbers of `patch_together`

    Raises:
        VlmtraceError: a name is unknown, a block has no heads, or the pair's runs cannot be aligned

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=1)
        >>> vt.patch_whole_heads(model, pairs).groupby("block", sort=False).size().to_dict()
        {'vision_encoder': 32, 'text_encoder': 64, 'text_decoder': 64}
    """
    one_of(direction, DIRECTIONS, "direction")
    heads = attention_heads(model, blocks)
    tables: dict[int, list[pd.DataFrame]] = {}
    title = f"whole heads, {direction}, {corruption} corruption"
    for row, pair, runs in runs_by_pair(model, pairs, corruption, title, contrast):
        runs = in_direction(runs, direction)
        for block in dict.fromkeys(patch.block for patch in heads):
            mine = [patch for patch in heads if patch.block == block]
            readout = together_readout(model, runs, [[patch] for patch in mine], batch_size)
            what = {"corruption": corruption, "direction": direction, **head_columns(mine)}
            tables.setdefault(row, []).append(effect_rows(pair, runs, readout, what))
    return pd.concat([table for row in sorted(tables) for table in tables[row]], ignore_index=True)


@checked
def attention_heads(model: VLM, blocks: Sequence[str] | None = None) -> list[Patch]:
    """Every head that can be patched, at all positions: block by block, layer by layer.

    Args:
        model: the model whose heads are meant
        blocks: None: all that have heads

    Returns:
        one patch per head

    Raises:
        VlmtraceError: a block is unknown or has no heads
    """
    check_any(model.blocks if blocks is None else blocks, "block")
    known = [block.name for block in model.blocks.values() if block.modules_with_heads]
    chosen = known if blocks is None else [one_of(name, known, "block with heads") for name in blocks]
    return [
        Patch(name, module, layer, None, (head,))
        for name in chosen
        for layer in range(model.blocks[name].n_layers)
        for module in model.blocks[name].modules_with_heads
        for head in range(model.blocks[name].heads_at(layer))
    ]


def check_any(what: Collection[Any], name: str) -> None:
    """Check that there is something to patch.

    Args:
        what: what was passed
        name: of one of it, for the sentence

    Raises:
        VlmtraceError: there is nothing
    """
    if not len(what):
        raise VlmtraceError(f"There is nothing to patch: pass at least one {name}.")


def as_patches(model: VLM, members: Sequence[Part]) -> list[Patch]:
    """The members of a set as patches; (module, layer, head) is a whole head of the block that reads the question.

    Args:
        model: tells which block that is
        members: of the set

    Returns:
        the patches
    """
    block = model.head_block.name
    return [
        member if isinstance(member, Patch) else Patch(block, member[0], member[1], None, (member[2],))
        for member in members
    ]


def head_columns(patches: Sequence[Patch]) -> dict[str, list]:
    """Columns that name the head of each patch; head is missing where a patch is of the whole activation.

    Args:
        patches: each of one head at most

    Returns:
        block, module, layer, head

    Raises:
        VlmtraceError: a patch is of several heads, which no row could name
    """
    several = [patch for patch in patches if patch.heads is not None and len(patch.heads) != 1]
    if several:
        raise VlmtraceError(f"{several[0]} is not one head: pass each head by itself, or use patch_together.")
    heads = [None if patch.heads is None else patch.heads[0] for patch in patches]
    columns = {name: [getattr(patch, name) for patch in patches] for name in ("block", "module", "layer")}
    return {**columns, "head": pd.array(heads, dtype="Int64") if None in heads else heads}


def effect_rows(pair: Mapping[str, Any], runs: PairRuns, readout: Readout, what: Mapping[str, Any]) -> pd.DataFrame:
    """Rows for one pair: what each intervention did, measured from the run that was patched.

    Args:
        pair: its row of the pairs table
        runs: of that pair, in the direction of patching
        readout: (intervention,), of the patched runs
        what: further columns, which say what was done

    Returns:
        sample_id, unit (if the pair has it), the further columns, p_correct, p_diff, logit_diff, patching_effect,
        contrast_token
    """
    (ld, p), (from_ld, _), (base_ld, base_p) = (
        (found.logit_diff.double().cpu().numpy(), found.p_correct.double().cpu().numpy())
        for found in (readout, runs.clean_readout, runs.corrupt_readout)
    )
    names = {name: pair[name] for name in ("sample_id", "unit") if name in pair}
    numbers = {
        "p_correct": p,
        "p_diff": p - base_p,
        "logit_diff": ld - base_ld,
        "patching_effect": patching_effect(ld, from_ld, base_ld),
        "contrast_token": runs.contrasts[0],
    }
    return pd.DataFrame({**names, **what, **numbers}, index=range(len(ld)))
