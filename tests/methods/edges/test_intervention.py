"""Edges patched together, against edges patched one by one, nodes' patches, and the runs at both ends."""

import pytest

from vlmtrace.core.errors import NotForThisModel, VlmtraceError
from vlmtrace.methods.edges import edges, intervene_on_edges, patch_edges
from vlmtrace.methods.patching import Patch, intervene

MODELS = ["random_blip", "llava"]


@pytest.fixture
def pair(random_pairs):
    return random_pairs.iloc[0]


def as_pairs(table):
    return list(zip(table["sender"].astype(str), table["receiver"].astype(str), strict=True))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("corruption", ["image", "text"])
def test_one_edge_is_what_patching_it_gives(name, corruption, model_store, random_pairs, pair):
    model = model_store.shared(name)
    effects = patch_edges(model, random_pairs.iloc[[0]], corruption)
    for row in effects.sample(12, random_state=0).itertuples():
        outcome = intervene_on_edges(model, pair, [(str(row.sender), str(row.receiver))], corruption)
        found = outcome.logit_diff() - outcome.logit_diff("corrupt")
        assert found == pytest.approx(row.logit_diff, abs=1e-4), f"{row.sender} → {row.receiver}"


@pytest.mark.parametrize("name", MODELS)
def test_all_edges_of_a_head_together_are_the_heads_patch(name, model_store, pair):
    model = model_store.shared(name)
    block = model.head_block
    module = block.head_modules[-1]
    every = edges(model)
    own = every[every["sender"] == f"{block.name}.{module}.0.1"]
    outcome = intervene_on_edges(model, pair, as_pairs(own))
    expected = intervene(model, pair, [Patch(block.name, module, 0, None, (1,))])
    assert outcome.logit_diff() == pytest.approx(expected.logit_diff(), abs=1e-4)
    assert outcome.answers == {run: expected.answer(run) for run in ("clean", "corrupt", "patched")}


@pytest.mark.parametrize("name", MODELS)
def test_none_leaves_the_corrupt_run_and_all_give_the_clean_one(name, model_store, pair):
    model = model_store.shared(name)
    for chosen, run in (([], "corrupt"), (as_pairs(edges(model)), "clean")):
        outcome = intervene_on_edges(model, pair, chosen)
        assert outcome.logit_diff() == pytest.approx(outcome.logit_diff(run), abs=1e-4), run
        shares = outcome.table().set_index("run")["p_correct"]
        assert shares["patched"] == pytest.approx(shares[run], abs=1e-5)
        assert outcome.answers["patched"] == outcome.answers[run]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("answers", [("red", "blue"), ("striped", "strips")])
def test_the_first_token_of_the_patched_run_is_the_runs_own(name, answers, model_store, pair):
    """The two options may have several tokens, and neither be what the model says."""
    model = model_store.shared(name)
    correct, incorrect = answers
    pair = pair.to_dict() | {"correct_answer": correct, "incorrect_answer": incorrect}
    block = model.head_block.name
    every = edges(model)
    own = every[every["sender"].astype(str).str.startswith(f"{block}.mlp.")]
    patches = [Patch(block, "mlp", layer) for layer in range(model.head_block.n_layers)]
    found = intervene_on_edges(model, pair, as_pairs(own), "text").answers
    expected = intervene(model, pair, patches, "text")
    assert found == {run: expected.answer(run) for run in ("clean", "corrupt", "patched")}


@pytest.mark.parametrize("name", MODELS)
def test_a_word_alone_is_what_patching_it_gives(name, model_store, random_pairs, pair):
    model = model_store.shared(name)
    effects = patch_edges(model, random_pairs.iloc[[0]], "text", senders=["prompt"], positions="all")
    effects = effects.loc[effects["logit_diff"].abs().nlargest(8).index]
    assert effects["logit_diff"].abs().min() > 1e-4, "no word of the other question does anything"
    for row in effects.itertuples():
        outcome = intervene_on_edges(model, pair, [(f"prompt@{row.position}", str(row.receiver))], "text")
        found = outcome.logit_diff() - outcome.logit_diff("corrupt")
        assert found == pytest.approx(row.logit_diff, abs=1e-4), f"{row.token} → {row.receiver}"


@pytest.mark.parametrize("name", MODELS)
def test_all_words_are_the_whole_prompt(name, model_store, pair):
    model = model_store.shared(name)
    receiver = next(str(row.receiver) for row in edges(model).itertuples() if row.sender == "prompt")
    whole = intervene_on_edges(model, pair, [("prompt", receiver)], "text").logit_diff()
    every = patch_edges(model, pair.to_frame().T, "text", ["prompt"], [receiver], positions="all")["position"]
    words = [(f"prompt@{position}", receiver) for position in every]
    assert intervene_on_edges(model, pair, words, "text").logit_diff() == pytest.approx(whole, abs=1e-4)
    both = intervene_on_edges(model, pair, [words[0], ("prompt", receiver)], "text")
    assert both.logit_diff() == pytest.approx(whole, abs=1e-6), "a word takes the rest of the prompt away"


@pytest.mark.parametrize("edges", [[], [("image", "output")]])
def test_a_model_whose_edges_are_not_known_is_refused_whatever_is_asked(model_store, pair, edges, monkeypatch):
    model = model_store.shared("random_blip")
    monkeypatch.setattr(model, "nodes_unsupported_reason", lambda: "layers of its own")
    with pytest.raises(NotForThisModel, match="has no edges here, because of layers of its own"):
        intervene_on_edges(model, pair, edges)


def test_what_is_no_edge_is_refused(model_store, pair):
    model = model_store.shared("random_blip")
    with pytest.raises(VlmtraceError, match=r"The prompt has no position 99: choose one below [0-9]+\."):
        intervene_on_edges(model, pair, [("prompt@99", "text_encoder.mlp.0")], "text")
    with pytest.raises(VlmtraceError, match=r"has no edge from 'output' to 'image': vt\.edges\(model\) lists them"):
        intervene_on_edges(model, pair, [("output", "image")])
