"""The card of a head without a browser: its numbers against the methods that compute them alone."""

import time

import numpy as np
import pandas as pd
import pytest
from fixtures.views import shown

import vlmtrace as vt
from vlmtrace.display import Session
from vlmtrace.display.session import Patched
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.circuits.card import HeadCard
from vlmtrace.methods.patching import Patch, ablate, intervene, patch_whole_heads


@pytest.fixture
def card(view_model, random_pairs):
    session = Session(view_model, random_pairs)
    block = view_model.head_block
    session.select(f"{block.name}.{block.head_modules[-1]}.1.2")
    return shown(HeadCard(session))


def patch(card):
    chosen = card.session.selected
    return Patch(chosen.block, chosen.module, chosen.layer, None, (chosen.head,))


def test_attention_is_the_models_own(card, view_model, random_pairs):
    found, chosen = card.found, card.session.selected
    own = view_model.attention(run_inputs(view_model, random_pairs.iloc[[0]], "clean"), chosen.block, chosen.module)[
        1, 0, 2
    ]
    assert np.array_equal(found.weights, own.numpy()[found.queries["position"]])
    assert np.allclose(found.weights.sum(1), 1, atol=1e-5) and len(found.keys) == found.weights.shape[1]
    sent = np.frombuffer(card.canvas.weights, "<f4").reshape(found.weights.shape)
    assert np.array_equal(sent, found.weights)
    assert len(found.patches) == len(found.boxes) and not np.isnan(found.boxes).any()


def test_a_decoder_looks_at_the_text_and_at_no_image(model_store, random_pairs):
    session = Session(model_store.shared("random_blip"), random_pairs)
    session.select("text_decoder.cross_attention.1.0")
    card = HeadCard(session)
    assert not card.frame.error and len(card.found.patches) == 0
    assert card.found.keys["token"].tolist() == session.example.tokens("text_encoder")["token"].tolist()


def test_effects_are_those_of_the_interventions(card, view_model, random_pairs):
    pair = random_pairs.iloc[0]
    for way, effect in card.canvas.numbers["effects"].items():
        alone = intervene(view_model, pair, [patch(card)], direction=way)
        assert effect == pytest.approx(alone.patching_effect, abs=1e-4), way


def test_the_rank_is_that_of_whole_heads(card, view_model, random_pairs):
    whole = patch_whole_heads(view_model, random_pairs.iloc[[0]])
    whole = whole[(whole["module"] == patch(card).module) & (whole["block"] == patch(card).block)]
    rank = whole["patching_effect"].abs().rank(ascending=False, method="min")
    mine = rank[(whole["layer"] == 1) & (whole["head"] == 2)]
    assert card.canvas.numbers["rank"] == mine.iloc[0] and card.canvas.numbers["nHeads"] == len(whole)


def test_knocked_out_is_zero_ablation(card, view_model, random_pairs):
    card._receive(None, {"do": "knock out"}, [])
    assert not card.frame.error, card.frame.error
    row = ablate(view_model, random_pairs.iloc[[0]], [patch(card)], method="zero").iloc[0]
    found = card.canvas.numbers["knockedOut"]
    assert found["after"] - found["before"] == pytest.approx(row["logit_diff"], abs=1e-5)
    assert found["effect"] == pytest.approx(row["patching_effect"], abs=1e-5)


def test_a_head_is_knocked_out_of_an_example_of_ones_own(card, random_pairs):
    """The same two images and questions, as somebody opens them: what is known of the pair is not needed."""
    card._receive(None, {"do": "knock out"}, [])
    before = card.canvas.numbers["knockedOut"]
    columns = ["clean_image", "corrupt_image", "clean_prompt", "correct_answer", "incorrect_answer"]
    card.session.ask(**random_pairs.iloc[0][columns].to_dict())
    card._receive(None, {"do": "knock out"}, [])
    assert not card.frame.error, card.frame.error
    assert card.canvas.numbers["knockedOut"]["after"] == pytest.approx(before["after"], abs=1e-4)


