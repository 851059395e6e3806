"""What each patch adds in the order in which patches were chosen, against as many patches at random.

Effects of single patches do not add up: a later layer sees what an earlier one was given, and two heads that do the
same bring back together hardly more than one. So patches are added one by one, and beside them as many others of the
same kind, drawn at random: whoever picks patches by their effect finds some that look well (the winner's curse), and
any patch brings something back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vlmtrace.core.arguments import Count, Seed, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.types import Array
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.pair_runs import PairRuns, encode_pair, run_pairs
from vlmtrace.methods.patching.direction import in_direction
from vlmtrace.methods.patching.intervention import Patch, check_patch, patched_readout
from vlmtrace.methods.patching.metrics import patching_effect
from vlmtrace.models import VLM

#: How often as many patches are drawn at random.
DRAWS = 40


@checked
def patch_waterfall(
    model: VLM,
    pair: Mapping[str, Any] | pd.Series,
    patches: Iterable[Patch],
    corruption: str = "image",
    direction: str = "denoising",
    n_draws: Count = DRAWS,
    seed: Seed = 0,
) -> pd.DataFrame:
    """Effect of the first, the first two, … of some patches of one pair, and of as many at random.

    A head is replaced by another head of its module, at the same positions; a whole activation by that of another layer
    at the same positions. None of the patches themselves is drawn as long as there are others.

    Args:
        model: the model to patch
        pair: a row of a pairs table
        patches: in the order in which they are added
        corruption: "image" or "text"
        direction: "denoising" or "noising"
        n_draws: how often random patches are drawn
        seed: of the draws

    Returns:
        one row per step, the first with no patch: step, patch (what is added), patching_effect (of all patches up to
        here, together), added (what this one adds), random_mean, random_low, random_high (mean effect of as many random
        patches, and between which 95 % of the draws lie), and random_share (of draws that do as much or more)

    Raises:
        VlmtraceError: there is no patch, a patch names what the model does not have, or the runs cannot be aligned

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.methods.patching import Patch, patch_waterfall
        >>> model = vt.load_model("tiny-blip")
        >>> pair = vt.load_pairs("rendered_states", n=1).iloc[0]
        >>> patches = [Patch("text_encoder", "cross_attention", 2, heads=(head,)) for head in (7, 1)]
        >>> steps = patch_waterfall(model, pair, patches, n_draws=5)
        >>> steps["step"].tolist(), bool(steps["patching_effect"].iloc[0])
        ([0, 1, 2], False)
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    frame = pd.DataFrame([dict(pair)])
    runs = run_pairs(model, frame, [encode_pair(model, frame, 0, corruption)], corruption)
    return waterfall_in(model, runs, patches, direction, n_draws, seed)


def waterfall_in(
    model: VLM,
    runs: PairRuns,
    patches: Iterable[Patch],
    direction: str = "denoising",
    n_draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Do the same as `patch_waterfall`, with the runs of a pair that have been computed.

    Args:
        model: the model to patch
        runs: of one pair (batch 1), clean as clean
        patches: in the order in which they are added
        direction: "denoising" or "noising"
        n_draws: how often random patches are drawn
        seed: of the draws
    """
    chosen = list(patches)
    if not chosen:
        raise VlmtraceError("There is no patch whose effect could be shown step by step: give at least one.")
    directed = in_direction(runs, direction)
    for patch in chosen:
        check_patch(model, directed, patch)
    steps = len(chosen)
    rng = np.random.default_rng(seed)
    orders = [chosen, *(random_patches(model, chosen, rng) for _ in range(n_draws))]
    sets = [order[: step + 1] for order in orders for step in range(steps)]
    readout = patched_readout(model, directed, sets)
    clean, corrupt = (float(r.logit_diff) for r in (directed.clean_readout, directed.corrupt_readout))
    effects = patching_effect(readout.logit_diff.flatten().cpu().numpy(), clean, corrupt)
    effects = np.asarray(effects, dtype=float).reshape(n_draws + 1, steps)
    # Nothing patched is the run as it is: effect 0 where the pair has a contrast at all.
    effects = np.concatenate([0 * np.abs(effects[:, :1]), effects], axis=1)
    return _table(chosen, effects[0], effects[1:])


def random_patches(model: VLM, patches: Sequence[Patch], rng: np.random.Generator) -> list[Patch]:
    """As many patches of the same kind at other places.

    Args:
        model: the model to patch
        patches: whose module, positions and numbers of heads are kept
        rng: draws

    Returns:
        one for each of `patches`
    """
    taken = {place for patch in patches for place in _places(patch)}
    found = []
    for patch in patches:
        block = model.blocks[patch.block]
        if patch.heads is None:
            layers = block.layers_with(patch.module)
            free = [layer for layer in layers if (patch.block, patch.module, layer, None) not in taken]
            layer = int(rng.choice(free or layers))
            found.append(patch._replace(layer=layer))
        else:
            # Heads of one patch lie in one layer; a layer that has too few others left is not drawn.
            free_heads = {
                layer: [h for h in range(block.heads_at(layer)) if (patch.block, patch.module, layer, h) not in taken]
                for layer in block.layers_with(patch.module)
            }
            fitting = [layer for layer, heads in free_heads.items() if len(heads) >= len(patch.heads)]
            # Each head is drawn as often as any other, so a layer counts by its heads.
            counts = np.array([len(free_heads[layer]) for layer in fitting], dtype=float)
            if not fitting:
                fitting = [i for i in free_heads if block.heads_at(i) >= len(patch.heads)]
                free_heads = {layer: list(range(block.heads_at(layer))) for layer in fitting}
                counts = np.array([len(free_heads[layer]) for layer in fitting], dtype=float)
            layer = int(rng.choice(fitting, p=counts / counts.sum()))
            heads = rng.choice(free_heads[layer], size=len(patch.heads), replace=False)
            found.append(patch._replace(layer=layer, heads=tuple(sorted(map(int, heads)))))
        taken |= _places(found[-1])
    return found


def _places(patch: Patch) -> set[tuple[str, str, int, int | None]]:
    """What a patch takes: each of its heads, or its layer as a whole."""
    return {(patch.block, patch.module, patch.layer, head) for head in patch.heads or (None,)}


def _table(chosen: Sequence[Patch], effects: Array, random: Array) -> pd.DataFrame:
    """The rows of `patch_waterfall`, of effects (step,) and of those of random patches (draw, step)."""
    low, high = np.quantile(random, [0.025, 0.975], axis=0)
    return pd.DataFrame(
        {
            "step": range(len(effects)),
            "patch": ["", *map(str, chosen)],
            "patching_effect": effects,
            "added": [np.nan, *np.diff(effects)],
            "random_mean": random.mean(axis=0),
            "random_low": low,
            "random_high": high,
            "random_share": (random >= effects).mean(axis=0),
        }
    )
