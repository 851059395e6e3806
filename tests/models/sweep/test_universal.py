"""Batches of whole passes give what one hooked pass a patch gives, whatever the architecture."""

from itertools import product

import pytest
import torch

import vlmtrace as vt
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.models import Patches, Readout
from vlmtrace.models.interventions import from_patches
from vlmtrace.models.sweep import reference, universal
from vlmtrace.models.universal import UniversalDecoder

LANGUAGE = "language_model"

#: One for each thing in which vision encoders and layers differ: tiles, patches in a row, features added later, masks.
TRIED = ("llava", "llava_next", "qwen2_5_vl", "qwen3_vl", "gemma3", "paligemma2", "instructblip")

#: Effects below this prove nothing.
VACUOUS = 2e-3


@pytest.fixture(scope="module", params=TRIED)
def model(request, model_store):
    fast = model_store.shared(request.param)
    return UniversalDecoder(fast.name, fast.hf, fast.processor, fast.family)


def runs(model, pairs, row=1, corruption="image"):
    pair = pairs.iloc[[row]]
    clean, inputs = (run_inputs(model, pair, side) for side in ("clean", corruption))
    return (
        model.trace(clean),
        model.trace(inputs),
        inputs,
        model.answer_ids(pair["correct_answer"], pair["incorrect_answer"]),
    )


def patches(block, chosen):
    modules, layers, heads, positions = (list(column) for column in zip(*chosen, strict=True))
    return Patches(block, modules, layers, heads, torch.tensor([positions]))


