"""The view Patch without a browser: directions, patches that are put away or carried over, and what is exported."""

import numpy as np
import pandas as pd
import pytest
from fixtures.views import click, shown

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.display import Session
from vlmtrace.methods.attribution import attribute_heads, attribute_modules
from vlmtrace.methods.patching import Patch, Patching, extent, intervene, patch_heads
from vlmtrace.methods.patching.in_address import from_address, in_address
from vlmtrace.methods.patching.pair_effects import PairEffects
from vlmtrace.methods.patching.transfer import carried


@pytest.fixture
def view(view_model, random_pairs):
    return shown(Patching(Session(view_model, random_pairs)))


def head(view, layer=1, number=2, positions=None):
    return Patch(*view.place, layer, positions, (number,))


def test_noising_patches_the_clean_run(view, view_model, random_pairs):
    pair = random_pairs.iloc[0]
    view.toggle(head(view))
    denoised = view.outcome.patching_effect
    state = click(view, do="choose", direction="noising")
    alone = intervene(view_model, pair, view.patches, direction="noising")
    assert state["effect"] == pytest.approx(alone.patching_effect, abs=1e-5)
    assert state["direction"] == "noising" and state["effect"] != pytest.approx(denoised, abs=1e-6)
    clean, corrupt, patched = (state["logitDiff"][run] for run in ("clean", "corrupt", "patched"))
    assert state["effect"] == pytest.approx((patched - clean) / (corrupt - clean), abs=1e-4)
    assert view.head_effects().set_index(["layer", "head"])["patching_effect"][1, 2] == pytest.approx(
        state["effect"], abs=1e-4
    ), "the map is of another direction than the patch"


def test_the_map_of_noising_is_the_sweeps(view, view_model, random_pairs):
    click(view, do="choose", direction="noising")
    click(view, do="at", positions=[3])
    swept = patch_heads(view_model, random_pairs.iloc[[0]], direction="noising")
    swept = swept[(swept["position"] == 3) & (swept["module"] == view.place[1])]
    found = view.head_effects().merge(swept, on=["layer", "head"])
    assert len(found) and np.allclose(found["patching_effect_x"], found["patching_effect_y"], atol=1e-4)


def test_patches_never_linger_on_another_pair(view, random_pairs):
    view.toggle(head(view))
    view.session.choose(random_pairs["sample_id"].iloc[1])
    assert view.patches == [] and view.canvas.state["patches"] == []
    assert view.canvas.state["effect"] == pytest.approx(0, abs=1e-5)
    assert view.canvas.state["away"] == {"name": random_pairs["sample_id"].iloc[0], "n": 1}


def test_patches_that_were_put_away_are_carried_over_on_demand(view, view_model, random_pairs):
    view.toggle(head(view))
    there = view.outcome.patching_effect
    view.session.choose(random_pairs["sample_id"].iloc[1])
    state = click(view, do="carry")
    assert state["carried"]["effect"] == pytest.approx(there) and state["away"] is None
    here = intervene(view_model, random_pairs.iloc[1], [head(view)], corruption=view.corruption)
    assert state["effect"] == pytest.approx(here.patching_effect, abs=1e-5)
    click(view, do="undo")
    assert view.patches == []


def test_kept_patches_come_along(view, view_model, random_pairs):
    click(view, do="keep", on=True)
    view.toggle(head(view))
    view.session.choose(random_pairs["sample_id"].iloc[1])
    assert view.patches == [head(view)] and view.canvas.state["carried"]["name"] == random_pairs["sample_id"].iloc[0]
    click(view, do="keep", on=False)
    view.session.choose(random_pairs["sample_id"].iloc[2])
    assert view.patches == []


def test_a_position_is_carried_to_the_token_of_its_role():
    here = pd.DataFrame({"position": range(4), "token_role": ["image", "image", "noun", "correct"]})
    there = pd.DataFrame({"position": range(5), "token_role": ["a", "image", "image", "correct", "noun"]})
    patches = [
        Patch("b", "mlp", 0, (1, 2)),
        Patch("b", "mlp", 1),
        Patch("b", "mlp", 2, (0, 3), (1,)),
    ]
    found, left = carried(patches, {"b": here}, lambda block: there)
    assert found == [Patch("b", "mlp", 0, (2, 4)), patches[1], Patch("b", "mlp", 2, (1, 3), (1,))] and not left
    found, left = carried(patches, {"b": here}, lambda block: there.iloc[:3])
    assert found == [patches[1]] and left == [patches[0], patches[2]]


def test_the_waterfall_ends_where_the_intervention_does(view):
    view.toggle(head(view))
    view.toggle(head(view, 0, 1))
    steps = view.canvas.state["waterfall"]
    assert [step["step"] for step in steps] == [0, 1, 2]
    assert steps[-1]["patching_effect"] == pytest.approx(view.canvas.state["effect"], abs=1e-4)
    view.clear()
    assert view.canvas.state["waterfall"] == []


