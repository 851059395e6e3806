"""The view Relevancy without a browser: the curve that stands beside the map."""

import pandas as pd
import pytest

import vlmtrace as vt
from vlmtrace.display import Session
from vlmtrace.methods.relevancy import RelevancyView, deletion_curve
from vlmtrace.methods.relevancy.deletion import half_way


def test_the_curve_is_of_the_two_options(view_model, random_pairs):
    view = RelevancyView(Session(view_model, random_pairs))
    assert not view.frame.error, view.frame.error
    sent = view.canvas.curve
    runs = view.example.runs("image")
    clean, corrupt = float(runs.clean_readout.logit_diff), float(runs.corrupt_readout.logit_diff)
    assert sent["points"][0]["logit_diff"] == pytest.approx(clean, abs=1e-4)
    assert sent["points"][-1]["logit_diff"] == pytest.approx(corrupt, abs=1e-4)
    assert sent["by"] == "those of the other image"
    assert sent["half"] == half_way(view.curve) and sent["halfRandom"] == half_way(view.curve, "random_mean")
    assert sent["half"] is not None and sent["half"][0] < sent["half"][1] <= sent["points"][-1]["n_replaced"]


def test_the_code_gives_the_curve(view_model, random_pairs, monkeypatch):
    monkeypatch.setattr(vt, "load_model", lambda name: view_model)
    view = RelevancyView(Session(view_model, random_pairs))
    names: dict = {}
    exec(view.code(), names)
    pd.testing.assert_frame_equal(names["curve"], view.curve)


def test_the_sentence_names_what_took_the_place_of_tokens(view_model, random_pairs, monkeypatch):
    from vlmtrace.methods.relevancy import deletion

    monkeypatch.setattr(deletion, "_replacement", lambda model, pair, tokens: (tokens.flip(1), "mean"))
    view = RelevancyView(Session(view_model, random_pairs))
    assert view.canvas.curve["by"] == "their mean (the other image has another number of tokens)"


def test_an_image_alone_has_a_curve_too(view_model, random_pairs):
    session = Session(view_model, random_pairs)
    session.ask(clean_image=random_pairs["clean_image"].iloc[0], clean_prompt=random_pairs["clean_prompt"].iloc[0])
    view = RelevancyView(session)
    assert not view.frame.error and view.canvas.curve["by"] == "their mean"


def test_what_has_no_curve_is_said_and_the_maps_are_drawn(view_model, random_pairs, monkeypatch):
    view = RelevancyView(Session(view_model, random_pairs), hidden=True)
    monkeypatch.setattr(type(view_model), "injects_image_features_later", True)
    view.show()
    assert not view.frame.error and view.canvas.state["maps"]
    assert "there is no deletion curve" in view.canvas.curve["refused"] and view.curve is None
    assert view.figure().axes and deletion_curve
