"""The card of a module without a browser: its numbers against the methods that compute them alone."""

import pandas as pd
import pytest
from fixtures.views import click, shown

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display import Session
from vlmtrace.methods.circuits.card import ModuleCard
from vlmtrace.methods.patching import Patch, ablate, intervene, patch_modules


@pytest.fixture
def card(view_model, random_pairs):
    session = Session(view_model, random_pairs)
    session.select(f"{view_model.head_block.name}.mlp.1")
    return shown(ModuleCard(session))


def at(card, *positions):
    card.session.select(card.selected.label, positions or None)
    return Patch(card.selected.block, "mlp", 1, positions or None)


def test_effects_are_those_of_the_interventions(card, view_model, random_pairs):
    pair = random_pairs.iloc[0]
    for positions in ((), (1, 3)):
        patch = at(card, *positions)
        for way, effect in card.canvas.numbers["effects"].items():
            alone = intervene(view_model, pair, [patch], direction=way)
            assert effect == pytest.approx(alone.patching_effect, abs=1e-4), (way, positions)
    assert [name.rsplit(" ", 1)[1] for name in card.canvas.state["at"]] == ["(1)", "(3)"]


def test_each_position_is_that_of_the_sweep(card, view_model, random_pairs):
    swept = patch_modules(view_model, random_pairs.iloc[[0]], modules=["mlp"], positions="all")
    block = view_model.head_block.name
    swept = swept[(swept["block"] == block) & (swept["layer"] == 1)].set_index("position")["patching_effect"]
    found = card.table.set_index("position")["patching_effect"]
    assert len(found) == len(swept) and found.to_dict() == pytest.approx(swept.to_dict(), abs=1e-4)
    state = card.canvas.state
    sent = [value for _, value in state["words"]] + state["patches"]
    assert len(state["patches"]) == len(state["boxes"])
    assert set(sent) <= set(found) and len(state["words"]) > 3


def test_the_rank_is_among_the_layers_at_the_same_positions(card, view_model, random_pairs):
    at(card, 2)
    effects = [
        intervene(view_model, random_pairs.iloc[0], [Patch(card.selected.block, "mlp", layer, (2,))]).patching_effect
        for layer in range(view_model.head_block.n_layers)
    ]
    rank = pd.Series(effects).abs().rank(ascending=False, method="min").iloc[1]
    assert card.canvas.numbers["rank"] == rank and card.canvas.numbers["nHeads"] == len(effects)


def test_knocked_out_is_zero_ablation(card, view_model, random_pairs):
    patch = at(card, 2)
    click(card, do="knock out")
    row = ablate(view_model, random_pairs.iloc[[0]], [patch], method="zero").iloc[0]
    found = card.canvas.numbers["knockedOut"]
    assert found["after"] - found["before"] == pytest.approx(row["logit_diff"], abs=1e-5)
    at(card, 3)
    assert "knockedOut" not in card.canvas.numbers, "what was knocked out at one place is told of another"


def test_every_module_of_every_block_has_a_card(view_model, random_pairs):
    session = Session(view_model, random_pairs)
    card = ModuleCard(session)
    assert "Click a module" in card.canvas.state["say"]
    for block in view_model.blocks.values():
        for module in block.modules:
            session.select(f"{block.name}.{module}.0")
            assert shown(card).canvas.state["label"] == f"{block.name}.{module}.0"
            assert card.canvas.numbers["effects"] and len(card.table) == len(session.example.tokens(block.name))
    assert card.export("png")[1].startswith(b"\x89PNG")


def test_a_position_that_another_question_lacks_is_said(card):
    card.session.select(f"{card.selected.block}.mlp.1", [999])
    assert "no position 999" in card.canvas.state["say"] and not card.frame.error and not card.canvas.numbers


def test_patch_it_asks_for_the_view_at_the_same_positions(card):
    asked = []
    card.session.observe_opening(lambda title, settings: asked.append((title, dict(settings))))
    at(card, 1, 3)
    click(card, do="patch")
    assert asked == [("Patch", {"also": f"{card.selected.label}@1+3", "corruption": "image"})]


def test_without_a_second_run_effects_are_refused(view_model, random_pairs):
    session = Session(view_model, random_pairs)
    session.ask(clean_image=random_pairs["clean_image"].iloc[0], clean_prompt=random_pairs["clean_prompt"].iloc[0])
    session.select(f"{view_model.head_block.name}.mlp.0")
    card = shown(ModuleCard(session))
    assert "has no corrupt run" in card.canvas.numbers["hereRefused"]
    with pytest.raises(VlmtraceError, match="has not been computed"):
        card.table  # noqa: B018 - what is tested is that it cannot be had


def test_the_code_gives_the_numbers(card, view_model, monkeypatch):
    monkeypatch.setattr(vt, "load_model", lambda name: view_model)
    at(card, 1, 3)
    click(card, do="knock out")
    names: dict = {}
    exec(card.code(), names)
    assert names["effects"] == pytest.approx(card.canvas.numbers["effects"], abs=1e-5)
    assert names["knocked_out"]["patching_effect"].iloc[0] == pytest.approx(card.knocked_out["effect"], abs=1e-5)


def test_the_run_is_looked_up(card, tmp_path):
    assert "No run is loaded" in card.canvas.numbers["runRefused"]
    (tmp_path / "task").mkdir()
    role = card.example.tokens(card.selected.block)["token_role"].iloc[2]
    row = {"sample_id": card.example.name, "corruption": "image", "block": card.selected.block, "module": "mlp",
           "layer": 1, "position": 2, "token_role": role, "patching_effect": 0.25}  # fmt: skip
    pd.DataFrame([row, {**row, "token_role": "nowhere", "patching_effect": 0.5}]).to_parquet(
        tmp_path / "task" / "module_patching.parquet"
    )
    card.session.run = tmp_path
    at(card, 2)
    assert [(one["token_role"], one["mean_effect"]) for one in card.canvas.numbers["means"]] == [(role, 0.25)]
    at(card)
    assert [one["token_role"] for one in card.canvas.numbers["means"]] == ["nowhere", role]
    assert card.canvas.numbers["pairs"][0]["opens"] == card.example.name
