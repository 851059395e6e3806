"""Two answers behind one prompt: what is run at once is what two runs give, in every family."""

import numpy as np
import pytest
import torch
from fixtures.asked import with_options
from fixtures.families import TIERED

import vlmtrace as vt
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.patching import run_sweep
from vlmtrace.models.sweep import joined_answers
from vlmtrace.models.sweep.joined_answers import Side, join
from vlmtrace.models.types import Site, WholeAnswer

OPTIONS = "red ball", "blue dog"


@pytest.fixture
def pair(random_pairs):
    asked = with_options(random_pairs.iloc[[0]], *OPTIONS)
    # Tokenizers of letters write the options in unlike numbers of tokens: there is no text corruption.
    return asked.assign(corrupt_prompt=asked["clean_prompt"])


def sides_of(model, pair):
    found = []
    for name in OPTIONS:
        ids = torch.tensor([model.spell_answer(name)])
        traces = [
            model.trace(model.extend(run_inputs(model, pair, run), ids[0, :-1].tolist())) for run in ("clean", "image")
        ]
        found.append(Side(WholeAnswer(ids), *traces))
    return found


@pytest.mark.parametrize("name", TIERED)
def test_both_at_once_are_what_each_alone_is(model_store, pair, name, monkeypatch):
    model = model_store.shared(name)
    if not model.joins_answers:
        pytest.skip("its sweeps run every answer by itself")
    edges = [edge for edge in model.edges if "options" in edge][:1]
    measures = {
        "heads": lambda: vt.patch_heads(model, pair, positions=["correct", "last"]),
        "modules": lambda: vt.patch_modules(model, pair, positions=["correct"], blocks=["language_model"]),
        "knock-outs": lambda: vt.knock_out_attention(model, pair, edges=edges) if edges else pair.assign(logit_diff=0),
    }
    together = {what: measure()["logit_diff"].to_numpy(float) for what, measure in measures.items()}
    monkeypatch.setattr(run_sweep, "join", lambda *_: None)
    for what, measure in measures.items():
        apart = measure()["logit_diff"].to_numpy(float)
        np.testing.assert_allclose(together[what], apart, atol=2e-4 * max(1, np.abs(apart).max()), err_msg=what)


def test_pairs_that_share_a_sweep_are_what_each_alone_is(model_store, pair, random_pairs):
    model = model_store.shared("llava")
    images = {name: random_pairs[name].iloc[:2].tolist() for name in ("clean_image", "corrupt_image")}
    pairs = pair.iloc[[0, 0]].assign(sample_id=["a", "b"], **images)
    together = vt.patch_heads(model, pairs, positions=["correct"])
    alone = [vt.patch_heads(model, pairs.iloc[[row]], positions=["correct"]) for row in (0, 1)]
    for name, one in zip("ab", alone, strict=True):
        mine = together.loc[together["sample_id"] == name, "logit_diff"]
        np.testing.assert_allclose(mine, one["logit_diff"], atol=1e-4)
    assert np.abs(alone[0]["logit_diff"].to_numpy() - alone[1]["logit_diff"].to_numpy()).max() > 1e-3


def test_an_answer_does_not_see_the_other(model_store, pair):
    """The other's tokens stand before it in the sequence: its states would be others if it saw them."""
    model = model_store.shared("llava")
    sides = sides_of(model, pair)
    joined = join(model, *sides)
    lengths = [side.corrupt.calls[0].hidden.shape[1] for side in sides]
    n_prompt = lengths[0] - sides[0].ids.n_positions + 1
    mask = joined.corrupt.calls[0].options["attention_mask"][0, 0]
    assert not mask[lengths[0] :, n_prompt : lengths[0]].any() and not mask[: lengths[0], lengths[0] :].any()
    assert mask[lengths[0] :, :n_prompt].all() and mask[-1, -1]
    assert joined.ids.n_positions == sum(side.ids.n_positions for side in sides) - 1


def test_where_the_prompt_is_another_nothing_is_joined(model_store, pair):
    model = model_store.shared("llava")
    correct, contrast = sides_of(model, pair)
    other = sides_of(model, pair.assign(clean_prompt=pair["clean_prompt"].str.replace("circle", "square")))[1]
    assert join(model, correct, contrast) is not None
    assert join(model, correct, other) is None, "the prompts differ in a word"
    unrecorded = contrast._replace(corrupt=contrast.corrupt.rows(slice(None)))
    assert join(model, correct, unrecorded) is None, "nothing is known of how its layers were called"


def test_queries_that_are_scaled_by_their_number_in_the_sequence_are_not_joined(model_store, pair):
    """Some layers of Llama 4 count positions: the second answer's would count those of the first."""
    model = model_store.shared("llama4")
    attentions = [model.attention_module(Site("language_model", "self_attention", i)) for i in range(2)]
    assert any(one.attn_temperature_tuning and not one.use_rope for one in attentions), "no layer counts positions"
    assert join(model, *sides_of(model, pair)) is None


def test_what_is_joined_is_counted(model_store, pair, monkeypatch):
    """Of the decoder-only families that the tests have throughout, most can be joined; the others run apart."""
    asked = []
    can = joined_answers._can_be_joined
    monkeypatch.setattr(joined_answers, "_can_be_joined", lambda *given: asked.append(can(*given)) or asked[-1])
    for name in ("llava", "qwen2_5_vl", "gemma3", "idefics3"):
        vt.patch_heads(model_store.shared(name), pair, positions=["last"])
    assert asked and all(asked)
