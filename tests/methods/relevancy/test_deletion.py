"""The deletion curve: each point against a forward pass with those tokens replaced, one at a time."""

import numpy as np
import pytest
import torch

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.relevancy import deletion_curve, relevancy
from vlmtrace.methods.relevancy.deletion import half_way


@pytest.fixture(scope="module", params=["random_blip", "llava"])
def model(request, model_store):
    return model_store.shared(request.param)


@pytest.fixture(scope="module")
def pair(random_pairs):
    return random_pairs.iloc[0]


@pytest.fixture(scope="module")
def scores(model, pair):
    return relevancy(model, pair["clean_image"], pair["clean_prompt"]).image[0]


def difference(model, pair, replaced, by, options):
    """LD of one forward pass whose image tokens are replaced by a loop over them."""
    frame = pair.to_frame().T
    clean = run_inputs(model, frame, "clean")
    tokens = model.image_embeddings(clean).clone()
    other = model.image_embeddings(run_inputs(model, frame, "image"))
    for i in replaced:
        tokens[0, i] = other[0, i] if by == "other" else tokens.mean(1)[0]
    with torch.no_grad():
        logits = model.answer_logits(clean, image=tokens)[0]
    return float(logits[options[0]] - logits[options[1]])


def test_each_point_is_a_forward_pass_with_those_tokens_replaced(model, pair, scores):
    curve = deletion_curve(model, pair, scores, options=(3, 7), steps=4, n_draws=2)
    order = np.argsort(-scores, kind="stable")
    for point in curve.itertuples():
        by_hand = difference(model, pair, order[: point.n_replaced], "other", (3, 7))
        assert point.logit_diff == pytest.approx(by_hand, abs=1e-4), point.n_replaced
    assert curve["n_replaced"].iloc[-1] == len(scores) and curve["share"].iloc[-1] == 1


def test_the_curve_begins_with_the_clean_and_ends_with_the_corrupt_image(model, pair, scores):
    curve = deletion_curve(model, pair, scores, options=(3, 7), steps=3, n_draws=2)
    for run, row in (("clean", 0), ("image", -1)):
        with torch.no_grad():
            logits = model.answer_logits(run_inputs(model, pair.to_frame().T, run))[0]
        for column in ("logit_diff", "random_mean", "random_low", "random_high"):
            assert curve[column].iloc[row] == pytest.approx(float(logits[3] - logits[7]), abs=1e-4), (run, column)


def test_random_orders_are_what_they_are_called(model, pair, scores):
    curve = deletion_curve(model, pair, scores, options=(3, 7), steps=3, n_draws=3, seed=4)
    rng = np.random.default_rng(4)
    orders = [rng.permutation(len(scores)) for _ in range(3)]
    n = curve["n_replaced"].iloc[2]
    found = [difference(model, pair, order[:n], "other", (3, 7)) for order in orders]
    row = curve.iloc[2]
    assert row["random_mean"] == pytest.approx(np.mean(found), abs=1e-4)
    assert [row["random_low"], row["random_high"]] == pytest.approx(np.quantile(found, [0.025, 0.975]), abs=1e-4)


def test_without_another_image_tokens_become_their_mean(model, pair, scores):
    alone = pair.drop("corrupt_image")
    curve = deletion_curve(model, alone, scores, options=(3, 7), steps=2, n_draws=1)
    tokens = model.image_embeddings(run_inputs(model, pair.to_frame().T, "clean"))
    with torch.no_grad():
        mean = tokens.mean(1, keepdim=True).expand_as(tokens)
        logits = model.answer_logits(run_inputs(model, pair.to_frame().T, "clean"), image=mean)[0]
    assert curve["logit_diff"].iloc[-1] == pytest.approx(float(logits[3] - logits[7]), abs=1e-4)
    assert curve["replaced_by"].eq("mean").all()


def test_an_image_of_other_tokens_replaces_none(model, pair, scores, monkeypatch):
    """Then the mean takes their place, and the curve says so."""
    pair = pair.to_dict()
    assert deletion_curve(model, pair, scores, (3, 7), steps=1, n_draws=1)["replaced_by"].eq("other image").all()
    alone = deletion_curve(model, {**pair, "corrupt_image": None}, scores, (3, 7), steps=1, n_draws=1)
    whole, asked = type(model).image_embeddings, []

    def shorter(self, inputs):
        asked.append(inputs)
        return whole(self, inputs)[:, len(asked) - 1 :]

    monkeypatch.setattr(type(model), "image_embeddings", shorter)
    curve = deletion_curve(model, pair, scores, (3, 7), steps=1, n_draws=1)
    assert len(asked) == 2, "the second image is that of the corrupt run"
    assert curve["replaced_by"].eq("mean").all() and curve["logit_diff"].tolist() == alone["logit_diff"].tolist()


def test_without_options_the_answer_is_compared_with_the_next(model, pair, scores):
    curve = deletion_curve(model, pair, scores, steps=2, n_draws=1)
    with torch.no_grad():
        top = model.answer_logits(run_inputs(model, pair.to_frame().T, "clean"))[0].topk(2).values
    assert curve["logit_diff"].iloc[0] == pytest.approx(float(top[0] - top[1]), abs=1e-4) and top[0] > top[1]


def test_half_way_is_where_half_of_all_is_done(model, pair, scores):
    curve = deletion_curve(model, pair, scores, options=(3, 7), steps=4, n_draws=1)
    made = curve.assign(logit_diff=[4.0, 3.0, 1.0, 0.5, 0.0][: len(curve)])
    assert half_way(made) == tuple(made["n_replaced"].iloc[1:3]), "half is done somewhere between two points"
    assert half_way(curve.assign(logit_diff=1.0)) is None


def test_a_map_of_another_image_is_refused(model, pair, scores):
    with pytest.raises(VlmtraceError, match="give one number for each"):
        deletion_curve(model, pair, scores[:-1])