def every_layer(model, block, length):
    found, places = model.blocks[block], sorted({1, length // 2, length - 1})
    chosen = [(m, layer, None, at) for m, layer, at in product(found.modules, range(found.n_layers), places)]
    return chosen + [
        (m, layer, found.heads_at(layer) - 1, at)
        for m, layer, at in product(found.head_modules, range(found.n_layers), places)
    ]


def largest_difference(one, other):
    return max((getattr(one, name) - getattr(other, name)).abs().max().item() for name in vars(one))


@pytest.mark.medium
@pytest.mark.parametrize("block", [LANGUAGE, "vision_encoder"])
def test_every_layer_and_module_equals_hooked_passes(model, random_pairs, block, record_property):
    if block not in model.blocks:
        pytest.skip("its positions are not known to be patches")
    clean, corrupt, inputs, ids = runs(model, random_pairs)
    chosen = patches(block, every_layer(model, block, clean[block, "residual", 0].shape[1]))
    fast = model.sweep(clean, corrupt, inputs, chosen, ids, memory=2**24)
    slow = reference.sweep(model, clean, inputs, chosen, ids)
    worst = largest_difference(fast, slow)
    record_property("largest difference", worst)
    assert worst <= 1e-4, f"logits are off by {worst:.2g}"
    assert (slow.logit_diff - Readout.of(corrupt.logits, ids).logit_diff[:, None]).abs().max() > VACUOUS


@pytest.fixture(scope="module")
def llava(model_store):
    fast = model_store.shared("llava")
    return UniversalDecoder(fast.name, fast.hf, fast.processor, fast.family)


def test_the_size_of_a_batch_changes_nothing(llava, random_pairs):
    clean, corrupt, inputs, ids = runs(llava, random_pairs)
    chosen = patches(LANGUAGE, every_layer(llava, LANGUAGE, 12)[::2])
    one_by_one = llava.sweep(clean, corrupt, inputs, chosen, ids, memory=1)
    together = llava.sweep(clean, corrupt, inputs, chosen, ids, memory=2**30)
    assert largest_difference(one_by_one, together) <= 1e-4


def test_regions_and_windows_equal_hooked_passes(llava, random_pairs):
    clean, corrupt, inputs, ids = runs(llava, random_pairs)
    length = clean[LANGUAGE, "residual", 0].shape[1]
    masks = torch.zeros(1, 4, length, dtype=torch.bool)
    masks[0, 0, 2:6], masks[0, 1, ::3], masks[0, 2, -1], masks[0, 3, 1:-1] = True, True, True, True
    chosen = Patches(
        LANGUAGE,
        ["residual", "mlp", "self_attention", "self_attention"],
        [1, 0, 0, 1],
        [None, None, None, 2],
        masks.int().argmax(-1),
        masks,
        [1, 3, 2, 2],
    )
    fast = llava.sweep(clean, corrupt, inputs, chosen, ids, memory=2**30)
    slow = reference.sweep(llava, clean, inputs, chosen, ids)
    assert largest_difference(fast, slow) <= 1e-4
    assert (slow.correct - slow.correct[:, :1]).abs().max() > VACUOUS, "all patches do the same"
    # The same as interventions, in another order: those that act higher up come first.
    given = from_patches(chosen.subset([2, 0, 3, 1]), llava.blocks[LANGUAGE])
    together = llava.intervene(clean, corrupt, inputs, given, ids, memory=2**30)
    expected = slow.correct[:, [2, 0, 3, 1]]
    torch.testing.assert_close(together.correct, expected, atol=1e-4, rtol=0)


def test_pairs_of_a_batch_are_answered_each_by_itself(llava, random_pairs):
    alone = [runs(llava, random_pairs, row) for row in (0, 4)]
    clean, corrupt = (
        type(alone[0][i])(
            torch.cat([one[i].logits for one in alone]),
            {site: torch.cat([one[i].activations[site] for one in alone]) for site in alone[0][i].activations},
        )
        for i in (0, 1)
    )
    inputs = {name: torch.cat([one[2][name] for one in alone]) for name in alone[0][2]}
    chosen = patches(LANGUAGE, [("residual", 0, None, 3), ("mlp", 2, None, 5)])
    both = Patches(LANGUAGE, chosen.modules, chosen.layers, chosen.heads, chosen.positions.repeat(2, 1))
    together = llava.sweep(clean, corrupt, inputs, both, torch.cat([one[3] for one in alone]), memory=2**30)
    for row, (one_clean, one_corrupt, one_inputs, ids) in enumerate(alone):
        single = llava.sweep(one_clean, one_corrupt, one_inputs, chosen, ids, memory=2**30)
        torch.testing.assert_close(together.correct[row], single.correct[0], atol=1e-4, rtol=0)


def test_layers_below_a_patch_are_not_run_again(llava, random_pairs):
    clean, corrupt, inputs, ids = runs(llava, random_pairs)
    last = llava.blocks[LANGUAGE].n_layers - 1
    chosen = patches(LANGUAGE, [("residual", last, None, 5)])
    llava.sweep(clean, corrupt, inputs, chosen, ids, memory=2**30)
    assert llava.skippable == {"vision_encoder", LANGUAGE}
    calls = []
    n_seen = llava.blocks["vision_encoder"].n_layers  # layers above reach nothing, and run
    counted = [*llava.text.layers[:last], *llava.vision_layers[:n_seen]]
    forwards = [layer.self_attn.register_forward_pre_hook(lambda *_: calls.append(1)) for layer in counted]
    try:
        llava.sweep(clean, corrupt, inputs, chosen, ids, memory=2**30)
    finally:
        for handle in forwards:
            handle.remove()
    assert len(calls) == len(counted), "each lower layer runs once, to see what it gives"
    assert not any("forward" in layer.__dict__ for layer in counted), "a layer was left without its own forward"


def test_layers_that_later_ones_need_are_run_again(model_store, random_pairs):
    """Layer 2 reads what layer 0 left behind, beside the stream."""
    fast = model_store.load("llava")
    model = UniversalDecoder(fast.name, fast.hf, fast.processor, fast.family)
    left = []

    def leave(_module, args):
        left[:] = [args[0]]

    def read(_module, args):
        (stream,) = left  # as many rows as the batch has, only if layer 0 has run
        left.clear()
        return (args[0] + 0.5 * stream, *args[1:])

    model.text.layers[0].self_attn.register_forward_pre_hook(lambda *_: None)
    model.text.layers[0].input_layernorm.register_forward_pre_hook(leave)
    model.text.layers[2].register_forward_pre_hook(read)
    clean, corrupt, inputs, ids = runs(model, random_pairs)
    chosen = patches(LANGUAGE, every_layer(model, LANGUAGE, 12))
    fast = model.sweep(clean, corrupt, inputs, chosen, ids, memory=2**30)
    assert model.skippable == {"vision_encoder"}
    assert largest_difference(fast, reference.sweep(model, clean, inputs, chosen, ids)) <= 1e-4


def test_a_layer_may_give_tensors_tuples_and_nothing_else():
    one = torch.ones(1, 2, 3)
    again = universal.repeated((one, None, [one, 0.5]), 4)
    assert again[0].shape == again[2][0].shape == (4, 2, 3) and again[1] is None and again[2][1] == 0.5
    assert universal.repeated(torch.ones(2, 1, 5, 3), 4, stream_axis=0).shape == (2, 4, 5, 3)
    with pytest.raises(TypeError, match="a layer gives a dict"):
        universal.repeated({"hidden": one}, 2)


@pytest.mark.medium
def test_methods_give_what_they_give_with_the_fast_sweep(llava, model_store, random_pairs):
    """Sets of heads by hooks, joint patches in batches, knockouts by hooks, gradients: the same tables."""
    fast, pairs = model_store.shared("llava"), random_pairs.iloc[[1]]
    heads = [("self_attention", 0, 1), ("self_attention", 2, 3)]
    for call in (
        lambda model: vt.patch_head_sets(model, pairs, [heads, heads[:1]]),
        lambda model: vt.patch_regions(model, pairs),
        lambda model: vt.knock_out_attention(model, pairs, edges=[("image", "last")]),
        lambda model: vt.patch_together(model, pairs, [[(*heads[0],), (*heads[1],)]]),
    ):
        found, expected = call(llava), call(fast)
        assert list(found.columns) == list(expected.columns) and len(found) == len(expected)
        difference = (found["logit_diff"] - expected["logit_diff"]).abs().max()
        assert difference <= 1e-4 and expected["logit_diff"].abs().max() > 1e-4
