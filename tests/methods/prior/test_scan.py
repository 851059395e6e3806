"""Scores of options against logits, and priors that are planted in a table, or in a model's bias."""

import itertools

import numpy as np
import pandas as pd
import pytest

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.schema import check_written
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.prior.scan import _rows

COLORS = ["red", "green", "blue", "black"]


@pytest.mark.medium
def test_scores_are_log_probabilities(model):
    pairs = vt.load_pairs("rendered_usual", n=3)
    scores = check_written("option_scores", vt.score_options(model, pairs, [*COLORS, "checkered"]))
    assert scores["sample_id"].tolist() == [name for name in pairs["sample_id"] for _ in range(5)]
    for row, pair in pairs.iterrows():
        mine = scores[scores["sample_id"] == pair["sample_id"]].set_index("option")
        inputs = run_inputs(model, pairs.iloc[[row]], "clean")
        log_probs = model.answer_logits(inputs)[0].log_softmax(-1)
        for color in COLORS:
            assert mine.loc[color, "log_prob"] == pytest.approx(float(log_probs[model.answer_token(color)]), abs=1e-3)
        first, second = model.spell_answer("checkered")
        then = model.answer_logits(model.extend(inputs, [first]))[0].log_softmax(-1)
        assert mine.loc["checkered", "log_prob"] == pytest.approx(float(log_probs[first] + then[second]), abs=1e-3)
        np.testing.assert_allclose(mine["share"], np.exp(mine["log_prob"]) / np.exp(mine["log_prob"]).sum(), atol=1e-5)
        assert mine["is_shown"].sum() == (pair["correct_answer"] in COLORS)


def test_an_option_of_several_tokens_is_run_once(model, monkeypatch):
    asked = []
    run = type(model).last_logits
    monkeypatch.setattr(
        type(model), "last_logits", lambda self, inputs, n, *rest: asked.append(n) or run(self, inputs, n, *rest)
    )
    vt.score_options(model, vt.load_pairs("rendered_usual", n=1), [*COLORS, "checkered"])
    assert asked == [1, 2], "lengths of the answers that are read, a run each"


def made_up(planted: float, n: int = 12, seed: int = 0) -> pd.DataFrame:
    """Crosses say red with about this share, everything else is about even."""
    rng = np.random.default_rng(seed)
    rows = []
    for noun, pair in itertools.product(("cross", "star"), range(n)):
        shown = COLORS[pair % 4]
        weights = rng.uniform(0.8, 1.2, 4)
        if noun == "cross":
            weights[0] = weights[1:].sum() * planted / (1 - planted)
        for option, share in zip(COLORS, weights / weights.sum(), strict=True):
            rows.append({"noun": noun, "option": option, "share": share, "is_shown": option == shown})
            rows[-1] |= dict.fromkeys(("sample_id", "unit"), f"{noun} {pair}")
    return pd.DataFrame(rows)


def test_a_planted_prior_is_found_and_none_beside_it():
    found = vt.find_priors(made_up(0.8))
    assert len(found) == 8
    assert found.loc[found["is_prior"], ["noun", "option"]].values.tolist() == [["cross", "red"]]
    row = found[found["is_prior"]].iloc[0]
    assert (row["n"], row["n_units"]) == (9, 9), "rows whose picture shows the answer were counted"
    assert not vt.find_priors(made_up(0.25))["is_prior"].any()
    assert not vt.find_priors(made_up(0.8), least=0.9)["is_prior"].any()


def test_a_right_answer_is_no_prior():
    """Where the picture shows it, the answer is sure; that says nothing of what is usual."""
    scores = made_up(0.25)
    scores.loc[scores["is_shown"], "share"] = 1.0
    assert not vt.find_priors(scores)["is_prior"].any()
    with pytest.raises(VlmtraceError, match="not shown"):
        vt.find_priors(scores[scores["is_shown"]])
    with pytest.raises(VlmtraceError, match="twice"):
        vt.score_options(vt.load_model("tiny-blip"), vt.load_pairs("rendered_usual", n=1), ["red", "Red"])
    with pytest.raises(VlmtraceError, match="An option stands twice in a pair"):
        vt.find_priors(pd.concat([scores, scores]))


def test_the_answer_that_the_picture_shows_is_found_however_it_is_written():
    batch = pd.DataFrame({"sample_id": ["a"], "unit": ["a"], "correct_answer": ["Red "]})
    assert _rows(batch, ["blue", "red"], np.zeros((1, 2)))["is_shown"].tolist() == [False, True]
