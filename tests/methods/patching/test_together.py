"""Patches that act together, regions, circuits and knockouts on the fast path give what hooked forward passes give."""

import random

import numpy as np
import pytest
import torch
from fixtures.families import THROUGHOUT

import vlmtrace as vt
from vlmtrace.inputs.pair_runs import encode_pair, run_pairs
from vlmtrace.methods.circuits import run_circuits
from vlmtrace.methods.patching import Patch
from vlmtrace.methods.patching.together import interventions_of
from vlmtrace.models import Patches
from vlmtrace.models.sweep import reference

EVERY = ["random_blip", *THROUGHOUT]


@pytest.fixture
def both(monkeypatch):
    """Runs something on the fast path, makes sure that it took it, and runs it again by hooks."""

    def run(model, function):
        model = type("Spied", (), {"model": model, "calls": 0})()
        real = model.model.intervene

        def intervene(*args):
            model.calls += 1
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(model.model, "intervene", intervene, raising=False)
            fast = function()
        assert model.calls, "the fast path was not taken"
        with monkeypatch.context() as patch:
            patch.setattr(model.model, "uses_fast_sweep", False)
            return fast, function()

    return run


def same(fast, slow, what):
    assert len(fast) == len(slow)
    for column in ("p_correct", "logit_diff"):
        if column in fast:
            worst = np.abs(fast[column].to_numpy() - slow[column].to_numpy()).max()
            assert worst <= 1e-4, f"{what}: {column} is off by {worst:.2g}"


def drawn_patch(model, generator, n_positions):
    block = generator.choice([block for block in model.blocks.values()])
    module = generator.choice(sorted({*block.modules, *block.hooked_modules}))
    some = generator.sample(range(block.n_heads), 2)
    heads = tuple(some) if module in block.modules_with_heads and generator.random() < 0.6 else None
    last = n_positions[block.name] - 1
    positions = None if generator.random() < 0.4 else tuple({last, generator.randint(0, last)})
    return Patch(block.name, module, generator.randrange(block.n_layers), positions, heads)


def positions_of(model, pair):
    clean, _ = encode_pair(model, pair, 0, "image")
    trace = model.trace(clean)
    return {name: trace[name, "residual", 0].shape[1] for name in model.blocks}


@pytest.mark.medium
@pytest.mark.parametrize("family", EVERY)
def test_drawn_sets_of_patches_equal_hooked_passes(model_store, random_pairs, both, family):
    model, generator = model_store.shared(family), random.Random(f"sets {family}")
    # The second pair's answers have several tokens in BLIP's vocabulary.
    pairs = random_pairs.iloc[[0, 1]]
    lengths = positions_of(model, pairs.iloc[[0]])
    sets = [[drawn_patch(model, generator, lengths) for _ in range(generator.randint(0, 4))] for _ in range(12)]
    sets.append([Patch(model.answer_block, "residual", 0)])
    for corruption, direction in (("image", "denoising"), ("text", "noising")):
        fast, slow = both(model, lambda: vt.patch_together(model, pairs, sets, corruption, direction))  # noqa: B023
        same(fast, slow, f"{family}, {corruption}, {direction}")
        assert fast["logit_diff"].abs().max() > 1e-3, "no set does anything"


@pytest.mark.parametrize("block", ["vision_encoder", "text_encoder", "text_decoder"])
def test_regions_of_a_batch_of_blip_equal_hooked_passes(random_blip, random_pairs, block):
    """Several positions at once, of whole modules and of heads, in two pairs with positions of their own."""
    model, generator = random_blip, np.random.default_rng(3)
    batch = random_pairs.iloc[[0, 4]]
    runs = run_pairs(model, batch, [encode_pair(model, batch, row, "image") for row in (0, 1)], "image", "options")
    kinds = [(module, None) for module in model.blocks[block].modules]
    kinds += [(module, head) for module in model.blocks[block].head_modules for head in (0, 3)]
    sites = [(module, layer, head) for module, head in kinds for layer in (2, 0)]
    length = runs.corrupt[block, "residual", 0].shape[1]
    masks = torch.as_tensor(generator.random((2, len(sites), length)) < 0.4)
    masks[:, :, -1] = True
    modules, layers, heads = (list(column) for column in zip(*sites, strict=True))
    patches = Patches(block, modules, layers, heads, masks.int().argmax(-1), masks)
    ids = runs.answer_ids
    for memory in (2**28, 1):
        fast = model.sweep(runs.clean, runs.corrupt, runs.inputs, patches, ids, memory)
        for row in range(2):
            one = slice(row, row + 1)
            inputs = {name: value[one] for name, value in runs.inputs.items()}
            slow = reference.sweep(model, runs.clean.rows(one), inputs, patches.of_pair(row), ids[one])
            torch.testing.assert_close(fast.correct[one], slow.correct, atol=1e-4, rtol=0)
            assert (slow.logit_diff - slow.logit_diff[0, 0]).abs().max() > 1e-3, "all patches do the same"


