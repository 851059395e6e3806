"""Methods on a model whose layers differ in heads, and most of which carry a state instead of attending.

The random Qwen3.5 has layers of 8, 8, 4 and 8 heads; the third one attends.
"""

import numpy as np
import pytest

import vlmtrace as vt
from vlmtrace.methods.circuits import head_table, run_circuits
from vlmtrace.methods.circuits.figures import head_map
from vlmtrace.methods.circuits.search import candidate_heads
from vlmtrace.methods.circuits.sites import check_heads, random_order
from vlmtrace.methods.explanation import explain
from vlmtrace.methods.relevancy import relevancy

HEADS = [8, 8, 4, 8]
EVERY = [("self_attention", layer, head) for layer, n in enumerate(HEADS) for head in range(n)]


@pytest.fixture(scope="module")
def model(model_store):
    return model_store.shared("qwen3_5")


def numbers(table):
    """Layer and head of each row, each once."""
    return list(table[["layer", "head"]].drop_duplicates().astype(int).itertuples(index=False, name=None))


def test_heads_are_patched_and_estimated_in_each_layer(model, random_pairs):
    pairs, there = random_pairs.iloc[[0]], [(layer, head) for _, layer, head in EVERY]
    options = dict(positions=["correct", "last"])
    exact, estimate = vt.patch_heads(model, pairs, **options), vt.attribute_heads(model, pairs, **options)
    assert numbers(exact) == numbers(estimate) == there
    assert exact["logit_diff"].abs().max() > 2e-3
    found = vt.ranking_agreement(exact, estimate, top=5).iloc[0]
    assert found["n_heads"] == len(EVERY) and found["pearson"] > 0.5


def test_whole_heads_and_sets_of_heads_go_through_those_of_each_layer(model, random_pairs):
    pairs = random_pairs.iloc[[0]]
    whole = vt.patch_whole_heads(model, pairs, blocks=["language_model"])
    assert numbers(whole) == [(layer, head) for _, layer, head in EVERY]
    # A single head that is patched is a set of one.
    alone = vt.patch_together(model, pairs, [[("self_attention", 2, 3)], [("self_attention", 3, 7)]])
    of_head = {(row.layer, row.head): row.logit_diff for row in whole.itertuples()}
    np.testing.assert_allclose(alone["logit_diff"], [of_head[2, 3], of_head[3, 7]], atol=1e-4)
    with pytest.raises(vt.VlmtraceError, match="There is no head 4 in layer 2 of language_model: choose among 0 to 3"):
        vt.patch_together(model, pairs, [[("self_attention", 2, 4)]])
    fixed = vt.patch_head_sets(model, pairs, [EVERY, EVERY[:10]], reverse=True)
    assert fixed["logit_diff"].abs().max() > 2e-3
    with pytest.raises(vt.VlmtraceError, match="Head 4 does not exist: layer 2 of language_model has heads 0 to 3"):
        vt.patch_head_sets(model, pairs, [[("self_attention", 2, 4)]])


def test_circuits_know_the_heads_of_each_layer(model, random_pairs):
    pairs = random_pairs.iloc[[0]]
    assert sorted(candidate_heads(model, pairs)) == EVERY
    effects = run_circuits(model, pairs, [EVERY, EVERY[:20]])["patching_effect"]
    assert effects.iloc[0] == pytest.approx(1, abs=1e-3) and effects.iloc[1] != pytest.approx(1, abs=1e-3)
    drawn = random_order(model, [head for head in EVERY if head[1] == 2], np.random.default_rng(0))
    assert sorted(drawn) == [head for head in EVERY if head[1] == 2]
    with pytest.raises(vt.VlmtraceError, match="4 layers of at most 8 heads"):
        check_heads(model, [("self_attention", 2, 4)])


def test_maps_leave_out_heads_that_a_layer_lacks(model, random_pairs):
    patched = vt.patch_heads(model, random_pairs.iloc[[0, 1, 2, 3]], positions=["correct"])
    table = head_table(patched.assign(task="noise"), n_boot=100, n_permutations=200)
    assert len(table) == len(EVERY)
    figure = head_map(table)
    cells = figure.axes[0].collections[0].get_array()
    assert np.ma.masked_invalid(cells).count() == len(EVERY)


def test_what_needs_attention_weights_says_so_in_a_sentence(model, random_pairs):
    pairs = random_pairs.iloc[[0]]
    image, prompt = pairs.iloc[0][["clean_image", "clean_prompt"]]
    with pytest.raises(vt.VlmtraceError, match="gives no attention weights, since some of its layers carry a state"):
        relevancy(model, image, prompt)
    with pytest.raises(vt.VlmtraceError, match="carry a state"):
        explain(model, image, prompt)
    with pytest.raises(vt.VlmtraceError, match="are not all alike"):
        vt.open_lens(model, model.encode([image], [model.prompt_text(prompt)]))
