"""Which maps of one pair are exact and which are estimated, by what their patches would cost."""

import numpy as np
import pytest

from vlmtrace.display import Example
from vlmtrace.methods.attribution import attribute_modules
from vlmtrace.methods.patching import extent, model_sizes
from vlmtrace.methods.patching.extent import can_wait
from vlmtrace.methods.patching.pair_effects import PairEffects


@pytest.fixture(scope="module")
def model(model_store):
    return model_store.shared("llava")


@pytest.fixture
def numbers(model, random_pairs):
    """Of an example that has kept nothing yet."""
    return PairEffects(Example(model, random_pairs.iloc[0]), "image", "denoising")


@pytest.fixture(scope="module")
def sizes(model, random_pairs):
    return model_sizes(model, random_pairs)


def test_a_patch_of_the_vision_encoder_costs_a_pass_of_the_model(model, sizes, monkeypatch):
    cost = model.blocks["vision_encoder"].n_layers * 5 * sizes.pass_operations
    for affordable, is_exact in ((cost, True), (cost - 1, False)):
        monkeypatch.setitem(extent.WAITED_FOR, "cpu", affordable)
        assert can_wait(model, sizes, "vision_encoder", 5, 5) == is_exact


def test_patches_of_the_vision_encoder_that_nobody_can_wait_for_are_estimated(
    model, numbers, random_pairs, monkeypatch
):
    place = ("vision_encoder", "residual")
    monkeypatch.setitem(extent.WAITED_FOR, "cpu", 1.0)
    found = numbers.by_position(place)
    is_image = found["token_role"] == "image"
    assert is_image.any() and (found["is_estimate"] == is_image).all()
    by_gradient = attribute_modules(model, random_pairs.iloc[[0]], blocks=place[:1], modules=place[1:])
    both = found[is_image].merge(by_gradient, on=["layer", "position"])
    assert len(both) == is_image.sum()
    np.testing.assert_allclose(both["patching_effect_x"], both["patching_effect_y"], atol=1e-4)


def test_heads_at_all_positions_cost_more_than_heads_at_the_first_one(model, numbers, sizes, monkeypatch):
    place, n_heads = ("language_model", "self_attention"), model.blocks["language_model"].n_heads
    at_one, at_all = (sizes.patches_operations(n_heads, sizes.positions, whole) for whole in (False, True))
    assert at_one < at_all
    monkeypatch.setitem(extent.WAITED_FOR, "cpu", at_one)
    assert not numbers.by_head(place, [0])["is_estimate"].any()
    assert numbers.by_head(place, [])["is_estimate"].all()
    assert numbers.by_head(place, [0, 1])["is_estimate"].all()
    monkeypatch.setitem(extent.WAITED_FOR, "cpu", at_all)
    assert not numbers.by_head(place, list(range(sizes.positions)))["is_estimate"].any()


def test_what_patches_cost_is_counted_without_another_run(model, numbers, sizes, monkeypatch):
    runs = numbers.runs
    monkeypatch.setattr(type(model), "trace", lambda *_: pytest.fail("the model is run once more"))
    found = numbers.by_position(("language_model", "mlp"))
    assert len(found) == model.blocks["language_model"].n_layers * sizes.positions
    assert numbers.example.keep("sizes", pytest.fail) == sizes and runs is numbers.runs