def test_code_gives_the_numbers_of_both_directions(view, view_model, monkeypatch):
    monkeypatch.setattr(vt, "load_model", lambda name: view_model)
    view.toggle(head(view))
    view.toggle(head(view, 0, 1, (2,)))
    for direction in ("denoising", "noising"):
        view.choose(direction=direction)
        names: dict = {}
        exec(view.code(), names)
        assert names["outcome"].patching_effect == pytest.approx(view.outcome.patching_effect, abs=1e-6), direction
        pd.testing.assert_frame_equal(names["steps"], view.waterfall())


def test_a_click_on_a_head_patches_and_selects_it(view):
    block, module = view.place
    click(view, do="toggle", layer=1, heads=[2], positions=None)
    assert view.patches == [head(view)] and view.session.selected.label == f"{block}.{module}.1.2"


def test_the_gauge_is_told_where_the_answer_stands_between_both_runs(view):
    assert view.session.patched is None
    view.toggle(head(view))
    told = view.session.patched
    assert told.effect == pytest.approx(view.outcome.patching_effect) and told.answer == view.outcome.answer()
    view.choose(direction="noising")
    assert view.session.patched.effect == pytest.approx(1 - view.outcome.patching_effect)
    clean, corrupt, patched = (view.outcome.logit_diff(run) for run in ("clean", "corrupt", "patched"))
    assert view.session.patched.effect == pytest.approx((patched - corrupt) / (clean - corrupt), abs=1e-5)
    view.clear()
    assert view.session.patched is None


def test_an_address_brings_everything_back(view, view_model, random_pairs):
    assert view.settings == {}
    patches = [head(view), head(view, 0, 1, (2, 3)), Patch(view.place[0], "mlp", 1, (4,))]
    for patch in patches:
        view.toggle(patch)
    view.choose(direction="noising")
    other = Patching(Session(view_model, random_pairs), hidden=True)
    other.restore(view.settings)
    other.show()
    assert other.patches == patches and other.direction == "noising"
    assert other.outcome.patching_effect == pytest.approx(view.outcome.patching_effect, abs=1e-6)
    other.session.choose(random_pairs["sample_id"].iloc[1])
    assert other.patches == [], "what an address said of one pair lingers on another"


def test_another_view_adds_a_patch(view):
    view.toggle(head(view))
    view.restore({"also": in_address([head(view, 0, 3)])})
    assert view.patches == [head(view), head(view, 0, 3)]
    assert view.canvas.state["waterfall"][-1]["step"] == 2


@pytest.mark.parametrize(
    "text",
    ["x", "text_encoder", "{}.1.99", "{}.99", "{}.1.2@9999", "{}.1.2@x", "{}.1.2@-1", "{}.1.2+x", "output", "{}.1.2,,x",
     "{}.1.2@²", "../../etc.x.1", ",".join(["{}.1.2"] * 61)],
)  # fmt: skip
def test_an_address_that_means_nothing_changes_nothing(view, text):
    view.toggle(head(view))
    text = text.replace("{}", ".".join(view.place))
    with pytest.raises(VlmtraceError):
        view.restore({"patches": text, "direction": "noising"})
    assert view.patches == [head(view)] and view.direction == "denoising"
    assert from_address(view.example, in_address(view.patches)) == view.patches


def test_maps_that_nobody_can_wait_for_are_estimated_and_say_so(model_store, random_pairs, monkeypatch):
    model = model_store.shared("llava")
    exact = shown(Patching(Session(model, random_pairs)))
    assert exact.canvas.state["estimated"] == {"tokens": False, "heads": False}
    monkeypatch.setitem(extent.WAITED_FOR, "cpu", 1.0)
    view = shown(Patching(Session(model, random_pairs)))
    assert view.canvas.state["estimated"] == {"tokens": True, "heads": True}
    tokens, known = view.effects(), exact.effects()
    is_image = tokens["token_role"] == "image"
    assert (tokens["is_estimate"] == is_image).all() and is_image.any()
    np.testing.assert_allclose(tokens["patching_effect"][~is_image], known["patching_effect"][~is_image], atol=1e-4)
    pair, (block, module) = random_pairs.iloc[[0]], view.place
    by_gradient = attribute_modules(model, pair, blocks=[block], modules=[module])
    columns = ["layer", "position"]
    both = tokens[is_image].merge(by_gradient, on=columns)
    assert len(both) == is_image.sum()
    np.testing.assert_allclose(both["patching_effect_x"], both["patching_effect_y"], atol=1e-4)
    of_heads = attribute_heads(model, pair, modules=[module]).groupby(["layer", "head"])["patching_effect"].sum()
    found = view.head_effects().set_index(["layer", "head"])["patching_effect"]
    np.testing.assert_allclose(found, of_heads[found.index].to_numpy(dtype=float), atol=1e-4)
    # The printed figure has words and heads; what is estimated there is said in it.
    said = [" ".join(axes.get_xlabel() for axes in one.figure().axes) for one in (exact, view)]
    assert "estimated" not in said[0] and "this pair alone (n = 1), heads estimated from a gradient" in said[1]
    # What is clicked is exact.
    patch = Patch(block, module, 1, (int(tokens.loc[is_image, "position"].iloc[0]),))
    view.toggle(patch)
    assert view.outcome.patching_effect == pytest.approx(
        intervene(model, random_pairs.iloc[0], [patch]).patching_effect
    )
    marked = view.table["is_estimate"]
    assert marked.dtype == "boolean" and marked.tolist() == [*tokens["is_estimate"], *[True] * len(found), False]
    view.choose(place=("vision_encoder", "residual"))
    assert "n = 1), image tokens" in " ".join(axes.get_xlabel() for axes in view.figure().axes)


