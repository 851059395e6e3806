"""The search for a small set: hand-made cases that single effects miss, and sets of a small model's heads."""

import random

import pytest

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.circuits import smallest_set
from vlmtrace.methods.circuits.search import candidate_heads, smallest_subset
from vlmtrace.methods.circuits.sites import every_head

HEADS = [("cross_attention", layer, head) for layer in range(2) for head in range(4)]
A, B, C, D, *_ = HEADS


def turned(pairs):
    """The same pairs with clean and corrupt image exchanged."""
    return pairs.assign(clean_image=pairs["corrupt_image"], corrupt_image=pairs["clean_image"])


def restored_pairs(model, pairs):
    """Pairs on which all heads together raise LD: those of a random model are turned where they lower it."""
    ld = vt.patch_head_sets(model, pairs, [[], every_head(model)]).pivot(
        index="sample_id", columns="set", values="logit_diff"
    )
    falls = pairs["sample_id"].map(ld[1] < ld[0])
    return pairs.where(~falls, turned(pairs), axis=0)


def search(share, candidates=HEADS, threshold=0.8):
    return smallest_subset(candidates, lambda sets: [share(heads) for heads in sets], threshold)


def test_two_heads_that_back_each_other_up():
    """Noising A or B alone loses nothing; together they carry the answer. One of them must be found, and only one."""

    def share(heads):
        return 0.9 * bool({A, B} & heads) + 0.02 * len(heads - {A, B})

    everything = frozenset(HEADS)
    losses = {head: share(everything) - share(everything - {head}) for head in HEADS}
    assert losses[A] == losses[B] == 0 and max(losses, key=losses.get) not in (A, B)  # single noising misses both
    found = search(share)
    assert set(found.order) in ({A}, {B}), f"{found.order} is not one of the two that are enough"


def test_two_heads_that_need_each_other():
    """Denoising A or B alone restores nothing, and others a little: a ranking by single effects puts A and B last."""

    def share(heads):
        return 0.9 * ({A, B} <= heads) + 0.1 * (len(heads - {A, B}) / 6)

    singles = {head: share(frozenset([head])) for head in HEADS}
    assert singles[A] == singles[B] == 0 < min(singles[head] for head in HEADS[2:])
    found = search(share)
    assert set(found.order) == {A, B}, f"{found.order}: the two that need each other were missed"
    assert found.shares[-1] == pytest.approx(0.9) and found.shares[0] == 0


def test_backed_up_and_needing_each_other():
    """(A or B) and (C or D): two heads are enough, no single effect of either kind says so."""

    def share(heads):
        return float(bool({A, B} & heads) and bool({C, D} & heads))

    found = search(share)
    assert len(found.order) == 2 and share(frozenset(found.order)) == 1


def test_what_is_not_reached_is_all_candidates_and_nothing_needed_is_nothing():
    never = search(lambda heads: 0.1 * len(heads) / len(HEADS))
    assert set(never.order) == set(HEADS) and never.shares[-1] < 0.8
    assert search(lambda heads: 1.0).order == []


def test_cost_is_bounded():
    generator = random.Random(0)
    values = {}

    def share(heads):
        return 1.0 if len(heads) >= 7 else values.setdefault(heads, generator.random() / 2)

    asked = []
    smallest_subset(HEADS, lambda sets: [asked.append(heads) or share(heads) for heads in sets], 0.8)
    assert len(asked) == len(set(asked)), "a set was run twice"
    assert len(asked) < 2 * len(HEADS) ** 2


@pytest.mark.medium
@pytest.mark.parametrize("run", ["frozen", "denoised"])
@pytest.mark.parametrize("family", ["random_blip", "llava"])
def test_no_head_of_the_set_can_be_left_out_and_no_other_is_enough_alone(model_store, random_pairs, family, run):
    """Shares against patch_head_sets and patch_together: those of the set, of the set without each head, of each head.

    Sets of several other heads may be smaller: the search is greedy.
    """
    model = model_store.shared(family)
    usable = restored_pairs(model, random_pairs.iloc[:4])
    pairs = usable.iloc[:2].reset_index(drop=True)
    found = smallest_set(model, pairs, threshold=0.5, n_candidates=5, run=run, verify=usable.iloc[2:])
    order = list(found[["module", "layer", "head"]].itertuples(index=False, name=None))
    assert order and found["k"].tolist() == list(range(1, len(order) + 1))
    assert found["share_verify"].notna().all() and found["share"].iloc[-1] >= 0.5

    every = candidate_heads(model, pairs)
    block = model.head_block
    assert len(every) == len(set(every)) == block.n_layers * block.n_heads * len(block.head_modules)
    candidates = every[: found["n_candidates"].iloc[0]]
    without = [[head for head in order if head != gone] for gone in order]
    alone = [[head] for head in candidates] if len(order) > 1 else []
    patch = vt.patch_head_sets if run == "frozen" else vt.patch_together
    ld = patch(model, pairs, [[], every, order, *without, *alone]).groupby("set")["logit_diff"].mean()
    shares = ((ld - ld[0]) / (ld[1] - ld[0])).tolist()
    assert shares[2] == pytest.approx(found["share"].iloc[-1], rel=1e-4, abs=1e-4), (
        "the share is not what patching gives"
    )
    assert len(shares) == 3 + len(without) + len(alone)
    assert max(shares[3 : 3 + len(order)]) < 0.5, "a head could be left out"
    assert max(shares[3 + len(order) :], default=0) < 0.5, "one head was enough"


def test_redundant_heads_of_a_real_model(model_store, random_pairs, monkeypatch):
    """The whole function, measured by hand: either of two heads is enough, so noising one of them loses nothing."""
    from vlmtrace.methods.circuits import search as module

    model = model_store.shared("random_blip")
    monkeypatch.setattr(module, "_shares", lambda *_: lambda sets: [float(bool({A, B} & heads)) for heads in sets])
    found = smallest_set(model, random_pairs.iloc[:1], n_candidates=4)
    assert len(found) == 1 and found["head"].iloc[0] in (A[2], B[2])


def test_pairs_on_which_all_heads_lower_the_answer_are_refused(random_blip, random_pairs):
    """Of a fall, the sets that harm the answer most would have the largest shares."""
    pairs = restored_pairs(random_blip, random_pairs.iloc[:2])
    assert len(smallest_set(random_blip, pairs, threshold=0.1, n_candidates=2))
    with pytest.raises(VlmtraceError, match=r"together restore nothing on these 2 pairs \(LD changes by -"):
        smallest_set(random_blip, turned(pairs), threshold=0.1, n_candidates=2)
    with pytest.raises(VlmtraceError, match="together restore nothing"):
        smallest_set(random_blip, pairs, threshold=0.1, n_candidates=2, verify=turned(pairs))


def test_wrong_arguments_are_said(random_blip, random_pairs):
    with pytest.raises(VlmtraceError, match="no share to reach"):
        smallest_set(random_blip, random_pairs, threshold=0)
    with pytest.raises(VlmtraceError, match="threshold must be a number from 0 to 1"):
        smallest_set(random_blip, random_pairs, threshold=1.5)
    with pytest.raises(VlmtraceError, match="run"):
        smallest_set(random_blip, random_pairs, run="thawed")