def test_another_head_and_another_pair_are_followed(card, random_pairs):
    before = card.canvas.numbers["effects"]
    block = card.session.model.head_block
    card.session.select(f"{block.name}.{block.head_modules[0]}.0.1")
    assert card.canvas.state["label"].endswith(".0.1") and card.canvas.numbers["effects"] != before
    card._receive(None, {"do": "knock out"}, [])
    example = card.canvas.state["example"]
    card._receive(None, {"do": "pair", "pair": random_pairs["sample_id"].iloc[1]}, [])
    assert card.canvas.state["example"] != example and "knockedOut" not in card.canvas.numbers
    card.session.select(None)
    assert "Click a head" in card.canvas.state["say"] and not card.frame.error


def test_patch_it_asks_for_the_view(card):
    asked = []
    card.session.observe_opening(lambda title, settings: asked.append((title, dict(settings))))
    card._receive(None, {"do": "patch"}, [])
    assert asked == [("Patch", {"also": card.session.selected.label, "corruption": "image"})]
    card.session.report(Patched(0.5, "x", "text", "a word"))
    card.load()
    card._receive(None, {"do": "patch"}, [])
    assert asked[1][1]["corruption"] == "text", "what the card promises is of the other question"


def test_alone_it_says_that_there_is_no_other_view(card):
    card._receive(None, {"do": "patch"}, [])
    assert "There is no view Patch beside this card" in card.frame.error


def test_without_a_second_run_attention_is_shown_and_effects_are_refused(view_model, random_pairs):
    session = Session(view_model, random_pairs)
    session.ask(clean_image=random_pairs["clean_image"].iloc[0], clean_prompt=random_pairs["clean_prompt"].iloc[0])
    block = view_model.head_block
    session.select(f"{block.name}.{block.head_modules[-1]}.0.0")
    card = HeadCard(session)
    assert not card.frame.error and card.found is not None
    assert "has no corrupt run" in card.canvas.numbers["hereRefused"]


def test_the_run_is_looked_up(card, tmp_path):
    assert "No run is loaded" in card.canvas.numbers["runRefused"]
    (tmp_path / "task").mkdir()
    one = patch(card)
    rows = [
        {"sample_id": name, "corruption": "image", "block": one.block, "module": one.module, "layer": 1, "head": 2,
         "position": 0, "patching_effect": effect}
        for name, effect in {card.example.name: 0.25, "elsewhere": 0.5}.items()
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "task" / "head_patching.parquet")
    card.session.run = tmp_path
    card.load()
    assert card.canvas.numbers["runRefused"] == ""
    assert [(row["sample_id"], row["opens"]) for row in card.canvas.numbers["pairs"]] == [
        ("elsewhere", None), (card.example.name, card.example.name)
    ]  # fmt: skip


def test_the_code_gives_the_numbers(card, view_model, monkeypatch):
    monkeypatch.setattr(vt, "load_model", lambda name: view_model)
    card.knock_out()
    names: dict = {}
    exec(card.code(), names)
    rows = card.found.queries["position"].to_numpy()
    assert np.array_equal(names["weights"].numpy()[rows], card.found.weights)
    assert names["effects"] == pytest.approx(card.canvas.numbers["effects"], abs=1e-5)
    assert names["knocked_out"]["patching_effect"].iloc[0] == pytest.approx(card.knocked_out["effect"], abs=1e-5)


def test_it_exports_picture_and_numbers(card):
    assert card.export("png")[1].startswith(b"\x89PNG")
    table = card.table
    assert len(table) == card.found.weights.size
    assert table.groupby("query")["attention"].sum().tolist() == pytest.approx([1] * len(card.found.queries), abs=1e-4)


@pytest.mark.parametrize("name", ["tiny-blip", "tiny-llava"])
@pytest.mark.medium
def test_what_a_head_looks_at_is_there_in_half_a_second(name):
    session = Session(vt.load_model(name), vt.load_pairs("rendered_states", n=2))
    card, painted = HeadCard(session, hidden=True), []
    card.canvas.observe(lambda change: painted.append(time.perf_counter()), "state")
    block = session.model.head_block
    session.select(f"{block.name}.{block.head_modules[-1]}.2.1")
    started = time.perf_counter()
    card.show()
    assert painted and painted[0] - started < 0.5