def test_a_choice_that_is_refused_changes_nothing(view):
    for choice in ({"place": ("x", "y")}, {"place": (view.place[0], "x")}, {"corruption": "sound"}):
        with pytest.raises(VlmtraceError):
            view.choose(**({"direction": "noising", "place": (view.place[0], "mlp")} | choice))
        assert view.direction == "denoising" and view.place[1] != "mlp"


def test_positions_that_do_not_exist_are_refused(view):
    view.at([3, 2, 3])
    for wrong in ([999], [2, -1]):
        with pytest.raises(VlmtraceError, match=f"There is no position {wrong[-1]} in {view.place[0]}"):
            view.at(wrong)
        assert view.positions == [2, 3]
    assert click(view, do="choose", direction="noising")["positions"] == [2, 3]


def failing_maps(monkeypatch):
    def fail(*_):
        raise VlmtraceError("no maps: choose another")

    monkeypatch.setattr(PairEffects, "by_position", fail)


def test_where_maps_cannot_be_computed_everything_stays(view, monkeypatch):
    view.toggle(head(view))
    before = view.outcome, view.canvas.state, view.settings
    failing_maps(monkeypatch)
    changes = (
        lambda: view.toggle(head(view, 0)),
        lambda: view.choose(direction="noising"),
        lambda: view.keep(True),
        lambda: view.at([1]),
        view.undo,
        view.clear,
        lambda: view.restore({"direction": "noising", "patches": ""}),
    )
    for change in changes:
        with pytest.raises(VlmtraceError, match="no maps"):
            change()
        assert (view.outcome, view.canvas.state, view.settings) == before
        assert view.positions == [] and not view.chosen.keeps
    monkeypatch.undo()
    view.undo()
    assert view.patches == []


def test_an_outcome_is_never_taken_for_that_of_another_pair(view, random_pairs, monkeypatch):
    view.toggle(head(view))
    failing_maps(monkeypatch)
    view.session.choose(random_pairs["sample_id"].iloc[1])
    assert "no maps" in view.frame.error and view.outcome is None


def test_maps_of_another_pair_go_whatever_fails_in_this_one(view, random_pairs, monkeypatch):
    def fail(*_):
        raise MemoryError("no room for maps")

    click(view, do="keep", on=True)
    view.toggle(head(view))
    with monkeypatch.context() as broken:
        broken.setattr(PairEffects, "by_position", fail)
        view.session.choose(random_pairs["sample_id"].iloc[1])
        assert "no room for maps" in view.frame.error
        assert view.canvas.state == {} and view.outcome is None and view.patches == []
    view.session.choose(random_pairs["sample_id"].iloc[2])
    assert not view.frame.error and view.patches == [head(view)]
    assert view.canvas.state["carried"]["name"] == random_pairs["sample_id"].iloc[0]


def test_the_page_goes_back_from_a_choice_that_is_refused(view, monkeypatch):
    before, place = view.canvas.state, view.place
    with monkeypatch.context() as broken:
        failing_maps(broken)
        for choice in ({"direction": "noising"}, {"place": [place[0], "mlp"]}, {"corruption": "sound"}):
            drawn = view.canvas.state
            view._receive(None, {"do": "choose", **choice}, [])
            assert view.frame.error and view.canvas.state != drawn, f"the page still shows {choice}"
            assert {key: view.canvas.state[key] for key in before} == before
    assert "nRefused" not in click(view, do="choose", direction="noising")


def test_where_one_corrupt_run_cannot_be_patched_the_other_is(view_model, random_pairs):
    pairs = random_pairs.head(1).assign(corrupt_image="gone.png")
    view = shown(Patching(Session(view_model, pairs)))
    assert view.canvas.state["corruption"] == "text" and view.effects()["patching_effect"].notna().any()
    view._receive(None, {"do": "choose", "corruption": "image"}, [])
    assert "gone.png does not exist" in view.frame.error and view.canvas.state["corruption"] == "text"
