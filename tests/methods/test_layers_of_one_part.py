"""Methods on a model whose layers are a state space model, attention or a feed-forward alone, and lack the rest.

The random Nemotron-H Omni has layers of 8, 0, 4, 0 and 8 heads; the second and the fourth are feed-forwards.
"""

import copy

import numpy as np
import pandas as pd
import pytest

import vlmtrace as vt
from vlmtrace.display import Session
from vlmtrace.methods.circuits.search import candidate_heads
from vlmtrace.methods.patching import Patch, patch_waterfall
from vlmtrace.methods.patching.view import Patching
from vlmtrace.methods.patching.waterfall import random_patches
from vlmtrace.models import Site

pytestmark = pytest.mark.medium

BLOCK = "language_model"
EVERY = [("self_attention", layer, head) for layer, n in enumerate((8, 0, 4, 0, 8)) for head in range(n)]
MIXING, FEEDING = [0, 2, 4], [1, 3]


@pytest.fixture(scope="module")
def model(model_store):
    return model_store.shared("nemotron_h_omni")


def layers_of(table):
    """By module, the layers of a table."""
    return {module: sorted(part["layer"].unique().tolist()) for module, part in table.groupby("module")}


def test_modules_are_patched_and_estimated_where_there_are_some(model, random_pairs):
    pairs, options = random_pairs.iloc[[0]], dict(blocks=[BLOCK], positions=["correct", "last"])
    exact, estimate = vt.patch_modules(model, pairs, **options), vt.attribute_modules(model, pairs, **options)
    there = {"residual": [0, 1, 2, 3, 4], "mlp": FEEDING, "self_attention": MIXING}
    assert layers_of(exact) == layers_of(estimate) == there
    assert exact.groupby("module")["logit_diff"].agg(lambda found: found.abs().max()).min() > 2e-3
    assert [site.layer for site in model.sites([BLOCK]) if site.module == "mlp"] == FEEDING
    with pytest.raises(vt.VlmtraceError, match=r"Layer 0 of language_model of .* has no mlp: .* one \(1, 3\)\."):
        model.check_site(Site(BLOCK, "mlp", 0))


def test_heads_are_those_of_layers_that_mix_positions(model, random_pairs):
    pairs = random_pairs.iloc[[0]]
    heads = vt.patch_heads(model, pairs, positions=["correct"])
    assert layers_of(heads) == {"self_attention": MIXING} and len(heads) == len(EVERY)
    assert sorted(candidate_heads(model, pairs)) == EVERY
    fixed = vt.patch_head_sets(model, pairs, [EVERY, EVERY[:10]], reverse=True)
    assert fixed["logit_diff"].abs().max() > 2e-3
    ablated = vt.ablate(model, pairs, method="zero")
    assert len(ablated) == len(EVERY) and ablated["logit_diff"].abs().max() > 2e-3
    with pytest.raises(vt.VlmtraceError, match=r"Layer 1 of language_model of .* has no self_attention"):
        vt.patch_head_sets(model, pairs, [[("self_attention", 1, 0)]])


def test_random_patches_are_of_layers_that_have_the_module(model, random_pairs):
    patches = [Patch(BLOCK, "mlp", 1), Patch(BLOCK, "self_attention", 0), Patch(BLOCK, "self_attention", 2, None, (1,))]
    drawn = [random_patches(model, patches, np.random.default_rng(seed)) for seed in range(20)]
    assert {one[0].layer for one in drawn} == {3} and {one[1].layer for one in drawn} == {2, 4}
    steps = patch_waterfall(model, random_pairs.iloc[0], patches[:2], n_draws=3)
    assert steps["patching_effect"].notna().all() and steps["random_mean"].notna().all()


def test_windows_pass_over_layers_that_lack_the_module(model, random_pairs):
    questions = random_pairs.iloc[[0]].rename(columns={"clean_image": "image", "clean_prompt": "prompt"})
    questions = questions[["sample_id", "category", "image", "prompt"]]
    # Random weights would go on and on.
    swept = copy.copy(model)
    swept.answer_tokens = lambda inputs, image=None: model.answer_tokens(inputs, 1, image)
    hooked = copy.copy(swept)
    hooked.uses_fast_sweep = False
    options = dict(level=2, draws=2, positions=["last"])
    table = vt.causal_trace(swept, questions, window=3, **options)
    assert layers_of(table) == {"residual": [0, 1, 2, 3, 4], "mlp": FEEDING, "self_attention": MIXING}
    widths = table.drop_duplicates(["module", "layer"]).set_index(["module", "layer"])["window"]
    assert widths["mlp"].tolist() == [1, 1] and widths["self_attention"].tolist() == [1, 1, 1]
    wider, slow = (vt.causal_trace(one, questions, window=5, modules=["mlp"], **options) for one in (swept, hooked))
    assert wider.drop_duplicates("layer").set_index("layer")["window"].to_dict() == {1: 3, 3: 3}
    np.testing.assert_allclose(wider["p_answer"], slow["p_answer"], atol=1e-5)


def test_a_position_is_hidden_in_the_layers_that_attend(model, random_pairs):
    table = vt.knock_out_attention(model, random_pairs.iloc[[0]])
    assert set(table["layer"]) == {2} and set(table["token"]) == {"1 layers: 2"}


def test_the_explorer_leaves_the_rows_of_missing_modules_empty(model, random_pairs):
    view = Patching(Session(model, random_pairs.iloc[[0]]))
    view.choose(place=(BLOCK, "mlp"))
    rows = pd.DataFrame(view.canvas.state["effects"])
    assert len(rows) == 5 and rows.loc[MIXING].isna().all(axis=None) and rows.loc[FEEDING].notna().all(axis=None)
    effects = view.effects()
    np.testing.assert_allclose(rows.loc[3], effects[effects["layer"] == 3].sort_values("position")["patching_effect"])
    view.choose(place=(BLOCK, "self_attention"))
    heads = pd.DataFrame(view.canvas.state["headEffects"])
    assert heads.shape == (5, 8) and heads.notna().sum(axis=1).tolist() == [8, 0, 4, 0, 8]
