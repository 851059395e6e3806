"""Answers of several tokens: sweeps give the log-probability of the whole answer, as naive hooked passes do."""

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.asked import with_options

import vlmtrace as vt
from vlmtrace.inputs import run_inputs
from vlmtrace.methods.patching import Patch, intervene, run_sweep
from vlmtrace.models import Site, attach_hooks
from vlmtrace.models.sweep import decoder_only

#: By family: a pair's options, of which one at least has several tokens under its tokenizer; the last two share theirs.
OPTIONS = {"random_blip": ("striped", "dotted"), "llava": ("red ball", "red dog"), "qwen2_vl": ("red", "blue")}


@pytest.fixture(params=list(OPTIONS))
def case(request, model_store, random_pairs):
    model = (
        request.getfixturevalue("random_blip") if request.param == "random_blip" else model_store.shared(request.param)
    )
    return model, with_options(random_pairs.iloc[[0]], *OPTIONS[request.param])


def log_probability(model, inputs, answer, hooks=()):
    """log p of all tokens of an answer, each given those before: one pass for each token."""
    ids, total = model.spell_answer(answer), 0.0
    for i, token in enumerate(ids):
        with torch.no_grad(), attach_hooks(list(hooks), n_pairs=1):
            logits = model.last_logits(model.extend(inputs, ids[:i]), 1)[0, 0]
        total += float(logits.log_softmax(-1)[token])
    return total


def patched(model, pair, corruption, site, positions, head=None):
    """log p(correct) − log p(incorrect) of the corrupt run with clean activations at some positions of a site."""
    clean = model.trace(run_inputs(model, pair, "clean"), [site])[site]
    width = clean.shape[-1] // model.blocks[site.block].n_heads
    columns = slice(None) if head is None else slice(head * width, (head + 1) * width)

    def put(value):
        value = value.clone()
        for position in positions:
            value[:, position, columns] = clean[:, position, columns]
        return value

    inputs = run_inputs(model, pair, corruption)
    hooks = [(model.hook_point(site), put)]
    options = pair["correct_answer"].iloc[0], pair["incorrect_answer"].iloc[0]
    return np.subtract(*(log_probability(model, inputs, answer, hooks) for answer in options))


def test_an_answer_has_several_tokens(case):
    model, pair = case
    lengths = [len(model.spell_answer(pair[name].iloc[0])) for name in ("correct_answer", "incorrect_answer")]
    assert max(lengths) > 1, "this test would prove nothing about whole answers"


@pytest.mark.medium
@pytest.mark.parametrize("corruption", ["image", "text"])
def test_sweeps_equal_hooked_passes(case, corruption):
    """Drawn sites of every block and module, with and without a head."""
    model, pair = case
    modules = vt.patch_modules(model, pair, corruption, contrast="options")
    heads = vt.patch_heads(model, pair, corruption, contrast="options")
    drawn = pd.concat(
        [
            modules.groupby(["block", "module"]).sample(2, random_state=0),
            heads.groupby("module").sample(3, random_state=0),
        ]
    )
    base = patched(model, pair, corruption, Site(*drawn.iloc[0][["block", "module", "layer"]]), [])
    found = []
    for row in drawn.itertuples():
        head = None if pd.isna(row.head) else int(row.head)
        site = Site(row.block, row.module, row.layer)
        found.append(patched(model, pair, corruption, site, [row.position], head) - base)
    assert np.abs(found).max() > 0.01, "the patches of this test change nothing: it proves nothing"
    np.testing.assert_allclose(drawn["logit_diff"], found, atol=1e-4)


def test_regions_equal_hooked_passes(case):
    model, pair = case
    table = vt.patch_regions(model, pair, modules=["residual"], regions=["all"], block=model.head_block.name)
    row = table[table["layer"] == 1].iloc[0]
    length = int(row["token"].split()[0])
    site = Site(model.head_block.name, "residual", 1)
    expected = patched(model, pair, "image", site, range(length)) - patched(model, pair, "image", site, [])
    assert row["logit_diff"] == pytest.approx(expected, abs=1e-4)