@pytest.mark.medium
@pytest.mark.parametrize("family", EVERY)
def test_knockouts_equal_masked_passes(model_store, random_pairs, both, family):
    model = model_store.shared(family)
    edges = [*model.edges, ("object", "options"), ("options", "all"), ("all", "all")]
    for window in (1, 2):
        fast, slow = both(
            model,
            lambda: vt.knock_out_attention(model, random_pairs.iloc[[0, 1, 4]], edges=edges, window=window),  # noqa: B023
        )
        same(fast, slow, f"{family}, {window} layers")
        assert fast["logit_diff"].abs().max() > 1e-3, "no knockout does anything"


@pytest.mark.medium
@pytest.mark.parametrize("family", EVERY)
def test_computed_circuits_equal_hooked_passes(model_store, random_pairs, both, family):
    model, generator = model_store.shared(family), random.Random(5)
    block = model.head_block
    heads = [(m, layer, h) for m in block.head_modules for layer in range(block.n_layers) for h in range(block.n_heads)]
    sets = [[], heads, *(generator.sample(heads, k) for k in (1, 3, len(heads) // 2, len(heads) - 1))]
    fast, slow = both(model, lambda: run_circuits(model, random_pairs.iloc[[0, 1]], sets))
    same(fast, slow, family)
    assert fast.groupby("set")["logit_diff"].mean().nunique() > 3, "circuits do the same"


def test_what_the_sweep_does_not_know_goes_by_hooks(random_blip, random_pairs, monkeypatch):
    """A submodule that it does not compute with sends all of these to hooked passes, which give the same."""
    pair, sets = random_pairs.iloc[[0]], [[("cross_attention", 1, 2)], [Patch("text_encoder", "mlp", 0)]]

    def tables():
        return [
            vt.patch_together(random_blip, pair, sets),
            vt.patch_regions(random_blip, pair, regions=["image"]),
            vt.knock_out_attention(random_blip, pair),
            run_circuits(random_blip, pair, [[("cross_attention", 1, 2)]]),
        ]

    def refuse(*_args, **_options):
        raise AssertionError("the fast path ran")

    fast = tables()
    monkeypatch.setattr(type(random_blip), "sweep_unsupported_reason", lambda *_: "an adapter")
    monkeypatch.setattr(type(random_blip), "intervene", refuse)
    monkeypatch.setattr(type(random_blip), "sweep", refuse)
    for one, other in zip(fast, tables(), strict=True):
        same(one, other, "hooks")


@pytest.mark.parametrize("family", ["random_blip", "llava"])
def test_little_memory_gives_the_same_numbers(model_store, random_pairs, family):
    model, generator = model_store.shared(family), random.Random(11)
    pair = random_pairs.iloc[[0]]
    runs = run_pairs(model, pair, [encode_pair(model, pair, 0, "image")], "image", "options")
    blocks = [model.head_block.name, model.answer_block]
    sites = [Patch(b, m, layer) for b in dict.fromkeys(blocks) for m in model.blocks[b].modules for layer in (0, 1, 2)]
    given = interventions_of(model, runs, [generator.sample(sites, 2) for _ in range(7)])
    few, many = (
        model.intervene(runs.clean, runs.corrupt, runs.inputs, given, runs.answer_ids, memory) for memory in (1, 2**28)
    )
    torch.testing.assert_close(few.logit_diff, many.logit_diff, atol=1e-5, rtol=0)
    assert many.logit_diff[0].unique().numel() > 2


def test_what_changes_nothing_is_left_out(random_blip, random_pairs):
    """The first layer's self-attention is the same in both runs of an image corruption; behind a change it is not."""
    pair, model = random_pairs.iloc[[0]], random_blip
    runs = run_pairs(model, pair, [encode_pair(model, pair, 0, "image")], "image", "options")
    same_in_both, changes = Patch("text_encoder", "self_attention", 0), Patch("text_encoder", "cross_attention", 0)
    seen, put_back = Patch("vision_encoder", "residual", 0), Patch("text_encoder", "self_attention", 0)
    sets = [[same_in_both], [same_in_both, changes], [seen, put_back]]
    acting = interventions_of(model, runs, sets).acting(runs.clean, runs.corrupt, list(model.blocks))
    assert acting.idle == [0]
    assert acting.overwritten[same_in_both.site].states == [2], "what a lower patch may have changed is put back"
    assert acting.overwritten[changes.site].states == [1]
