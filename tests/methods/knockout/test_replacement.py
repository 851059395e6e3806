"""Mean ablation of image tokens against runs whose embeddings were changed by hand, and the regions that control it."""

import numpy as np
import pytest
import torch

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.image_regions import image_regions
from vlmtrace.inputs.image_tokens import mean_image_token
from vlmtrace.models import Readout


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


def test_replacing_the_image_by_the_mean_token(model, random_pairs):
    pairs = random_pairs.iloc[:3]
    table = vt.replace_image_tokens(model, pairs)
    mean = mean_image_token(model, pairs)
    pair = pairs.iloc[[2]]
    image = torch.zeros_like(model.image_embeddings(run_inputs(model, pair, "clean"))) + mean
    expected = logit_diff(model, pair, image=image) - logit_diff(model, pair)
    row = table[(table["sample_id"] == pair["sample_id"].iloc[0]) & (table["token_role"] == "image")].iloc[0]
    assert row["logit_diff"] == pytest.approx(expected, abs=1e-4) and abs(expected) > 1e-3
    assert set(table["token_role"]) == {"object", "distractor", "background", "changed", "image"}
    assert (table["module"] == "image_embeddings").all()


def test_its_own_embeddings_in_their_place_change_nothing(model, random_pairs):
    pair = random_pairs.iloc[[0]]
    own = model.image_embeddings(run_inputs(model, pair, "clean"))
    assert logit_diff(model, pair, image=own) == pytest.approx(logit_diff(model, pair), abs=1e-5)


def test_a_region_with_its_margin_is_replaced_as_by_hand(model, random_pairs):
    pair = random_pairs.iloc[[0]]
    inputs = run_inputs(model, pair, "clean")
    table = vt.replace_image_tokens(model, pair, regions=["object", "object with margin"]).set_index("token_role")
    boxes = model.image_cells(pair["clean_image"].iloc[0], inputs, model.image_block)
    on_object = image_regions(model, pair.iloc[0], inputs)["object"]
    size = np.nanmedian(boxes[:, 2] - boxes[:, 0])
    centers = np.stack([boxes[:, [0, 2]].mean(1), boxes[:, [1, 3]].mean(1)], axis=1)
    near = np.abs(centers[:, None] - centers[None, on_object]).max(-1).min(1) < 1.5 * size
    assert near.sum() > on_object.sum()
    image = model.image_embeddings(inputs).clone()
    image[:, torch.as_tensor(near)] = mean_image_token(model, pair)
    expected = logit_diff(model, pair, image=image) - logit_diff(model, pair)
    row = table.loc["object with margin"]
    assert row["logit_diff"] == pytest.approx(expected, abs=1e-4), row
    assert row["token"] == f"{near.sum()} tokens" and row["logit_diff"] != table.loc["object", "logit_diff"]


def test_as_many_others_are_drawn_by_pair_and_seed(model, random_pairs):
    names = ["object", "as many as object"]

    def drawn(seed):
        table = vt.replace_image_tokens(model, random_pairs.iloc[:3], regions=names, seed=seed)
        return table.pivot(index="sample_id", columns="token_role", values=["token", "logit_diff"])

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert (first["token"]["object"] == first["token"]["as many as object"]).all()
    assert first.equals(again)
    assert not np.allclose(*(np.asarray(one["logit_diff"]["as many as object"], float) for one in (first, other)))


@pytest.mark.parametrize("region", ["objects", "as many as objects", "as many as", " with margin"])
def test_an_unknown_region_is_a_sentence(llava, random_pairs, region):
    with pytest.raises(VlmtraceError, match="Unknown region"):
        vt.replace_image_tokens(llava, random_pairs.iloc[[0]], regions=[region])


def test_a_model_that_sees_the_image_again_is_refused(model_store, random_pairs):
    qwen = model_store.shared("qwen3_vl")
    with pytest.raises(VlmtraceError, match="adds image features behind later layers too"):
        vt.replace_image_tokens(qwen, random_pairs.iloc[[0]])
