"""Which few heads are enough? A search over sets, since heads that matter only together look alike one by one.

Two heads of which either is enough have no effect when one of them is corrupted; two heads that need each other have
none when one of them is restored. A ranking by single effects misses the ones or the others. The search adds heads to
nothing (it sees what is enough), takes heads from everything (it sees what is needed), and keeps the smaller set.

What it finds is the best of very many sets on the pairs it was shown, so its own score flatters it: the number to
report is that of other pairs (`verify`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from vlmtrace.core import stats
from vlmtrace.core.arguments import Count, Share, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.schema import UNIT, validate_pairs
from vlmtrace.inputs.batching import Plan, batches_of_pairs
from vlmtrace.methods.patching.direction import DIRECTIONS, in_direction
from vlmtrace.methods.patching.first_order import site_gradients
from vlmtrace.methods.patching.joint import patch_together
from vlmtrace.methods.patching.sweeps import patch_head_sets
from vlmtrace.models import VLM, Site

#: A head of the model's head block: (module, layer, head).
HeadSite = tuple[str, int, int]

#: What happens to the heads outside a set: they stay as in the corrupt run, or are computed anew.
SEARCH_RUNS = ("frozen", "denoised")


@checked
def smallest_set(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str = "image",
    threshold: Share = 0.8,
    n_candidates: Count | None = 16,
    run: str = "frozen",
    verify: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Search the smallest set of heads of the head block that restores a share of what all of them restore.

    Heads are first ranked by gradients at both ends (attribution patching, Syed et al. 2023,
    https://arxiv.org/abs/2310.10348, at the corrupt run for what is enough and at the clean run for what is needed);
    then sets of the best n are run, by `smallest_subset`. Greedy, so there may be a smaller set.

    Cost: with n candidates fewer than 2 n² sets per pair, and two plain runs of each pair for each of fewer than 4 n
    rounds; where the candidates together do not reach the threshold, n is doubled until they do.

    Args:
        model: the model to patch
        pairs: a pairs table, those to discover on
        corruption: "image" or "text"
        threshold: the share to reach, 0 to 1
        n_candidates: how many heads are searched; None: all
        run: "frozen": heads outside the set are fixed as in the corrupt run (`patch_head_sets`, the sufficiency of
            `faithfulness_table`); "denoised": they are computed anew from what the set has changed (`patch_together`)
        verify: other pairs, on which the sets found are measured

    Returns:
        one row per head of the set, the most useful first: k (1, 2, …), block, module, layer, head; share: what the
        first k heads restore, as a share of what all heads of the block restore (ratio of mean changes of LD, units
        averaged first); share_verify: that on `verify` (missing without); n_sets: how many sets each pair was run with;
        n_candidates: how many heads were searched. Without a row where no head is needed

    Raises:
        VlmtraceError: the threshold is not a share, a name is unknown, the table breaks the contract, or all heads of
            the block together restore nothing on these pairs, or on those of `verify`

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.methods.circuits import smallest_set
        >>> model = vt.load_model("tiny-blip")
        >>> pairs = vt.load_pairs("rendered_states", n=2)
        >>> found = smallest_set(model, pairs, threshold=0.5, n_candidates=6)
        >>> bool(found["share"].iloc[-1] >= 0.5)
        True
    """
    one_of(run, SEARCH_RUNS, "run")
    if not 0 < threshold <= 1:
        raise VlmtraceError(f"threshold={threshold} is no share to reach: choose a number above 0 and up to 1.")
    ranked = candidate_heads(model, pairs, corruption)
    share_of = _shares(model, pairs, corruption, run, ranked)
    # What cannot be verified is said before the search, not after it.
    share_verified = None if verify is None else _shares(model, verify, corruption, run, ranked)
    n = len(ranked) if n_candidates is None else min(max(1, n_candidates), len(ranked))
    while n < len(ranked) and share_of([frozenset(ranked[:n])])[0] < threshold:
        n = min(2 * n, len(ranked))
    found = smallest_subset(ranked[:n], share_of, threshold)
    sets = [frozenset(found.order[: k + 1]) for k in range(len(found.order))]
    verified = [np.nan] * len(sets)
    if share_verified is not None and sets:
        verified = list(share_verified(sets))
    modules, layers, heads = zip(*found.order, strict=True) if sets else ((), (), ())
    return pd.DataFrame(
        {
            "k": range(1, len(sets) + 1),
            "block": model.head_block.name,
            "module": modules,
            "layer": layers,
            "head": heads,
            "share": found.shares,
            "share_verify": verified,
            "n_sets": found.n_sets,
            "n_candidates": n,
        }
    )


@dataclass
class Found:
    """What a search has found.

    Attributes:
        order: the heads of the set, the one that alone restores most first, then the one that adds most to it, …
        shares: of the first 1, 2, … heads
        n_sets: how many sets were asked for
    """

    order: list[HeadSite] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    n_sets: int = 0