def test_fixed_heads_of_a_whole_answer(case):
    """All heads corrupt are the corrupt run; an intervention on no site is, too."""
    model, pair = case
    effects = vt.patch_head_sets(model, pair, [[]])
    assert effects["patching_effect"].iloc[0] == pytest.approx(0, abs=1e-4)
    expected = patched(model, pair, "image", Site(model.head_block.name, "residual", 0), [])
    assert effects["logit_diff"].iloc[0] == pytest.approx(expected, abs=1e-4)
    site = Site(model.head_block.name, "residual", 1)
    outcome = intervene(model, pair.iloc[0], [Patch(*site, positions=(1, 2))])
    assert outcome.logit_diff() == pytest.approx(patched(model, pair, "image", site, [1, 2]), abs=1e-4)


def test_gradients_of_a_whole_answer(case):
    """The estimate is the derivative of the naive log-odds on the way to the clean activation."""
    model, pair = case
    block = model.head_block
    table = vt.attribute_modules(model, pair, blocks=[block.name], modules=["residual"])
    row = table.loc[table["logit_diff"].abs().idxmax()]
    site = Site(block.name, "residual", int(row["layer"]))
    traces = [model.trace(run_inputs(model, pair, run), [site])[site] for run in ("clean", "image")]
    inputs = run_inputs(model, pair, "image")

    def at(share):
        def put(value):
            value = value.clone()
            value[:, int(row["position"])] += share * (traces[0] - traces[1])[:, int(row["position"])]
            return value

        hooks = [(model.hook_point(site), put)]
        options = pair["correct_answer"].iloc[0], pair["incorrect_answer"].iloc[0]
        return np.subtract(*(log_probability(model, inputs, answer, hooks) for answer in options))

    assert row["logit_diff"] == pytest.approx((at(0.01) - at(-0.01)) / 0.02, rel=0.05, abs=0.02)


def test_knockouts_of_a_whole_answer(case):
    model, pair = case
    table = vt.knock_out_attention(model, pair)
    assert table["logit_diff"].abs().max() > 1e-3, "knocking attention out changed nothing"
    ablated = vt.replace_image_tokens(model, pair, regions=["image"])
    mean = model.image_embeddings(run_inputs(model, pair, "clean")).mean(1, keepdim=True)
    inputs = run_inputs(model, pair, "clean")
    image = mean.expand_as(model.image_embeddings(inputs))
    before, after = [], []
    for answer in (pair["correct_answer"].iloc[0], pair["incorrect_answer"].iloc[0]):
        before.append(log_probability(model, inputs, answer))
        ids = model.spell_answer(answer)
        with torch.no_grad():
            logits = model.last_logits(model.extend(inputs, ids[:-1]), len(ids), image)[0].log_softmax(-1)
        after.append(float(logits[range(len(ids)), ids].sum()))
    expected = (after[0] - after[1]) - (before[0] - before[1])
    assert ablated["logit_diff"].iloc[0] == pytest.approx(expected, abs=1e-4)


def test_both_answers_are_run_at_once(model_store, random_pairs, monkeypatch):
    """Their prompt is one, and all but a few of the positions that a patch changes stand in it."""
    model = model_store.shared("llava")
    pair = with_options(random_pairs.iloc[[0]], "red ball", "blue")
    read = []
    sweep = decoder_only.sweep
    monkeypatch.setattr(decoder_only, "sweep", lambda *given: read.append((given[-2], given[1])) or sweep(*given))
    together = vt.patch_heads(model, pair)
    monkeypatch.setattr(run_sweep, "join", lambda *given: None)
    apart = vt.patch_heads(model, pair)
    (ids, clean), *sides = read
    assert [type(one).__name__ for one, _ in read] == ["JoinedAnswers", "WholeAnswer", "WholeAnswer"]
    assert ids.n_positions == 2 + 1 - 1 and clean.calls[0].hidden.shape[1] == sides[0][1].calls[0].hidden.shape[1]
    np.testing.assert_allclose(together["logit_diff"], apart["logit_diff"], atol=1e-4)
    np.testing.assert_allclose(together["p_correct"], apart["p_correct"], atol=1e-5)
    assert together["logit_diff"].abs().max() > 0.01, "the patches of this test change nothing: it proves nothing"
