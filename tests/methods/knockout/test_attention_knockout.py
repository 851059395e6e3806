"""Knock-outs against runs that hide the same things by other means."""

import numpy as np
import pytest
import torch

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.models import Readout
from vlmtrace.models.attention_mask import cut


@pytest.fixture
def llava(model_store):
    return model_store.shared("llava")


@pytest.fixture(params=["llava", "random_blip"])
def model(request):
    return request.getfixturevalue(request.param)


def logit_diff(model, pair, **how):
    ids = model.answer_ids(pair["correct_answer"], pair["incorrect_answer"])
    with torch.no_grad():
        return Readout.of(model.answer_logits(run_inputs(model, pair, "clean"), **how), ids).logit_diff.item()


def test_a_cut_in_all_layers_equals_a_mask_given_to_the_model(llava, random_pairs):
    """transformers takes a whole mask (batch, 1, query, key) in place of the usual one."""
    pair = random_pairs.iloc[[0]]
    n_layers = llava.head_block.n_layers
    table = vt.knock_out_attention(llava, pair, edges=[("image", "last")], window=n_layers)
    inputs = run_inputs(llava, pair, "clean")
    length = inputs["input_ids"].shape[1]
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    mask[-1, llava.is_image(inputs)[0]] = False
    ids = llava.answer_ids(pair["correct_answer"], pair["incorrect_answer"])
    with torch.no_grad():
        hidden = llava.hf(**{**inputs, "attention_mask": mask[None, None]}, use_cache=False).logits[:, -1]
    expected = Readout.of(hidden, ids).logit_diff.item() - logit_diff(llava, pair)
    whole = table[table["token"] == f"{n_layers} layers"]
    assert len(whole) >= 1 and abs(expected) > 1e-3
    np.testing.assert_allclose(whole["logit_diff"], expected, atol=1e-4)


def test_an_image_that_nothing_sees_does_not_matter(random_blip, random_pairs):
    """BLIP's question reads the image through cross-attention alone: cut in all layers, every image gives the same."""
    n_layers = random_blip.head_block.n_layers
    options = {"edges": [("image", "all")], "window": n_layers}
    same = random_pairs.iloc[[0, 0]].reset_index(drop=True)
    same.loc[1, "clean_image"] = random_pairs["clean_image"].iloc[3]
    same["sample_id"] = ["one image", "another"]
    before = [logit_diff(random_blip, same.iloc[[i]]) for i in range(2)]
    table = vt.knock_out_attention(random_blip, same, **options)
    whole = table[table["token"] == f"{n_layers} layers"].set_index("sample_id")["logit_diff"]
    after = [before[0] + whole["one image"], before[1] + whole["another"]]
    assert abs(before[0] - before[1]) > 1e-2, "the two images give the same answer: this proves nothing"
    np.testing.assert_allclose(after[0], after[1], atol=1e-4)


def test_windows_are_centred_and_cut_short_at_the_ends(model, random_pairs):
    table = vt.knock_out_attention(model, random_pairs.iloc[[0]], edges=[model.edges[0]], window=3)
    sizes = table.sort_values("layer")["token"].str.split().str[0].astype(int).tolist()
    n = model.head_block.n_layers
    assert sizes == [min(n, layer + 2) - max(0, layer - 1) for layer in range(n)]
    assert list(table.columns) == [
        "sample_id", "corruption", "block", "module", "layer", "position", "token", "token_role", "p_correct", "p_diff",
        "logit_diff", "patching_effect", "contrast_token",
    ]  # fmt: skip


def test_every_edge_of_the_model_changes_its_answer(model, random_pairs):
    table = vt.knock_out_attention(model, random_pairs.iloc[:2])
    strongest = table.groupby("token_role")["logit_diff"].agg(lambda values: values.abs().max())
    assert set(strongest.index) == {" → ".join(edge) for edge in model.edges}
    assert (strongest > 1e-4).all(), f"cutting changes nothing: {strongest.to_dict()}"


def test_effect_is_the_share_of_the_gap_that_is_lost(llava, random_pairs):
    pair = random_pairs.iloc[[0]]
    evaluated = vt.evaluate(llava, pair).iloc[0]
    row = vt.knock_out_attention(llava, pair, edges=[("image", "last")]).iloc[0]
    gap = evaluated["clean_logit_diff"] - evaluated["image_logit_diff"]
    assert row["patching_effect"] == pytest.approx(row["logit_diff"] / gap, rel=1e-3)
    assert row["p_diff"] == pytest.approx(row["p_correct"] - evaluated["clean_p_correct"], abs=1e-5)


def test_nothing_cut_changes_nothing_and_hooks_are_gone_after_an_error(model, random_pairs):
    inputs = run_inputs(model, random_pairs.iloc[[0]], "clean")
    length = inputs["input_ids"].shape[1]
    nothing = torch.zeros(1, length, length, dtype=torch.bool)
    layers = range(model.head_block.n_layers)
    with torch.no_grad():
        before = model.answer_logits(inputs)
        with cut(model, "self_attention", layers, nothing):
            torch.testing.assert_close(model.answer_logits(inputs), before, atol=1e-4, rtol=0)
        with pytest.raises(KeyError), cut(model, "self_attention", layers, ~nothing.tril(-1)):
            raise KeyError
        assert torch.equal(model.answer_logits(inputs), before), "a hook was left behind"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"edges": [("imag", "last")]}, "Unknown position"),
        ({"window": 99}, "window=99 is not a number of layers"),
        ({"window": 0}, "window must be a whole number from 1"),
        ({"corruption": "noise"}, "Unknown corruption 'noise'"),
    ],
)
def test_bad_options_get_a_sentence(llava, random_pairs, options, sentence):
    with pytest.raises(VlmtraceError, match=sentence):
        vt.knock_out_attention(llava, random_pairs.iloc[[0]], **options)
