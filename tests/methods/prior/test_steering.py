"""Steering against a bias that is added by hand, and its counts against counting."""

import numpy as np
import pandas as pd
import pytest
import torch

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_written
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.models import Site


@pytest.fixture(scope="module")
def usual():
    """Pairs whose prompts differ in one word; answers are one token."""
    return vt.load_pairs("rendered_usual", n=12)


@pytest.mark.medium
def test_steering_equals_a_direction_that_is_added_by_hand(model, usual):
    """By a hook of torch on the layer itself, with a direction that is averaged here."""
    learn, asked = usual.head(8), usual.tail(4)
    block, layer = model.answer_block, 1
    site = Site(block, "residual", layer)
    differences = []
    for row in range(len(learn)):
        one = learn.iloc[[row]]
        clean, corrupt = (model.trace(run_inputs(model, one, run), [site])[site] for run in ("clean", "text"))
        differences.append(clean[0, -1] - corrupt[0, -1])
    direction = torch.stack(differences).mean(0)
    steered = check_written("steered", vt.steer(model, asked, learn, layers=[layer], factors=[0.0, -1.5]))
    same, moved = (steered[steered["factor"] == factor] for factor in (0.0, -1.5))
    np.testing.assert_allclose(same["log_odds"], same["log_odds_before"], atol=1e-4)
    assert (same["answer"] == same["answer_before"]).all()
    assert moved["sample_id"].tolist() == asked["sample_id"].tolist(), "rows are not in the order of the pairs"

    def add(module, args, output):
        value = output[0] if isinstance(output, tuple) else output
        value[:, -1] += -1.5 * direction

    for row in range(len(asked)):
        pair = asked.iloc[row]
        inputs = run_inputs(model, asked.iloc[[row]], "clean")
        handle = model.layer_module(block, layer).register_forward_hook(add)
        try:
            logits = model.answer_logits(inputs)[0]
        finally:
            handle.remove()
        first, second = model.answer_ids([pair["correct_answer"]], [pair["incorrect_answer"]])[0]
        assert moved["log_odds"].iloc[row] == pytest.approx(float(logits[first] - logits[second]), abs=1e-3)
        assert moved["log_odds"].iloc[row] != pytest.approx(moved["log_odds_before"].iloc[row], abs=1e-2)
        assert moved["answer"].iloc[row] == model.tokenizer.decode([int(logits.argmax())]).strip()


@pytest.mark.medium
def test_random_directions_are_as_long_and_drawn_by_the_seed(model, usual):
    options = {"layers": [2], "factors": [1.0], "n_random": 2}
    steered = vt.steer(model, usual.tail(3), usual.head(4), **options, seed=1)
    assert steered.groupby(["direction", "draw"]).size().to_dict() == {
        ("difference", 0): 3, ("random", 0): 3, ("random", 1): 3
    }  # fmt: skip
    again = vt.steer(model, usual.tail(3), usual.head(4), **options, seed=1)
    np.testing.assert_array_equal(steered["log_odds"], again["log_odds"])
    draws = [steered.loc[steered["direction"].eq("random") & steered["draw"].eq(draw), "log_odds"] for draw in (0, 1)]
    assert (draws[0].to_numpy() != draws[1].to_numpy()).all(), "both draws are the same"


@pytest.mark.medium
def test_what_cannot_be_steered_gets_a_sentence(usual):
    model = vt.load_model("tiny-blip")
    with pytest.raises(VlmtraceError, match="learned from and asked about"):
        vt.steer(model, usual, usual.head(2))
    with pytest.raises(VlmtraceError, match="layers must be"):
        vt.steer(model, usual.tail(2), usual.head(2), layers=[])
    with pytest.raises(VlmtraceError, match="Layer 4 does not exist"):
        vt.steer(model, usual.tail(2), usual.head(2), layers=[4])
    same = usual.head(2).assign(corrupt_prompt=usual["clean_prompt"].head(2))
    with pytest.raises(VlmtraceError, match="No pair of learn_from has a corrupt prompt"):
        vt.steer(model, usual.tail(2), same, layers=[1])
    seen_alike = same.assign(corrupt_image=same["clean_image"])
    with pytest.raises(VlmtraceError, match="do not differ"):
        vt.steer(model, usual.tail(2), seen_alike, "image", layers=[1])


def test_a_pair_without_a_second_question_does_not_shorten_the_direction(usual):
    """It would enter the mean as no difference at all."""
    model = vt.load_model("tiny-blip")
    alone = usual.iloc[[2]].assign(corrupt_prompt=usual["clean_prompt"].iloc[2])
    learned = [
        vt.steer(model, usual.tail(2), learn, layers=[1])["log_odds"]
        for learn in (usual.head(2), pd.concat([usual.head(2), alone]))
    ]
    np.testing.assert_allclose(*learned, atol=1e-5)


def made_up(now, turned, before=True, direction="difference", draw=0):
    n = len(now)
    return pd.DataFrame(
        {
            "sample_id": [f"pair {i}" for i in range(n)],
            "unit": [f"unit {i}" for i in range(n)],
            "category": "color",
            "block": "language_model",
            "layer": 1,
            "direction": direction,
            "draw": draw,
            "factor": -1.0,
            "is_correct": now,
            "was_correct": before,
            "is_incorrect": turned,
        }
    )


def test_turned_and_spoiled_are_shares_of_what_was_right():
    now, turned = [True, False, False, False, False], [False, True, True, False, True]
    before = [True, True, True, True, False]
    row = vt.steering_table(made_up(now, turned, before)).iloc[0]
    assert (row["n"], row["n_right"], row["before"], row["after"]) == (5, 4, 0.8, 0.2)
    assert (row["turned"], row["spoiled"]) == (0.5, 0.25)
    assert row["turned_low"] < 0.5 < row["turned_high"] <= 1
    draws = [made_up([True] * 4, [False] * 4, True, "random", 0), made_up([False] * 4, [True] * 4, True, "random", 1)]
    assert vt.steering_table(pd.concat(draws)).iloc[0]["turned"] == 0.5, "draws are not averaged within pairs"
    with pytest.raises(VlmtraceError, match="A pair stands twice in a group"):
        vt.steering_table(pd.concat([draws[0], draws[0]]))
    every = vt.steering_table(made_up([False] * 4, [True] * 4)).iloc[0]
    assert every["turned"] == 1 and every["turned_low"] == pytest.approx(0.51, abs=0.01), "four say little about others"
    none = vt.steering_table(made_up([False] * 3, [True] * 3, False)).iloc[0]
    assert none["n_right"] == 0 and np.isnan(none["turned"])
    with pytest.raises(VlmtraceError, match="has no row"):
        vt.steering_table(draws[0].iloc[:0])