def smallest_subset(
    candidates: Sequence[HeadSite], share_of: Callable[[list[frozenset[HeadSite]]], Sequence[float]], threshold: float
) -> Found:
    """Search a small set whose share reaches a threshold, whatever the shares are of.

    Forward: the head that adds most is added until the threshold is reached; then heads are taken away again as long
    as it is held. Backward: heads are taken away from all candidates, the one whose loss costs least first. The smaller
    of both sets is kept, the one with the larger share where they are of one size. Forward alone misses two heads that
    need each other; backward alone keeps either of two that do the same, but may keep more than forward.

    Args:
        candidates: what sets are made of; among equals the earlier one is added first and taken away last
        share_of: sets -> their shares
        threshold: the share to reach

    Returns:
        the set; all candidates where even they do not reach the threshold

    Example:
        >>> from vlmtrace.methods.circuits.search import smallest_subset
        >>> a, b, c = heads = [("cross_attention", 0, head) for head in range(3)]
        >>> together = lambda sets: [0.9 * ({a, b} <= heads) for heads in sets]
        >>> smallest_subset(heads, together, 0.8).order
        [('cross_attention', 0, 0), ('cross_attention', 0, 1)]
    """
    known: dict[frozenset[HeadSite], float] = {}

    def shares(sets: list[frozenset[HeadSite]]) -> list[float]:
        new = [one for one in dict.fromkeys(sets) if one not in known]
        if new:
            known.update(zip(new, map(float, share_of(new)), strict=True))
        return [known[one] for one in sets]

    place = {head: index for index, head in enumerate(candidates)}

    def best_first(heads: Collection[HeadSite]) -> list[HeadSite]:
        return sorted(heads, key=place.__getitem__)

    def grow(goal: Collection[HeadSite], enough: float | None) -> list[HeadSite]:
        order: list[HeadSite] = []
        while len(order) < len(goal) and (enough is None or shares([frozenset(order)])[0] < enough):
            rest = [head for head in best_first(goal) if head not in order]
            values = shares([frozenset([*order, head]) for head in rest])
            order.append(rest[int(np.argmax(values))])
        return order

    def shrink(start: Collection[HeadSite]) -> frozenset[HeadSite]:
        current = frozenset(start)
        while current:
            # The later candidate goes first among equals.
            leaving = best_first(current)[::-1]
            values = shares([current - {head} for head in leaving])
            if max(values) < threshold:
                break
            current -= {leaving[int(np.argmax(values))]}
        return current

    if shares([frozenset(candidates)])[0] < threshold:
        chosen = frozenset(candidates)
    else:
        found = [shrink(grow(candidates, threshold)), shrink(candidates)]
        chosen = min(found, key=lambda heads: (len(heads), -known[heads]))
    order = grow(chosen, None)
    return Found(order, shares([frozenset(order[: k + 1]) for k in range(len(order))]), len(known))


def candidate_heads(model: VLM, pairs: pd.DataFrame, corruption: str = "image") -> list[HeadSite]:
    """Rank the heads of the head block by their estimated effects, at all positions together.

    Args:
        model: the model to trace
        pairs: a pairs table
        corruption: "image" or "text"

    Returns:
        all heads; one with a large estimated effect of denoising or of noising comes early. Four passes per pair

    Raises:
        VlmtraceError: the table breaks the contract
    """
    pairs = validate_pairs(pairs).reset_index(drop=True)
    block = model.head_block
    sites = [Site(block.name, module, layer) for module in block.head_modules for layer in block.layers_with(module)]
    plan: Plan = {block.name: [(site.module, site.layer, None) for site in sites]}
    total: dict[tuple[str, Site], np.ndarray] = {}
    for _, runs, _ in batches_of_pairs(model, pairs, corruption, plan, "all"):
        for direction in DIRECTIONS:
            turned = in_direction(runs, direction)
            for site, gradient in site_gradients(model, turned, sites).items():
                change = gradient.float() * (turned.clean[site] - turned.corrupt[site]).float()  # (B, S, D)
                by_head = change.unflatten(-1, (block.heads_at(site.layer), -1)).sum((0, 1, 3)).cpu().numpy()
                # Noising lowers LD where denoising raises it.
                signed = by_head if direction == "denoising" else -by_head
                total[direction, site] = total.get((direction, site), 0.0) + signed
    scores = {
        (site.module, site.layer, head): max(total[direction, site][head] for direction in DIRECTIONS)
        for site in sites
        for head in range(block.heads_at(site.layer))
    }
    return sorted(scores, key=lambda head: -scores[head])


def _shares(
    model: VLM, pairs: pd.DataFrame, corruption: str, run: str, every: Sequence[HeadSite]
) -> Callable[[list[frozenset[HeadSite]]], list[float]]:
    """How sets are measured: mean change of LD over that of all heads, which has to be a rise."""
    units = dict(zip(pairs["sample_id"], pairs[UNIT] if UNIT in pairs else pairs["sample_id"], strict=True))

    def mean_ld(sets: list[frozenset[HeadSite]]) -> np.ndarray:
        given = [sorted(heads) for heads in sets]
        if run == "frozen":
            table = patch_head_sets(model, pairs, given, corruption)
        else:
            table = patch_together(model, pairs, given, corruption)
        by_pair = table.pivot(index="sample_id", columns="set", values="logit_diff")
        return stats.unit_means(by_pair.to_numpy(), by_pair.index.map(units).to_numpy()).mean(axis=0)

    none, everything = mean_ld([frozenset(), frozenset(every)])
    # Of a fall the largest shares would be those of the sets that harm the answer most.
    if not everything - none > 1e-6:
        raise VlmtraceError(
            f"All heads of {model.head_block.name} together restore nothing on these {len(pairs)} pairs (LD changes by "
            f"{everything - none:.2g}): there is no share that a set of them could reach."
        )
    return lambda sets: list((mean_ld(sets) - none) / (everything - none))
