"""Ablation: what does the clean run lose without one activation?

The activation is replaced by zero, by its mean over clean runs, or by what it was in another pair's clean run (resample
ablation). None of them needs a corrupt run: that is used only for the unit of the effect. Noising
(`vlmtrace.methods.patching.direction`) is the fourth way, where the replacement differs from the clean run in one thing
alone. Zero is an activation that the model may never have seen; the mean keeps what all runs share; a resampled one is
typical, and what it says is of another question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from vlmtrace.core.arguments import Count, Seed, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.images import open_image
from vlmtrace.core.progress import progress
from vlmtrace.core.schema import UNIT, validate_pairs
from vlmtrace.inputs.alignment import is_aligned
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.pair_runs import PairRuns
from vlmtrace.inputs.pictures import images_of
from vlmtrace.inputs.token_roles import token_table
from vlmtrace.inputs.units import with_units
from vlmtrace.methods.patching.joint import (
    Part,
    as_patches,
    attention_heads,
    check_any,
    effect_rows,
    head_columns,
)
from vlmtrace.methods.patching.joint_runs import (
    BATCH_SIZE,
    add_missing_sites,
    placed_patch,
    runs_by_pair,
    together_readout,
)
from vlmtrace.models import VLM, Site, Trace

#: What may be asked for as `method`.
METHODS = ("zero", "mean", "resample")


@checked
def ablate(
    model: VLM,
    pairs: pd.DataFrame,
    sites: Sequence[Part] | None = None,
    method: str = "mean",
    corruption: str = "image",
    reference: pd.DataFrame | None = None,
    seed: Seed = 0,
    contrast: str = "answer",
    batch_size: Count = BATCH_SIZE,
) -> pd.DataFrame:
    """Take one activation after the other away from the clean run.

    Mean ablation as in Wang et al. 2022 (https://arxiv.org/abs/2211.00593), resample ablation as in Chan et al. 2022
    (https://www.alignmentforum.org/posts/JvZhhzycHu2Yd57RN/causal-scrubbing).

    Args:
        model: the model to run
        pairs: a pairs table
        sites: each a `Patch` of a head or of a whole activation, whose positions may be indices or names, or a whole
            head (module, layer, head) of the block that reads the question; None: every head of that block
        method: what stands in the activation's place.
            "zero": nothing.
            "mean": its mean over the clean runs of `reference` (where that is `pairs`, the pair's own run is one of
            them), separately for each token role, since prompts differ in length; all patches of an image share the
            role "image", and a role that no reference has gets the mean over all positions.
            "resample": the activation of another pair's clean run, position by position: drawn from the pairs of
            `reference` whose inputs have the same shapes, never of the same unit
        corruption: "image" or "text": effects are shares of the gap that it makes
        reference: a pairs table of the same task, for "mean" and "resample"; None: `pairs`
        seed: of the drawing
        contrast: what the correct answer is compared with, see `patch_modules`
        batch_size: at most so many sites in one forward pass

    Returns:
        one row per pair and site: sample_id, unit (where the pairs have it), corruption, method, block, module, layer,
        head (missing where the whole activation is taken away), and

        - p_correct: probability of the correct answer (0 to 1); p_diff: that less the clean run's
        - logit_diff: LD_ablated − LD_clean, in logits
        - patching_effect: that over LD_clean − LD_corrupt: 0 where nothing is lost, −1 where as much is lost as the
          corruption takes (as in `knock_out_attention`)

    Raises:
        VlmtraceError: a name is unknown, a pair has no other of its shape to draw from, or the table breaks the
            contract

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=4)
        >>> effects = vt.ablate(model, pairs, [("cross_attention", 3, 6), ("self_attention", 0, 1)], method="zero")
        >>> effects.groupby("module", sort=False)["patching_effect"].mean().round(1).to_dict()
        {'cross_attention': -0.1, 'self_attention': -0.1}
    """
    one_of(method, METHODS, "method")
    pairs = validate_pairs(pairs).reset_index(drop=True)
    reference = pairs if reference is None else validate_pairs(reference).reset_index(drop=True)
    patches = attention_heads(model, [model.head_block.name]) if sites is None else as_patches(model, sites)
    check_any(patches, "site")
    columns = head_columns(patches)
    chosen = list(dict.fromkeys(model.check_site(patch.site) for patch in patches))
    means = _RoleMeans(model, reference, chosen) if method == "mean" else None
    donors = draw_donors(model, pairs, reference, seed) if method == "resample" else []
    tables: dict[int, pd.DataFrame] = {}
    title = f"{method} ablation of {len(patches)} sites"
    for row, pair, runs in runs_by_pair(model, pairs, corruption, title, contrast):
        add_missing_sites(model, runs, chosen)
        if means is not None:
            source = means.of_pair(pair, runs)
        elif donors:
            source = model.trace(run_inputs(model, reference.iloc[[donors[row]]], "clean"), chosen).activations
        else:
            source = {site: torch.zeros_like(runs.clean[site]) for site in chosen}
        placed = [[placed_patch(model, pair, runs.clean_inputs, patch)] for patch in patches]
        readout = together_readout(model, _from_source(runs, source), placed, batch_size)
        rows = effect_rows(pair, runs, readout, {"corruption": corruption, "method": method, **columns})
        # Measured from the corrupt run so far; what is lost counts from the clean one.
        clean, corrupt = runs.clean_readout, runs.corrupt_readout
        rows["p_diff"] -= float(clean.p_correct) - float(corrupt.p_correct)
        rows["logit_diff"] -= float(clean.logit_diff) - float(corrupt.logit_diff)
        rows["patching_effect"] -= 1
        tables[row] = rows
    return pd.concat([tables[row] for row in sorted(tables)], ignore_index=True)


def draw_donors(model: VLM, pairs: pd.DataFrame, reference: pd.DataFrame, seed: int) -> list[int]:
    """Draw for each pair another one whose clean inputs have the same shapes, and whose clean images are aligned.

    Args:
        model: its processor makes the inputs
        pairs: a pairs table
        reference: the pairs to draw from
        seed: of the drawing

    Returns:
        row numbers of the reference, one per pair

    Raises:
        VlmtraceError: a pair has none to draw from
    """
    generator = np.random.default_rng(seed)
    shapes = [_shapes(model, reference, row) for row in range(len(reference))]
    sizes = [_sizes(pair) for pair in reference.to_dict("records")]
    # Pairs that share an image are one unit in whichever of the two tables they stand.
    together = pd.concat([pairs, reference], ignore_index=True)
    units = with_units(together)[UNIT].to_numpy()
    names, own_units, units = reference["sample_id"].to_numpy(), units[: len(pairs)], units[len(pairs) :]
    donors = []
    for row, (name, unit) in enumerate(zip(pairs["sample_id"], own_units, strict=True)):
        own, size = _shapes(model, pairs, row), _sizes(pairs.iloc[row].to_dict())
        fits = [
            i
            for i in range(len(reference))
            if shapes[i] == own and names[i] != name and units[i] != unit and _aligned(model, size, sizes[i])
        ]
        if not fits:
            raise VlmtraceError(
                f"Pair {name!r} has no other pair of its length and image shape to take an activation from: leave it "
                "out, pass more reference pairs, or ablate by the mean."
            )
        donors.append(int(generator.choice(fits)))
    return donors


def _sizes(pair: dict) -> list[tuple[int, int]]:
    return [open_image(image).size for image in images_of(pair)]


def _aligned(model: VLM, first: list[tuple[int, int]], second: list[tuple[int, int]]) -> bool:
    return len(first) == len(second) and all(
        is_aligned(model, a, b, len(first)) for a, b in zip(first, second, strict=True)
    )


def _shapes(model: VLM, pairs: pd.DataFrame, row: int) -> tuple:
    return tuple((name, tuple(value.shape)) for name, value in run_inputs(model, pairs.iloc[[row]], "clean").items())


def _from_source(runs: PairRuns, source: dict[Site, Tensor]) -> PairRuns:
    """Runs in which patching copies from a source into the clean run."""
    whole = None
    if runs.whole is not None:
        first, second = (
            replace(side, clean=_lengthened(source, side.clean), inputs=side.clean_inputs, corrupt=side.clean)
            for side in runs.whole
        )
        whole = (first, second)
    clean = Trace(runs.clean.logits, source)
    return replace(
        runs,
        clean=clean,
        inputs=runs.clean_inputs,
        corrupt=runs.clean,
        corrupt_readout=runs.clean_readout,
        whole=whole,
    )


def _lengthened(source: dict[Site, Tensor], longer: Trace) -> Trace:
    """The source for a run whose sequence goes on with an answer, at whose positions nothing is ever patched."""
    found = {}
    for site, value in source.items():
        found[site] = F.pad(value, (0, 0, 0, longer[site].shape[1] - value.shape[1]))
    return Trace(longer.logits, found)


class _RoleMeans:
    """Mean activations of sites over the clean runs of pairs, by token role."""

    def __init__(self, model: VLM, reference: pd.DataFrame, sites: Sequence[Site]):
        self.model, self.sites = model, sites
        self.blocks = list(dict.fromkeys(site.block for site in sites))
        sums: dict[tuple[Site, str | None], Tensor] = {}
        counts: dict[tuple[Site, str | None], int] = {}
        for row in progress(range(len(reference)), f"means over {len(reference)} pairs"):
            inputs = run_inputs(model, reference.iloc[[row]], "clean")
            trace = model.trace(inputs, sites)
            roles = {block: self._roles(reference.iloc[row].to_dict(), block, inputs) for block in self.blocks}
            for site in sites:
                values = trace[site][0].double()  # (S, D)
                for role in [None, *dict.fromkeys(roles[site.block])]:
                    at = np.ones(len(values), dtype=bool) if role is None else roles[site.block] == role
                    chosen = values[torch.as_tensor(at, device=values.device)]
                    sums[site, role] = sums.get((site, role), torch.zeros_like(chosen[0])) + chosen.sum(0)
                    counts[site, role] = counts.get((site, role), 0) + len(chosen)
        self.means = {key: total / counts[key] for key, total in sums.items()}

    def _roles(self, pair: dict, block: str, inputs: dict[str, Tensor]) -> np.ndarray:
        return token_table(self.model, pair, block, inputs)["token_role"].to_numpy()

    def of_pair(self, pair: dict, runs: PairRuns) -> dict[Site, Tensor]:
        """By site, (1, S, D): at each position the mean of its role."""
        roles = {block: self._roles(pair, block, runs.clean_inputs) for block in self.blocks}
        found = {}
        for site in self.sites:
            rows = [self.means.get((site, role), self.means[site, None]) for role in roles[site.block]]
            found[site] = torch.stack(rows)[None].to(runs.clean[site].dtype)
        return found
