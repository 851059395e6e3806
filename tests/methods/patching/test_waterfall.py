"""What each patch adds, against patches that are drawn: checked with `intervene`, one set at a time."""

import numpy as np
import pytest

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.patching import Patch, intervene, patch_waterfall
from vlmtrace.methods.patching.waterfall import random_patches


@pytest.fixture(scope="module", params=["random_blip", "llava"])
def model(request, model_store):
    return model_store.shared(request.param)


def three(model):
    block = model.head_block
    module = block.head_modules[-1]
    return [
        Patch(block.name, module, 1, None, (2,)),
        Patch(block.name, module, 0, (3,), (0, 1)),
        Patch(block.name, "mlp", 1),
    ]


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_each_step_is_the_intervention_of_all_patches_so_far(model, random_pairs, direction):
    pair, patches = random_pairs.iloc[0], three(model)
    steps = patch_waterfall(model, pair, patches, direction=direction, n_draws=3)
    assert steps["step"].tolist() == [0, 1, 2, 3] and steps["patching_effect"].iloc[0] == 0
    for n in (1, 2, 3):
        alone = intervene(model, pair, patches[:n], direction=direction)
        assert steps["patching_effect"].iloc[n] == pytest.approx(alone.patching_effect, abs=1e-4), n
    assert steps["added"].iloc[1:].sum() == pytest.approx(steps["patching_effect"].iloc[-1], abs=1e-6)


def test_random_patches_are_interventions_too(model, random_pairs):
    """Mean, interval and share of the draws are those of the same draws, intervened upon one by one."""
    pair, patches = random_pairs.iloc[0], three(model)
    steps = patch_waterfall(model, pair, patches, n_draws=4, seed=5).iloc[-1]
    rng = np.random.default_rng(5)
    found = [intervene(model, pair, random_patches(model, patches, rng)).patching_effect for _ in range(4)]
    assert steps["random_mean"] == pytest.approx(np.mean(found), abs=1e-4)
    assert [steps["random_low"], steps["random_high"]] == pytest.approx(np.quantile(found, [0.025, 0.975]), abs=1e-4)
    assert steps["random_share"] == np.mean(np.array(found) >= steps["patching_effect"] - 1e-6)


def test_other_heads_are_drawn_as_often_as_each_other(model):
    block = model.head_block
    patch = Patch(block.name, block.head_modules[-1], 1, None, (2,))
    rng = np.random.default_rng(0)
    drawn = [random_patches(model, [patch], rng)[0] for _ in range(3000)]
    places = [(one.layer, one.heads[0]) for one in drawn]
    others = [place for place in block.every_head if place != (1, 2)]
    assert set(places) == set(others), "the head itself was drawn, or another never"
    counts = np.array([places.count(place) for place in others])
    assert abs(counts - 3000 / len(others)).max() < 5 * np.sqrt(3000 / len(others))


def test_no_head_is_drawn_twice(model):
    block = model.head_block
    every = [Patch(block.name, block.head_modules[-1], layer, None, (head,)) for layer, head in block.every_head]
    half = every[: len(every) // 2]
    for seed in range(5):
        found = random_patches(model, half, np.random.default_rng(seed))
        assert len(set(found)) == len(half) and not set(found) & set(half)


def test_a_model_without_other_heads_draws_among_all(model):
    block = model.head_block
    every = [Patch(block.name, block.head_modules[-1], layer, None, (head,)) for layer, head in block.every_head]
    assert set(random_patches(model, every, np.random.default_rng(0))) <= set(every)


def test_what_cannot_be_shown_is_said(model, random_pairs):
    with pytest.raises(VlmtraceError, match="no patch whose effect"):
        patch_waterfall(model, random_pairs.iloc[0], [])
    with pytest.raises(VlmtraceError, match="There is no head 99"):
        patch_waterfall(model, random_pairs.iloc[0], [three(model)[0]._replace(heads=(99,))])
